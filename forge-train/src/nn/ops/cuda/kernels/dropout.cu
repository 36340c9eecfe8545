// Dropout by the hash of an element's place, Philox4x32-10: ops/dropout.rs. A thread masks four neighbours, whose
// words one call of the hash gives.

struct Mask {
    u32 key0, key1, site, part, step, threshold;
    float scale;
};
#define MASK_PARAMETERS u32 key0, u32 key1, u32 site, u32 part, u32 step, u32 threshold, float kept
#define MASK {key0, key1, site, part, step, threshold, kept}

__device__ __forceinline__ void factors(const Mask& m, u32 block, float f[4]) {
    u32 key0 = m.key0, key1 = m.key1;
    uint4 c = make_uint4(block, m.site, m.part, m.step);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 low0 = 0xD2511F53u * c.x, high0 = __umulhi(0xD2511F53u, c.x);
        u32 low1 = 0xCD9E8D57u * c.z, high1 = __umulhi(0xCD9E8D57u, c.z);
        c = make_uint4(high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0);
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    f[0] = c.x >= m.threshold ? m.scale : 0.0f, f[1] = c.y >= m.threshold ? m.scale : 0.0f;
    f[2] = c.z >= m.threshold ? m.scale : 0.0f, f[3] = c.w >= m.threshold ? m.scale : 0.0f;
}

// `mask ⊙ x`, plus `base` where it is given.
template <class X, class Y>
__device__ void dropped(const float* base, const X* x, Y* y, size_t count, Mask mask) {
    size_t block = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (block * 4 >= count) return;
    float f[4];
    factors(mask, (u32)block, f);
    for (size_t at = block * 4; at < count && at < block * 4 + 4; at++)
        store(y + at, (base ? base[at] : 0.0f) + load(x + at) * f[at % 4]);
}

#define DROPPED(name, X, Y)                                                                                         \
    extern "C" __global__ void dropped_##name(const float* base, const X* x, Y* y, size_t count, MASK_PARAMETERS) { \
        dropped(base, x, y, count, MASK);                                                                           \
    }
DROPPED(f32_f32, float, float)
DROPPED(bf16_f32, bf16, float)
DROPPED(f32_bf16, float, bf16)
