// The forms a matrix is multiplied in, from its f32 master; one warp a row. Codecs as in
// forge_formats::codec::encode: the scale is rounded to f16, the mean of a ternary row is summed in f64.

__device__ __forceinline__ float f16_saturating(float x) {
    float y;
    bf16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(fminf(x, 65504.0f)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(h));
    return y;
}

// `values`: integers; `scales`: one a row; `effective`: `w + lambda (value · scale − w)`, what gradients flow through.
extern "C" __global__ void quantise_rows(const float* w, bf16* values, float* scales, bf16* effective, int rows,
                                         int cols, int ternary, float lambda) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    size_t at = (size_t)row * cols;
    double sum = 0.0;
    float most = 0.0f;
#pragma unroll 4
    for (int i = lane; i < cols; i += 32) {
        float v = fabsf(w[at + i]);
        sum += v;
        most = fmaxf(most, v);
    }
    float limit = ternary ? 1.0f : 127.0f;
    float scale = f16_saturating(ternary ? (float)(warp_sum(sum) / cols) : warp_max(most) / 127.0f);
#pragma unroll 4
    for (int i = lane; i < cols; i += 32) {
        float v = w[at + i];
        float q = scale == 0.0f ? 0.0f : round_even(fminf(fmaxf(v / scale, -limit), limit));
        store(values + at + i, q);
        store(effective + at + i, blended(v, q * scale, lambda));
    }
    if (lane == 0) scales[row] = scale;
}
