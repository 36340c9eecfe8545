// WebAssembly computes what every other target computes, to the bit.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Crc32, cases, file, load, replay } from "./support.mjs";

test("the checksum is CRC-32", () => {
  const crc = new Crc32();
  crc.update(new TextEncoder().encode("123456789"));
  assert.equal(crc.hex(), "cbf43926");
});

test("there are cases", () => assert.ok(cases.length >= 10));

for (const { name, prompt, seed, generated, crc } of cases) {
  test(`${name}: logits and tokens of the host`, async () => {
    const forge = await load(file(name));
    // The last token is chosen, not read.
    const result = replay(forge, [...prompt, ...generated.slice(0, -1)]);
    assert.equal(result.crc, crc);
    if (seed === null) assert.deepEqual(result.best.slice(prompt.length - 1), generated);
    assert.equal(replay(await load(file(name), { compact: true }), [...prompt, ...generated.slice(0, -1)]).crc, crc);
    forge.free();
  });
}

test("another prompt gives another checksum", async () => {
  const { name, prompt, generated, crc } = cases.find((c) => c.name === "f32");
  const ids = [prompt[0] ^ 1, ...prompt.slice(1), ...generated.slice(0, -1)];
  assert.notEqual(replay(await load(file(name)), ids).crc, crc);
});
