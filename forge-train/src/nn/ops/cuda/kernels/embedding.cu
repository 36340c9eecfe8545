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

// One block a row of the table. Its places in the batch are `order[start[id]..start[id + 1]]`; each warp adds up every
// eighth of them, and the warps' sums are added in their order.
extern "C" __global__ void embed_backward(const float* master, const bf16* values, const float* scales,
                                          const u32* start, const u32* order, const float* grad, float* de, int d,
                                          float eps, float factor) {
    extern __shared__ float sums[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    size_t id = blockIdx.x;
    u32 from = start[id], to = start[id + 1];
    de += id * d;
    if (from == to) {
        for (int i = threadIdx.x; i < d; i += blockDim.x) de[i] = 0.0f;
        return;
    }
    for (int i = lane; i < d; i += 32) {
        float sum = 0.0f;
#pragma unroll 8
        for (u32 p = from + warp; p < to; p += warps) sum += grad[(size_t)order[p] * d + i];
        sums[warp * d + i] = sum;
    }
    __syncthreads();
    float squares = 0.0f, dot = 0.0f;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float g = 0.0f, e = entry(master, values, scales, id, d, i);
        for (int w = 0; w < warps; w++) g += sums[w * d + i];
        g *= factor;
        sums[i] = g;
        squares += e * e;
        dot += g * e;
    }
    float inverse = 1.0f / sqrtf(block_sum(squares) / d + eps);
    float c = block_sum(dot) * inverse * inverse * inverse / d;
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        de[i] = inverse * sums[i] - c * entry(master, values, scales, id, d, i);
}
