// What a linear map does ahead of its product, and its gradient: prologue, norm, gain and int8 rounding. One warp a
// row; the row's image is kept in shared memory between the passes.

enum Prologue { IDENTITY, RELU, SWIGLU, RELU2 };

template <class X>
__device__ __forceinline__ float image(const X* x, int i, int ins, int prologue) {
    float f = load(x + i);
    switch (prologue) {
        case IDENTITY: return f;
        case RELU: return fmaxf(f, 0.0f);
        case SWIGLU: return f * sigmoid(f) * load(x + ins + i);
        default: f = fmaxf(f, 0.0f); return f * f * load(x + ins + i);
    }
}

// Gradient of the row's inputs behind element `i`, given that of its image.
template <class X>
__device__ __forceinline__ void image_backward(const X* x, X* dx, int i, int ins, int prologue, float d) {
    float f = load(x + i);
    if (prologue == IDENTITY) return store(dx + i, d);
    if (prologue == RELU) return store(dx + i, f > 0.0f ? d : 0.0f);
    float w = load(x + ins + i);
    if (prologue == SWIGLU) {
        float s = sigmoid(f);
        store(dx + i, d * w * (s * (1.0f + f * (1.0f - s))));
        store(dx + ins + i, d * (f * s));
    } else {
        float r = fmaxf(f, 0.0f);
        store(dx + i, d * w * (2.0f * r));
        store(dx + ins + i, d * (r * r));
    }
}

// How activations are given to the product.
enum Rounding { FLOAT, INTEGER, BLEND };

template <class X>
__device__ void activations(const X* x, const float* gain, bf16* a, float* steps, int rows, int ins, int prologue,
                            float eps, int rounding, float lambda) {
    extern __shared__ float cache[];
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float* h = cache + threadIdx.x / 32 * ins;
    x += (size_t)row * ins * (prologue >= SWIGLU ? 2 : 1);
    a += (size_t)row * ins;
    float squares = 0.0f;
#pragma unroll 4
    for (int i = lane; i < ins; i += 32) {
        float v = image(x, i, ins, prologue);
        h[i] = v;
        squares += v * v;
    }
    float inverse = 1.0f / sqrtf(warp_sum(squares) / ins + eps), most = 0.0f;
    for (int i = lane; i < ins; i += 32) {
        float v = h[i] * inverse * (gain ? gain[i] : 1.0f);
        h[i] = v;
        most = fmaxf(most, fabsf(v));
    }
    if (rounding == FLOAT) {
        for (int i = lane; i < ins; i += 32) store(a + i, h[i]);
        return;
    }
    most = warp_max(most);
    float scale = most > 1e-30f ? 127.0f / most : 0.0f, step = most > 1e-30f ? most / 127.0f : 0.0f;
    for (int i = lane; i < ins; i += 32) {
        float q = round_even(h[i] * scale);
        store(a + i, rounding == INTEGER ? q : blended(h[i], q * step, lambda));
    }
    if (rounding == INTEGER && lane == 0) steps[row] = step;
}

// Given `da [rows, ins]`, the gradient of the activations: writes `dx`, the activations `a` the matrix was multiplied
// with, and for each block its share of the gain's gradient, `partial [blocks, ins]`.
template <class X>
__device__ void activations_backward(const X* x, const float* gain, const bf16* da, X* dx, bf16* a, float* partial,
                                     int rows, int ins, int prologue, float eps, int rounding, float lambda) {
    extern __shared__ float cache[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float *h = cache + warp * ins, *dgain = cache + (warps + warp) * ins;
    int width = ins * (prologue >= SWIGLU ? 2 : 1);
    if (gain)
        for (int i = lane; i < ins; i += 32) dgain[i] = 0.0f;
    for (int row = blockIdx.x * warps + warp; row < rows; row += gridDim.x * warps) {
        const X* xr = x + (size_t)row * width;
        const bf16* dar = da + (size_t)row * ins;
        float squares = 0.0f;
#pragma unroll 4
        for (int i = lane; i < ins; i += 32) {
            float v = image(xr, i, ins, prologue);
            h[i] = v;
            squares += v * v;
        }
        float inverse = 1.0f / sqrtf(warp_sum(squares) / ins + eps), dot = 0.0f, most = 0.0f;
#pragma unroll 4
        for (int i = lane; i < ins; i += 32) {
            float d = load(dar + i), n = h[i] * inverse;
            if (gain) {
                dgain[i] += d * n;
                d *= gain[i];
                n *= gain[i];
            }
            dot += d * h[i];
            most = fmaxf(most, fabsf(n));
        }
        float c = warp_sum(dot) * inverse * inverse * inverse / ins;
        most = warp_max(most);
        float scale = most > 1e-30f ? 127.0f / most : 0.0f, step = most > 1e-30f ? most / 127.0f : 0.0f;
#pragma unroll 4
        for (int i = lane; i < ins; i += 32) {
            float g = gain ? gain[i] : 1.0f, n = h[i] * inverse * g;
            if (rounding != FLOAT) n = blended(n, round_even(n * scale) * step, lambda);
            store(a + (size_t)row * ins + i, n);
            float d = inverse * (load(dar + i) * g) - c * h[i];
            image_backward(xr, dx + (size_t)row * width, i, ins, prologue, d);
        }
    }
    if (!gain) return;
    __syncthreads();
    for (int i = threadIdx.x; i < ins; i += blockDim.x) {
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += cache[(warps + w) * ins + i];
        partial[(size_t)blockIdx.x * ins + i] = sum;
    }
}

#define ROWS(name, X)                                                                                               \
    extern "C" __global__ void activations_##name(const X* x, const float* gain, bf16* a, float* steps, int rows,   \
                                                  int ins, int prologue, float eps, int rounding, float lambda) {   \
        activations(x, gain, a, steps, rows, ins, prologue, eps, rounding, lambda);                                 \
    }                                                                                                               \
    extern "C" __global__ void activations_backward_##name(                                                         \
        const X* x, const float* gain, const bf16* da, X* dx, bf16* a, float* partial, int rows, int ins,           \
        int prologue, float eps, int rounding, float lambda) {                                                      \
        activations_backward(x, gain, da, dx, a, partial, rows, ins, prologue, eps, rounding, lambda);              \
    }
ROWS(f32, float)
ROWS(bf16, bf16)

// Sums of the columns of `parts [count, width]`: 32 columns a block, eight rows at a time, in a fixed order.
extern "C" __global__ void sum_columns(const float* parts, float* sums, int count, int width) {
    __shared__ float partial[8][32];
    int column = blockIdx.x * 32 + threadIdx.x % 32, part = threadIdx.x / 32;
    float sum = 0.0f;
    if (column < width)
        for (int r = part; r < count; r += 8) sum += parts[(size_t)r * width + column];
    partial[part][threadIdx.x % 32] = sum;
    __syncthreads();
    if (part == 0 && column < width) {
        for (int p = 1; p < 8; p++) sum += partial[p][threadIdx.x];
        sums[column] = sum;
    }
}
