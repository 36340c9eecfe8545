// What becomes of a product, and the rounding of what enters one. `V` neighbours a thread.

// `acc · (step · scale) + residual`; steps and scales are given for integer sums, the residual where there is one.
template <int V, class Y>
__device__ void finish(const float* acc, const float* steps, const float* scales, const float* residual, Y* y,
                       size_t count, int outs) {
    size_t at = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= count) return;
    float v[V], r[V] = {};
    read<V>(acc + at, v);
    if (residual) read<V>(residual + at, r);
    if (steps) {
        float step = steps[at / outs], scale[V];
        read<V>(scales + at % outs, scale);
        for (int k = 0; k < V; k++) v[k] *= step * scale[k];
    }
    for (int k = 0; k < V; k++) v[k] += r[k];
    write<V>(y + at, v);
}

#define FINISH(name, Y, V)                                                                                          \
    extern "C" __global__ void finish_##name(const float* acc, const float* steps, const float* scales,             \
                                             const float* residual, Y* y, size_t count, int outs) {                 \
        finish<V>(acc, steps, scales, residual, y, count, outs);                                                    \
    }
FINISH(f32, float, 1)
FINISH(f32_4, float, 4)
FINISH(bf16, bf16, 1)
FINISH(bf16_4, bf16, 4)

extern "C" __global__ void round_bf16(const float* x, bf16* y, size_t count) {
    size_t at = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at + 4 <= count) {
        float v[4];
        load4(x + at, v);
        store4(y + at, v);
    } else {
        for (; at < count; at++) store(y + at, x[at]);
    }
}
