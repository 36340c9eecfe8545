// Operations on rows of the residual stream, gained residual and halting logit, one warp a row; and sums over rows.

// Sums of the columns of `parts [count, width]`: 32 columns a block, 32 rows at a time, in a fixed order.
extern "C" __global__ void sum_columns(const float* parts, float* sums, int count, int width) {
    __shared__ float partial[32][33];
    int lane = threadIdx.x % 32, part = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width)
#pragma unroll 8
        for (int r = part; r < count; r += 32) sum += parts[(size_t)r * width + column];
    partial[part][lane] = sum;
    __syncthreads();
    sum = warp_sum(partial[lane][part]);
    if (lane == 0 && blockIdx.x * 32 + part < width) sums[blockIdx.x * 32 + part] = sum;
}

__device__ __forceinline__ float inverse_rms(const float* x, int d, float eps, int lane) {
    float squares = 0.0f;
    for (int i = lane; i < d; i += 32) squares += x[i] * x[i];
    return 1.0f / sqrtf(warp_sum(squares) / d + eps);
}

extern "C" __global__ void gained_residual(const float* base, const float* z, const float* gain, float* y, int rows,
                                           int d, float eps) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    size_t at = (size_t)row * d;
    float inverse = inverse_rms(z + at, d, eps, lane);
    for (int i = lane; i < d; i += 32) y[at + i] = base[at + i] + gain[i] * (z[at + i] * inverse);
}

// Adds up each warp's column sums in `sums [warps, width]` into the block's row of `partial`.
__device__ __forceinline__ void write_partial(const float* sums, float* partial, int warps, int width) {
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += sums[w * width + i];
        partial[(size_t)blockIdx.x * width + i] = sum;
    }
}

// Writes `dz` and for each block its share of the gain's gradient.
extern "C" __global__ void gained_residual_backward(const float* z, const float* gain, const float* grad, float* dz,
                                                    float* partial, int rows, int d, float eps) {
    extern __shared__ float sums[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float* dgain = sums + warp * d;
    for (int i = lane; i < d; i += 32) dgain[i] = 0.0f;
    for (int row = blockIdx.x * warps + warp; row < rows; row += gridDim.x * warps) {
        size_t at = (size_t)row * d;
        float inverse = inverse_rms(z + at, d, eps, lane), dot = 0.0f;
        for (int i = lane; i < d; i += 32) {
            float g = grad[at + i];
            dgain[i] += g * (z[at + i] * inverse);
            dot += g * gain[i] * z[at + i];
        }
        float c = warp_sum(dot) * inverse * inverse * inverse / d;
        for (int i = lane; i < d; i += 32) dz[at + i] = inverse * (grad[at + i] * gain[i]) - c * z[at + i];
    }
    write_partial(sums, partial, warps, d);
}

extern "C" __global__ void halt_logit(const float* y, const float* halt, float* logits, int rows, int d, float eps) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    y += (size_t)row * d;
    float inverse = inverse_rms(y, d, eps, lane), dot = 0.0f;
    for (int i = lane; i < d; i += 32) dot += halt[i] * (y[i] * inverse);
    dot = warp_sum(dot);
    if (lane == 0) logits[row] = dot + halt[d];
}

// Writes `dy` and for each block its share of the head's gradient, `d + 1` wide.
extern "C" __global__ void halt_logit_backward(const float* y, const float* halt, const float* grad, float* dy,
                                               float* partial, int rows, int d, float eps) {
    extern __shared__ float sums[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float* dhalt = sums + warp * (d + 1);
    for (int i = lane; i <= d; i += 32) dhalt[i] = 0.0f;
    __syncwarp();
    for (int row = blockIdx.x * warps + warp; row < rows; row += gridDim.x * warps) {
        size_t at = (size_t)row * d;
        float inverse = inverse_rms(y + at, d, eps, lane), dot = 0.0f, g = grad[row];
        for (int i = lane; i < d; i += 32) {
            dhalt[i] += g * (y[at + i] * inverse);
            dot += g * halt[i] * y[at + i];
        }
        if (lane == 0) dhalt[d] += g;
        float c = warp_sum(dot) * inverse * inverse * inverse / d;
        for (int i = lane; i < d; i += 32) dy[at + i] = inverse * (g * halt[i]) - c * y[at + i];
    }
    write_partial(sums, partial, warps, d + 1);
}
