// wllama (llama.cpp): its single-thread module; tokens are decoded one by one, without sampling.

import { Wllama } from "/node_modules/@wllama/wllama/esm/index.js";

export async function start({ type, shape, tokens }) {
  const wasm = (kind) => `/node_modules/@wllama/wllama/esm/${kind}/wllama.wasm`;
  const quiet = { debug() {}, log() {}, warn() {}, error: console.error };
  const paths = { "single-thread/wllama.wasm": wasm("single-thread"), "multi-thread/wllama.wasm": wasm("multi-thread") };
  const wllama = new Wllama(paths, { logger: quiet });
  const model = await (await fetch(`/models/${shape}-${type}.gguf`)).blob();
  await wllama.loadModel([model], { n_ctx: 256, n_threads: 1, n_batch: 256 });
  const prompt = Array.from({ length: tokens }, (_, i) => 300 + ((i * 97) % 1500));
  return {
    async decode() {
      await wllama.kvClear();
      for (const token of prompt) await wllama.decode([token], {});
    },
    async prefill() {
      await wllama.kvClear();
      await wllama.decode(prompt, {});
    },
  };
}
