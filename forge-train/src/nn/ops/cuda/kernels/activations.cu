// What a linear map does ahead of its product, and its gradient: prologue, norm, gain and int8 rounding. One warp a
// row; the row's image is kept in shared memory between the passes. Compiled for each kind of row that a model has:
// BF16 says whether rows are bf16 or f32, PROLOGUE what they go through first, VECTOR (4 or 1) how many neighbours a
// lane takes at once. Specialised so, the gated activation runs three times as fast as with these chosen at run time.

#if BF16
typedef bf16 Row;
#else
typedef float Row;
#endif

#define IDENTITY 0
#define RELU 1
#define SWIGLU 2
#define RELU2 3
#define GATED (PROLOGUE >= SWIGLU)
#define V VECTOR

// Elements of a row that a lane takes, `V` at a time.
#define EACH(i) for (int i = threadIdx.x % 32 * V; i < ins; i += 32 * V)

__device__ __forceinline__ void image(const Row* x, int i, int ins, float h[V]) {
    float w[V];
    read<V>(x + i, h);
    if (GATED) read<V>(x + ins + i, w);
    for (int k = 0; k < V; k++) {
        if (PROLOGUE == SWIGLU) h[k] *= sigmoid(h[k]) * w[k];
        if (PROLOGUE == RELU || PROLOGUE == RELU2) h[k] = fmaxf(h[k], 0.0f);
        if (PROLOGUE == RELU2) h[k] *= h[k] * w[k];
    }
}

// Gradient of the row's inputs behind elements `i..i + V`, given that of its image.
__device__ __forceinline__ void image_backward(const Row* x, Row* dx, int i, int ins, float d[V]) {
    if (PROLOGUE == IDENTITY) return write<V>(dx + i, d);
    float f[V], w[V], dw[V];
    read<V>(x + i, f);
    if (GATED) read<V>(x + ins + i, w);
    for (int k = 0; k < V; k++) {
        if (PROLOGUE == SWIGLU) {
            float s = sigmoid(f[k]);
            dw[k] = d[k] * (f[k] * s);
            d[k] *= w[k] * (s * (1.0f + f[k] * (1.0f - s)));
        } else if (PROLOGUE == RELU2) {
            float r = fmaxf(f[k], 0.0f);
            dw[k] = d[k] * (r * r);
            d[k] *= w[k] * (2.0f * r);
        } else {
            d[k] = f[k] > 0.0f ? d[k] : 0.0f;
        }
    }
    write<V>(dx + i, d);
    if (GATED) write<V>(dx + ins + i, dw);
}

// How activations are given to the product.
enum Rounding { FLOAT, INTEGER, BLEND };

// Scale and step of a row's int8 rounding: both 0 for a row without magnitude.
struct Grid {
    float scale, step;
};
__device__ __forceinline__ Grid int8_grid(float most) {
    return most > 1e-30f ? Grid{127.0f / most, most / 127.0f} : Grid{0.0f, 0.0f};
}

// Keeps the row's image in `h` and returns 1 / sqrt(mean square + eps).
__device__ __forceinline__ float keep_image(const Row* x, float* h, int ins, float eps) {
    float squares = 0.0f;
#pragma unroll 4
    EACH(i) {
        float v[V];
        image(x, i, ins, v);
        for (int k = 0; k < V; k++) squares += v[k] * v[k];
        write<V>(h + i, v);
    }
    return 1.0f / sqrtf(warp_sum(squares) / ins + eps);
}

