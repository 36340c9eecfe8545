// What the tests share: the build they load, golden files, and the checksum of a replay.

import { readFileSync } from "node:fs";
import * as package_ from "../forge.js";

/** The build under test: that of FORGE_BUILD, else the best that this Node knows. */
export const build = process.env.FORGE_BUILD ?? package_.builds()[0];

/** The package's `load`, with the build under test. */
export const load = (source, options) => package_.load(source, { build, ...options });

const folder = new URL("../../tests/golden/", import.meta.url);

export const file = (name) => new Uint8Array(readFileSync(new URL(`${name}.forge`, folder)));

/** The lines of golden.tsv. */
export const cases = readFileSync(new URL("golden.tsv", folder), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => {
    const [name, prompt, seed, generated, crc] = line.split("\t");
    const ids = (text) => text.split(",").map(Number);
    return { name, prompt: ids(prompt), seed: seed === "-" ? null : BigInt(seed), generated: ids(generated), crc };
  });

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 as in zip, of bytes that come in parts. */
export class Crc32 {
  #crc = 0xffffffff;

  update(bytes) {
    for (const byte of bytes) this.#crc = (this.#crc >>> 8) ^ table[(this.#crc ^ byte) & 0xff];
  }

  hex() {
    return (~this.#crc >>> 0).toString(16).padStart(8, "0");
  }
}

/** Steps a model through ids; returns the CRC-32 of logits and recursions, as tests/src/replay.rs has it. */
export function replay(forge, ids) {
  const session = forge.session();
  const crc = new Crc32();
  const best = [];
  for (const id of ids) {
    const logits = session.step(id);
    crc.update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
    crc.update([session.recursions]);
    best.push(logits.indexOf(Math.max(...logits)));
  }
  session.free();
  return { crc: crc.hex(), best };
}

export async function collect(pieces) {
  const out = [];
  for await (const piece of pieces) out.push(piece);
  return out;
}
