// Runs .forge models in browsers, workers and Node. The types and their documentation are in forge.d.ts.

import init, { Constrained, Forge as RawForge, Options, Thoughts } from "./pkg/forge_wasm.js";

/** Longest stretch of computing before other tasks get a turn, in milliseconds. */
const SLICE_MS = 8;

/** The modules of this package, the best first, each with one that engines know if they know all its instructions. */
const BUILDS = {
  relaxed: {
    url: () => new URL("./pkg/forge_wasm_relaxed.wasm", import.meta.url),
    // A function of one i32x4.relaxed_dot_i8x16_i7x16_add_s.
    probe: [65, 0, 253, 15, 65, 0, 253, 15, 65, 0, 253, 15, 253, 147, 2],
  },
  simd128: {
    url: () => new URL("./pkg/forge_wasm_simd128.wasm", import.meta.url),
    // A function of one i32x4.dot_i16x8_s.
    probe: [65, 0, 253, 15, 65, 0, 253, 15, 253, 186, 1],
  },
  plain: { url: () => new URL("./pkg/forge_wasm_bg.wasm", import.meta.url), probe: undefined },
};

/** Whether the engine knows the instructions of a function that returns a v128. */
function knows(probe) {
  const code = [10, probe.length + 4, 1, probe.length + 2, 0, ...probe, 11];
  return WebAssembly.validate(Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, ...code]));
}

export function builds() {
  return Object.keys(BUILDS).filter((name) => !BUILDS[name].probe || knows(BUILDS[name].probe));
}

let ready;

/** Compiles and starts the WebAssembly module, once for all models. */
function initialise(wasm, build) {
  ready ??= start(wasm, build).catch((error) => {
    ready = undefined;
    throw error;
  });
  return ready;
}

async function start(wasm, build = builds()[0]) {
  if (wasm === undefined) {
    if (!BUILDS[build]) throw new TypeError(`no build is called ${build}; there are ${Object.keys(BUILDS).join(", ")}`);
    wasm = BUILDS[build].url();
    if (globalThis.process?.versions?.node) {
      const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises");
      wasm = await readFile(wasm);
    }
  }
  await init({ module_or_path: wasm });
}

export async function load(source, { wasm, build, compact = false, signal, onProgress } = {}) {
  const [bytes] = await Promise.all([modelBytes(await source, signal, onProgress), initialise(wasm, build)]);
  return new Forge(new RawForge(bytes, compact));
}

/** The bytes of a model given as bytes, a Blob, a Response, a URL or a URL's text. */
async function modelBytes(source, signal, onProgress) {
  if (source instanceof Uint8Array) return source;
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (typeof Blob !== "undefined" && source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  if (typeof source === "string" || source instanceof URL) {
    const url = new URL(source, globalThis.document?.baseURI ?? globalThis.location?.href);
    if (url.protocol === "file:" && globalThis.process?.versions?.node) {
      const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises");
      return readFile(url, { signal });
    }
    source = await fetch(url, { signal });
  }
  if (typeof Response !== "undefined" && source instanceof Response) return responseBytes(source, onProgress);
  throw new TypeError("a model is loaded from bytes, a Blob, a Response or a URL");
}

async function responseBytes(response, onProgress) {
  if (!response.ok) throw new Error(`cannot load the model: ${response.status} ${response.statusText} (${response.url})`);
  if (!onProgress || !response.body) return new Uint8Array(await response.arrayBuffer());
  const total = Number(response.headers.get("content-length")) || undefined;
  const chunks = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    loaded += part.value.length;
    onProgress({ loaded, total });
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** Lets other tasks run: timers, events, the abort signal's. setTimeout would cost 4 ms each time. */
function yieldToOthers() {
  if (globalThis.scheduler?.yield) return globalThis.scheduler.yield();
  if (globalThis.setImmediate) return new Promise((resolve) => setImmediate(resolve));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}

function rawOptions(given = {}) {
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, plain } = given;
  const { constrained, think, thoughts } = given;
  const options = new Options();
  if (maxTokens !== undefined) options.max_tokens = maxTokens;
  if (temperature !== undefined) options.temperature = temperature;
  if (topK !== undefined) options.top_k = topK;
  if (topP !== undefined) options.top_p = topP;
  if (minP !== undefined) options.min_p = minP;
  if (repetitionPenalty !== undefined) options.repetition_penalty = repetitionPenalty;
  if (seed !== undefined) options.seed = BigInt.asUintN(64, BigInt(seed));
  if (plain !== undefined) options.plain = plain;
  if (constrained !== undefined) {
    const held = { auto: Constrained.Auto, call: Constrained.Call, off: Constrained.Off }[constrained];
    if (held === undefined) throw new TypeError("`constrained` is auto, call or off");
    options.constrained = held;
  }
  if (think !== undefined) {
    if (!(think >= 0)) throw new TypeError("`think` is a number of tokens");
    options.think = Math.min(think, 0xffffffff);
  }
  if (thoughts !== undefined) {
    const shown = { shown: Thoughts.Shown, hidden: Thoughts.Hidden }[thoughts];
    if (shown === undefined) throw new TypeError("`thoughts` are shown or hidden");
    options.thoughts = shown;
  }
  return options;
}

/** Steps a generation to its end, letting others run in between. */
async function* run(generation, signal) {
  let turn = performance.now();
  const breathe = async () => {
    if (performance.now() - turn >= SLICE_MS) {
      await yieldToOthers();
      turn = performance.now();
    }
    signal?.throwIfAborted();
  };
  signal?.throwIfAborted();
  while (generation.feed()) await breathe();
  for (let text = generation.next(); text !== undefined; text = generation.next()) {
    if (!generation.hidden || text !== "") yield { kind: generation.kind, token: generation.token, text };
    await breathe();
  }
}

export class Forge {
  #raw;

  /** Use `load`. */
  constructor(raw) {
    this.#raw = raw;
  }

  #model() {
    if (!this.#raw) throw new Error("this model has been freed");
    return this.#raw;
  }

  info() {
    const info = JSON.parse(this.#model().info());
    return { ...info, card: info.card === "" ? null : JSON.parse(info.card) };
  }

  session() {
    return this.#model().session();
  }

  start(prompt, options = {}) {
    const raw = rawOptions(options);
    try {
      return this.#model().start(prompt, options.system, raw);
    } finally {
      raw.free();
    }
  }

  async *pieces(prompt, options = {}) {
    const generation = this.start(prompt, options);
    try {
      yield* run(generation, options.signal);
    } finally {
      generation.free();
    }
  }

  async *generate(prompt, options = {}) {
    const generation = this.start(prompt, options);
    try {
      let held;
      for await (const { kind, text } of run(generation, options.signal)) {
        if (kind === "tool") held ??= "";
        if (held !== undefined) held += text;
        else if (text !== "") yield text;
      }
      if (held !== undefined) yield generation.call() ?? held;
    } finally {
      generation.free();
    }
  }

  async call(prompt, options = {}) {
    const generation = this.start(prompt, options);
    try {
      for await (const { kind } of run(generation, options.signal)) {
        if (generation.count === 1 && kind !== "tool") return null;
      }
      const call = generation.call();
      return call === undefined ? null : JSON.parse(call);
    } finally {
      generation.free();
    }
  }

  free() {
    this.#raw?.free();
    this.#raw = undefined;
  }
}

if (Symbol.dispose) Forge.prototype[Symbol.dispose] = Forge.prototype.free;
