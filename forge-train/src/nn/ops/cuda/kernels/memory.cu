// The memory's scan and the element-wise operations around it.

// One thread a channel of a sequence, forwards in time: `M += sigmoid(r + bias) (v − M)`.
extern "C" __global__ void scan(const bf16* vr, const float* bias, bf16* states, int sequences, int cols, int m) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= sequences * m) return;
    int sequence = at / m, i = at % m;
    vr += (size_t)sequence * cols * 2 * m + i;
    states += (size_t)sequence * cols * m + i;
    float state = 0.0f, b = bias[i];
#pragma unroll 4
    for (int t = 0; t < cols; t++) {
        float v = load(vr + (size_t)t * 2 * m), r = load(vr + (size_t)t * 2 * m + m);
        state += sigmoid(r + b) * (v - state);
        store(states + (size_t)t * m, state);
    }
}

// Backwards in time; `partial [sequences, m]` is each sequence's share of the bias's gradient.
extern "C" __global__ void scan_backward(const bf16* vr, const float* bias, const bf16* states, const bf16* grad,
                                         bf16* dvr, float* partial, int sequences, int cols, int m) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= sequences * m) return;
    int sequence = at / m, i = at % m;
    size_t wide = (size_t)sequence * cols * 2 * m + i, narrow = (size_t)sequence * cols * m + i;
    float carried = 0.0f, dbias = 0.0f, b = bias[i];
#pragma unroll 4
    for (int t = cols - 1; t >= 0; t--) {
        size_t w = wide + (size_t)t * 2 * m, n = narrow + (size_t)t * m;
        float previous = t ? load(states + n - m) : 0.0f;
        float v = load(vr + w), rate = sigmoid(load(vr + w + m) + b), d = load(grad + n) + carried;
        float dr = d * (v - previous) * (rate * (1.0f - rate));
        store(dvr + w, d * rate);
        store(dvr + w + m, dr);
        dbias += dr;
        carried = d * (1.0f - rate);
    }
    partial[at] = dbias;
}

// `m + sigmoid(x) (o − m)`.
extern "C" __global__ void gate_blend(const bf16* o, const bf16* m, const bf16* x, bf16* y, size_t count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float mi = load(m + i);
    store(y + i, mi + sigmoid(load(x + i)) * (load(o + i) - mi));
}
extern "C" __global__ void gate_blend_backward(const bf16* o, const bf16* m, const bf16* x, const bf16* grad, bf16* d_o,
                                               bf16* d_m, bf16* d_x, size_t count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float g = sigmoid(load(x + i)), d = load(grad + i);
    store(d_o + i, d * g);
    store(d_m + i, d * (1.0f - g));
    store(d_x + i, d * (load(o + i) - load(m + i)) * (g * (1.0f - g)));
}

// `a ‖ b` row by row, and its gradient.
extern "C" __global__ void concat(const bf16* a, const bf16* b, bf16* y, size_t count, int d) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    size_t row = i / d, column = i % d;
    y[row * 2 * d + column] = a[i];
    y[row * 2 * d + d + column] = b[i];
}
extern "C" __global__ void concat_backward(const bf16* grad, bf16* da, bf16* db, size_t count, int d) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    size_t row = i / d, column = i % d;
    da[i] = grad[row * 2 * d + column];
    db[i] = grad[row * 2 * d + d + column];
}

// Columns from `from` on of halted rows come from `earlier`, everything else from `newer`.
template <class T>
__device__ void carry(const T* newer, const T* earlier, const u8* halted, T* y, size_t count, int d, int from) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = halted[i / d] && (int)(i % d) >= from ? earlier[i] : newer[i];
}
template <class T>
__device__ void carry_backward(const T* grad, const u8* halted, T* newer, T* earlier, size_t count, int d, int from) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    bool carried = halted[i / d] && (int)(i % d) >= from;
    newer[i] = carried ? T(0) : grad[i];
    earlier[i] = carried ? grad[i] : T(0);
}
#define CARRY(name, T)                                                                                              \
    extern "C" __global__ void carry_##name(const T* newer, const T* earlier, const u8* halted, T* y, size_t count, \
                                            int d, int from) {                                                      \
        carry(newer, earlier, halted, y, count, d, from);                                                           \
    }                                                                                                               \
    extern "C" __global__ void carry_backward_##name(const T* grad, const u8* halted, T* newer, T* earlier,         \
                                                     size_t count, int d, int from) {                               \
        carry_backward(grad, halted, newer, earlier, count, d, from);                                               \
    }
CARRY(f32, float)
CARRY(bf16, bf16)
