// What every kernel file starts with: bf16 without the toolkit's headers (a user's machine has NVRTC, not headers),
// and sums whose order is fixed, so that results do not depend on scheduling. No kernel uses float atomics.

typedef unsigned short bf16;
typedef unsigned char u8;
typedef unsigned int u32;

#define FLOAT_MAX 3.402823466e38f

__device__ __forceinline__ float load(const float* x) { return *x; }
__device__ __forceinline__ float load(const bf16* x) { return __uint_as_float((u32)*x << 16); }

__device__ __forceinline__ bf16 rounded(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ void store(float* y, float x) { *y = x; }
__device__ __forceinline__ void store(bf16* y, float x) { *y = rounded(x); }

// Four neighbours at once; `x` must be aligned to four elements.
__device__ __forceinline__ void load4(const float* x, float v[4]) {
    float4 w = *reinterpret_cast<const float4*>(x);
    v[0] = w.x, v[1] = w.y, v[2] = w.z, v[3] = w.w;
}
__device__ __forceinline__ void load4(const bf16* x, float v[4]) {
    uint2 w = *reinterpret_cast<const uint2*>(x);
    v[0] = __uint_as_float(w.x << 16), v[1] = __uint_as_float(w.x & 0xffff0000u);
    v[2] = __uint_as_float(w.y << 16), v[3] = __uint_as_float(w.y & 0xffff0000u);
}
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
__device__ __forceinline__ void store4(float* y, const float v[4]) {
    *reinterpret_cast<float4*>(y) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store4(bf16* y, const float v[4]) {
    *reinterpret_cast<uint2*>(y) = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

// Sum over the block, the same in every thread.
template <class T>
__device__ T block_sum(T x) {
    __shared__ T parts[32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : T(0));
}
__device__ __forceinline__ float block_max(float x) {
    __shared__ float parts[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : -FLOAT_MAX);
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
// docs/numerics.md, section 1: nearest integer, ties to even.
__device__ __forceinline__ float round_even(float x) { return rintf(x); }
__device__ __forceinline__ float blended(float x, float q, float lambda) {
    return lambda >= 1.0f ? q : x + lambda * (q - x);
}

// `V` neighbours at once, 4 or 1.
template <int V, class X>
__device__ __forceinline__ void read(const X* x, float v[V]) {
    if (V == 4) load4(x, v); else v[0] = load(x);
}
template <int V, class Y>
__device__ __forceinline__ void write(Y* y, const float v[V]) {
    if (V == 4) store4(y, v); else store(y, v[0]);
}
