// onnxruntime-web, fp32 on its CPU backend, one thread (onnx_model.py).

import * as ort from "/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const SHAPES = { "25M": { layers: 8, heads: 8, width: 64 }, "2M": { layers: 6, heads: 6, width: 32 } };

export async function start({ shape, tokens }) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
  const session = await ort.InferenceSession.create(`/models/${shape}.onnx`, { executionProviders: ["wasm"] });
  const { layers, heads, width } = SHAPES[shape];
  const none = new ort.Tensor("float32", new Float32Array(0), [1, heads, 0, width]);
  const empty = () => Object.fromEntries(Array.from({ length: layers }, (_, l) => [[`key${l}`, none], [`value${l}`, none]]).flat());

  /** Reads ids after `past` positions, of which `caches` holds keys and values; returns the outputs. */
  async function step(ids, past, caches) {
    const total = past + ids.length;
    const feeds = {
      ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      last: new ort.Tensor("int32", Int32Array.of(total - 1), [1]),
      total: new ort.Tensor("int32", Int32Array.of(total), []),
    };
    for (let l = 0; l < layers; l += 1) {
      feeds[`past_key${l}`] = caches[`key${l}`];
      feeds[`past_value${l}`] = caches[`value${l}`];
    }
    return session.run(feeds);
  }

  return {
    async decode() {
      let [token, caches] = [1, empty()];
      for (let position = 0; position < tokens; position += 1) {
        caches = await step([token], position, caches);
        const logits = caches.logits.data;
        let best = 0;
        for (let id = 1; id < logits.length; id += 1) if (logits[id] > logits[best]) best = id;
        token = best;
      }
    },
    async prefill() {
      await step(Array.from({ length: tokens }, (_, i) => (i * 97 + 11) % 2000), 0, empty());
    },
  };
}
