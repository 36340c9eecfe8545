// forge-wasm: token ids in, logits out, the likeliest taken.

import { load } from "/forge-wasm/forge.js";

export async function start({ build, shape, tokens }) {
  const forge = await load(`/models/${shape}.forge`, { build });
  const { kernels, vocab } = forge.info();
  const session = forge.session();
  const prompt = Uint16Array.from({ length: tokens }, (_, i) => (i * 97 + 11) % vocab);
  return {
    about: kernels,
    decode() {
      session.reset();
      let token = 1;
      for (let i = 0; i < tokens; i += 1) {
        const logits = session.step(token);
        let best = 0;
        for (let id = 1; id < logits.length; id += 1) if (logits[id] > logits[best]) best = id;
        token = best;
      }
    },
    prefill() {
      session.reset();
      session.prefill(prompt);
    },
  };
}
