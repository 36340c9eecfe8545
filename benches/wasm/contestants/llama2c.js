// llama2.c in fp32, compiled by clang for WASI (llama2c.c).

export async function start({ shape, tokens }) {
  // It needs nothing of the system but to be told that there is nothing.
  const nothing = new Proxy({}, { get: () => () => 8, has: () => true });
  const wasm = await WebAssembly.compileStreaming(fetch("/modules/llama2c.wasm"));
  const names = WebAssembly.Module.imports(wasm).map(({ name }) => [name, nothing[name]]);
  const instance = await WebAssembly.instantiate(wasm, { wasi_snapshot_preview1: Object.fromEntries(names) });
  const { memory, room, begin, step, _initialize } = instance.exports;
  _initialize();
  const model = await (await fetch(`/models/${shape}.bin`)).arrayBuffer();
  const at = room(model.byteLength);
  new Uint8Array(memory.buffer, at, model.byteLength).set(new Uint8Array(model));
  begin(at);
  return {
    decode() {
      let token = 1;
      for (let position = 0; position < tokens; position += 1) token = step(token, position);
    },
  };
}
