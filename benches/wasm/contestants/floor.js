// The floor: the products of all weights of a token, and nothing else (wlimits.c).

const SHAPES = { "25M": [512, 1408, 8, 8192], "2M": [192, 512, 6, 2048] };

export async function start({ kind, shape, tokens }) {
  const response = await fetch(`/modules/wlimits-${kind}.wasm`);
  const { instance } = await WebAssembly.instantiate(await response.arrayBuffer());
  const { init, pass } = instance.exports;
  init();
  const [width, ffn, layers, vocab] = SHAPES[shape];
  const run = (vocab) => {
    for (let i = 0; i < tokens; i += 1) pass(width, ffn, layers, vocab);
  };
  return { decode: () => run(vocab), prefill: () => run(0) };
}