extern "C" __global__ void activations(const Row* x, const float* gain, bf16* a, float* steps, int rows, int ins,
                                       float eps, int rounding, float lambda) {
    extern __shared__ float4 cache[];
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float* h = (float*)cache + threadIdx.x / 32 * ins;
    a += (size_t)row * ins;
    float inverse = keep_image(x + (size_t)row * ins * (GATED ? 2 : 1), h, ins, eps), most = 0.0f;
    EACH(i) {
        float v[V], g[V];
        read<V>(h + i, v);
        if (gain) read<V>(gain + i, g);
        for (int k = 0; k < V; k++) {
            v[k] *= inverse * (gain ? g[k] : 1.0f);
            most = fmaxf(most, fabsf(v[k]));
        }
        write<V>(h + i, v);
    }
    most = warp_max(most);
    Grid grid = int8_grid(most);
    EACH(i) {
        float v[V];
        read<V>(h + i, v);
        for (int k = 0; k < V; k++) {
            float q = round_even(v[k] * grid.scale);
            if (rounding == INTEGER) v[k] = q;
            if (rounding == BLEND) v[k] = blended(v[k], q * grid.step, lambda);
        }
        write<V>(a + i, v);
    }
    if (rounding == INTEGER && threadIdx.x % 32 == 0) steps[row] = grid.step;
}

// Given `da [rows, ins]`, the gradient of the activations: writes `dx`, added to `base` where that is given (rows that
// go through no prologue only), the activations `a` the matrix was multiplied with, and for each block its share of the gain's gradient, `partial [blocks, ins]`.
extern "C" __global__ void activations_backward(const Row* x, const float* gain, const bf16* da, const Row* base, Row* dx,
                                                bf16* a, float* partial, int rows, int ins, float eps, int rounding,
                                                float lambda) {
    extern __shared__ float4 cache[];
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, width = ins * (GATED ? 2 : 1);
    float *h = (float*)cache + warp * ins, *dgains = (float*)cache + warps * ins, *dgain = dgains + warp * ins;
    if (gain) EACH(i) for (int k = 0; k < V; k++) dgain[i + k] = 0.0f;
    for (int row = blockIdx.x * warps + warp; row < rows; row += gridDim.x * warps) {
        const Row* xr = x + (size_t)row * width;
        const bf16* dar = da + (size_t)row * ins;
        float inverse = keep_image(xr, h, ins, eps), dot = 0.0f, most = 0.0f;
#pragma unroll 4
        EACH(i) {
            float v[V], d[V], g[V], sum[V];
            read<V>(h + i, v);
            read<V>(dar + i, d);
            if (gain) read<V>(gain + i, g), read<V>(dgain + i, sum);
            for (int k = 0; k < V; k++) {
                float n = v[k] * inverse;
                if (gain) {
                    sum[k] += d[k] * n;
                    d[k] *= g[k];
                    n *= g[k];
                }
                dot += d[k] * v[k];
                most = fmaxf(most, fabsf(n));
            }
            if (gain) write<V>(dgain + i, sum);
        }
        float c = warp_sum(dot) * inverse * inverse * inverse / ins;
        Grid grid = int8_grid(warp_max(most));
#pragma unroll 4
        EACH(i) {
            float v[V], d[V], g[V], n[V];
            read<V>(h + i, v);
            read<V>(dar + i, d);
            if (gain) read<V>(gain + i, g);
            for (int k = 0; k < V; k++) {
                float by = inverse * (gain ? g[k] : 1.0f);
                n[k] = v[k] * by;
                if (rounding != FLOAT) n[k] = blended(n[k], round_even(n[k] * grid.scale) * grid.step, lambda);
                d[k] = d[k] * by - c * v[k];
            }
            write<V>(a + (size_t)row * ins + i, n);
            if (PROLOGUE == IDENTITY && base) {
                float b[V];
                read<V>(base + (size_t)row * ins + i, b);
                for (int k = 0; k < V; k++) d[k] += b[k];
            }
            image_backward(xr, dx + (size_t)row * width, i, ins, d);
        }
    }
    if (!gain) return;
    __syncthreads();
    for (int i = threadIdx.x; i < ins; i += blockDim.x) {
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += dgains[w * ins + i];
        partial[(size_t)blockIdx.x * ins + i] = sum;
    }
}
