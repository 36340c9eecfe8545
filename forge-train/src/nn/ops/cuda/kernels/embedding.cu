// Embedding followed by the norm without gain. A row of the table is `value · scale`, or the f32 master when the table
// is not quantised.

__device__ __forceinline__ float entry(const float* master, const bf16* values, const float* scales, size_t row, int d,
                                       int i) {
    return values ? load(values + row * d + i) * scales[row] : master[row * d + i];
}

// One warp a token.
extern "C" __global__ void embed(const float* master, const bf16* values, const float* scales, const u32* ids, float* y,
                                 int tokens, int d, float eps) {
    int lane = threadIdx.x % 32, token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (token >= tokens) return;
    u32 id = ids[token];
    float squares = 0.0f;
    for (int i = lane; i < d; i += 32) {
        float v = entry(master, values, scales, id, d, i);
        squares += v * v;
    }
    float inverse = 1.0f / sqrtf(warp_sum(squares) / d + eps);
    y += (size_t)token * d;
    for (int i = lane; i < d; i += 32) y[i] = entry(master, values, scales, id, d, i) * inverse;
}

// Sums of `grad` over the places of one row of the table, a chunk of them a block: `order[from[c]..from[c + 1]]`.
// Frequent tokens have many chunks, so that no block is longer than the others.
extern "C" __global__ void sum_places(const u32* from, const u32* order, const float* grad, float* sums, int d) {
    u32 begin = from[blockIdx.x], end = from[blockIdx.x + 1];
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = 0.0f;
#pragma unroll 8
        for (u32 p = begin; p < end; p++) sum += grad[(size_t)order[p] * d + i];
        sums[(size_t)blockIdx.x * d + i] = sum;
    }
}

// Gradient of the table, one warp a row, from the sums of its chunks `first[row]..first[row + 1]` in their order.
extern "C" __global__ void embed_backward(const float* master, const bf16* values, const float* scales,
                                          const u32* first, const float* sums, float* de, int rows, int d, float eps,
                                          float factor) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    u32 begin = first[row], end = first[row + 1];
    de += (size_t)row * d;
    float squares = 0.0f, dot = 0.0f;
    for (int i = lane; i < d; i += 32) {
        float g = 0.0f, e = entry(master, values, scales, row, d, i);
        for (u32 c = begin; c < end; c++) g += sums[(size_t)c * d + i];
        g *= factor;
        de[i] = g;
        squares += e * e;
        dot += g * e;
    }
    if (begin == end) return;
    float inverse = 1.0f / sqrtf(warp_sum(squares) / d + eps);
    float c = warp_sum(dot) * inverse * inverse * inverse / d;
    for (int i = lane; i < d; i += 32) de[i] = inverse * de[i] - c * entry(master, values, scales, row, d, i);
}
