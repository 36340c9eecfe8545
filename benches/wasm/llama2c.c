// llama2.c for the browser: its run.c, included from where LLAMA2C points, with its model read from memory.
//
//   clang --target=wasm32-wasi -O3 -ffast-math -msimd128 -mexec-model=reactor -DTESTING -D_WASI_EMULATED_MMAN
//     -D_WASI_EMULATED_PROCESS_CLOCKS -lwasi-emulated-mman -I LLAMA2C -o llama2c.wasm llama2c.c
#include "run.c"

static Transformer model;

// Memory for the model file.
void* room(int bytes) { return malloc(bytes); }

// Takes the model at `data` into use; returns the number of token ids.
int begin(float* data) {
  memcpy(&model.config, data, sizeof(Config));
  memory_map_weights(&model.weights, &model.config, data + sizeof(Config) / sizeof(float), 1);
  malloc_run_state(&model.state, &model.config);
  return model.config.vocab_size;
}

// Reads a token; returns the likeliest next.
int step(int token, int position) {
  return sample_argmax(forward(&model, token, position), model.config.vocab_size);
}
