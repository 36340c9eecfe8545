// Causal sliding-window attention, to global positions beyond the window too, over fused query-key-value rows with rotary
// positions and grouped heads, by tiles of 64 queries and 64 keys, which are neighbours or global positions, in shared
// memory (FlashAttention-2, Dao 2023, arXiv 2307.08691) on the tensor cores:
// bf16 operands, f32 sums, softmax in f32. Compiled once a head width with HEAD defined. Four warps a block; a warp owns
// 16 rows of the tile. Gradients of keys and values are gathered by the block that owns the keys, so nothing is added
// atomically.

#define TILE 64
#define WIDTH ((HEAD + 15) / 16 * 16)  // channels, padded to the matrix unit's depth
#define STRIDE (WIDTH + 8)             // of a tile's row in shared memory: no bank conflicts
#define STEPS (WIDTH / 16)
#define PAIRS (HEAD / 2)
#define PADDING (WIDTH > HEAD ? WIDTH - HEAD : 1)  // at least 1: it divides

struct Shape {
    int cols, heads, kv_heads, window;
    int every, rows;  // of global positions; every = 0 for none
    float scale;
};

#define SHAPE_PARAMETERS                                                                                               \
    int cols, int heads, int kv_heads, int window, int every, int globals, float scale_of_scores
#define SHAPE Shape s = {cols, heads, kv_heads, window, every, globals, scale_of_scores};

struct Tables {
    const float *cos, *sin;
};

// --- fragments of mma.m16n8k16 ---

__device__ __forceinline__ u32 shared_address(const bf16* p) { return (u32)__cvta_generic_to_shared(p); }

// A 16 × 16 operand, rows at `at`.
__device__ __forceinline__ void load_a(u32 a[4], const bf16* at) {
    int lane = threadIdx.x % 32;
    u32 p = shared_address(at + lane % 16 * STRIDE + lane / 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(p));
}
// Two 16 × 8 operands whose columns are 16 consecutive rows at `at`: `b[0..2]` and `b[2..4]`.
__device__ __forceinline__ void load_b(u32 b[4], const bf16* at) {
    int lane = threadIdx.x % 32;
    u32 p = shared_address(at + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(p));
}
// Two 16 × 8 operands whose rows are 16 consecutive rows at `at`, the second eight columns on.
__device__ __forceinline__ void load_b_rows(u32 b[4], const bf16* at) {
    int lane = threadIdx.x % 32;
    u32 p = shared_address(at + lane % 16 * STRIDE + lane / 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(p));
}
__device__ __forceinline__ void mma(float c[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Columns `16 k..16 k + 16` of a warp's 16 × 64 sums as an operand.
__device__ __forceinline__ void as_a(u32 a[4], const float c[8][4], int k) {
    a[0] = pack(c[2 * k][0], c[2 * k][1]), a[1] = pack(c[2 * k][2], c[2 * k][3]);
    a[2] = pack(c[2 * k + 1][0], c[2 * k + 1][1]), a[3] = pack(c[2 * k + 1][2], c[2 * k + 1][3]);
}
// c [16, 64] = a [16, WIDTH] · rowsᵀ of a tile.
__device__ __forceinline__ void times_transposed(float c[8][4], const u32 a[STEPS][4], const bf16* tile) {
    for (int j = 0; j < 8; j++) c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j += 2)
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            u32 b[4];
            load_b(b, tile + j * 8 * STRIDE + k * 16);
            mma(c[j], a[k], b);
            mma(c[j + 1], a[k], b + 2);
        }
}
// c [16, WIDTH] += p [16, 64] · a tile.
__device__ __forceinline__ void add_product(float c[2 * STEPS][4], const float p[8][4], const bf16* tile) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        u32 a[4];
        as_a(a, p, k);
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n += 2) {
            u32 b[4];
            load_b_rows(b, tile + k * 16 * STRIDE + n * 8);
            mma(c[n], a, b);
            mma(c[n + 1], a, b + 2);
        }
    }
}

// --- tiles ---

#define VECTOR (HEAD % 8 == 0 ? 4 : 1)

// Rows `from..from + 64` of a head, counted by every `step`-th, into shared memory, those beyond the sequence as zeros;
// rotated where `tables` is given.
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* x, int stride, int from, int step, int cols,
                                          const Tables* tables) {
    constexpr int V = VECTOR, UNITS = PAIRS / V;
    for (int at = threadIdx.x; at < TILE * UNITS; at += blockDim.x) {
        int r = at / UNITS, i = at % UNITS * V, p = (from + r) * step;
        float a[V] = {}, b[V] = {};
        if (p < cols) {
            read<V>(x + (size_t)p * stride + i, a);
            read<V>(x + (size_t)p * stride + PAIRS + i, b);
            if (tables) {
                float c[V], s[V];
                read<V>(tables->cos + p * PAIRS + i, c);
                read<V>(tables->sin + p * PAIRS + i, s);
                for (int k = 0; k < V; k++) {
                    float turned = a[k] * c[k] - b[k] * s[k];
                    b[k] = b[k] * c[k] + a[k] * s[k];
                    a[k] = turned;
                }
            }
        }
        write<V>(tile + r * STRIDE + i, a);
        write<V>(tile + r * STRIDE + PAIRS + i, b);
    }
    if (WIDTH > HEAD)
        for (int at = threadIdx.x; at < TILE * PADDING; at += blockDim.x)
            tile[at / PADDING * STRIDE + HEAD + at % PADDING] = 0;
}

// A warp's 16 × WIDTH sums, back-rotated where `tables` is given, to rows `from..` of a head in global memory, counted by
// every `step`-th; added to what is there where `ADD`. `stage` is shared memory for 64 × STRIDE floats, free for use.
template <bool ADD>
__device__ __forceinline__ void store_tile(float* stage, const float c[2 * STEPS][4], bf16* y, int stride, int from,
                                           int step, int cols, const Tables* tables) {
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
        float* at = stage + row * STRIDE + n * 8 + lane % 4 * 2;
        at[0] = c[n][0], at[1] = c[n][1];
        at[8 * STRIDE] = c[n][2], at[8 * STRIDE + 1] = c[n][3];
    }
    __syncthreads();
    constexpr int V = VECTOR, UNITS = PAIRS / V;
    for (int at = threadIdx.x; at < TILE * UNITS; at += blockDim.x) {
        int r = at / UNITS, i = at % UNITS * V, p = (from + r) * step;
        if (p >= cols) continue;
        float a[V], b[V];
        read<V>(stage + r * STRIDE + i, a);
        read<V>(stage + r * STRIDE + PAIRS + i, b);
        if (tables) {
            float co[V], s[V];
            read<V>(tables->cos + p * PAIRS + i, co);
            read<V>(tables->sin + p * PAIRS + i, s);
            for (int k = 0; k < V; k++) {
                float turned = a[k] * co[k] + b[k] * s[k];
                b[k] = b[k] * co[k] - a[k] * s[k];
                a[k] = turned;
            }
        }
        if (ADD) {
            float before[V], behind[V];
            read<V>(y + (size_t)p * stride + i, before);
            read<V>(y + (size_t)p * stride + PAIRS + i, behind);
            for (int k = 0; k < V; k++) a[k] += before[k], b[k] += behind[k];
        }
        write<V>(y + (size_t)p * stride + i, a);
        write<V>(y + (size_t)p * stride + PAIRS + i, b);
    }
    __syncthreads();
}

// --- who sees whom ---

__device__ __forceinline__ bool seen(int query, int key, const Shape& s) {
    return key <= query && key > query - s.window && query < s.cols;
}
// Whether so many queries from `query` on all see so many keys from `key` on.
__device__ __forceinline__ bool all_seen(int query, int queries, int key, int keys, const Shape& s) {
    return seen(query, key + keys - 1, s) && seen(query + queries - 1, key, s);
}

// Global positions that have left the window of a query.
__device__ __forceinline__ int departed(int query, const Shape& s) {
    return s.every > 0 && query >= s.window ? (query - s.window) / s.every + 1 : 0;
}
// Whether a query sees the `number`-th global position from beyond its window.
__device__ __forceinline__ bool seen_beyond(int query, int number, const Shape& s) {
    int all = departed(query, s);
    return number < all && all - number <= s.rows && query < s.cols;
}

// The tiles of keys that a tile of queries from `from` on sees: `fars` of global positions, then those of the windows.
struct Tiles {
    int far, fars, near, all;
};
__device__ __forceinline__ Tiles tiles_seen(int from, const Shape& s) {
    int near = max(0, from - s.window + 1) / TILE, nears = from / TILE + 1 - near;
    int end = departed(min(from + TILE, s.cols) - 1, s), far = max(0, departed(from, s) - s.rows) / TILE;
    int fars = end > 0 ? (end - 1) / TILE + 1 - far : 0;
    return {far, fars, near, fars + nears};
}
// One of them: its number, and the distance of its keys.
struct Keys {
    bool far;
    int from, step;
};
__device__ __forceinline__ Keys keys_of(const Tiles& t, int i, const Shape& s) {
    bool far = i < t.fars;
    return {far, (far ? t.far + i : t.near + i - t.fars) * TILE, far ? s.every : 1};
}

__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// --- forward ---

// Scores of a warp's 16 queries against a tile of keys, in units of log 2, −FLOAT_MAX where masked.
__device__ __forceinline__ void scores(float c[8][4], const u32 q[STEPS][4], const bf16* k, int query,
                                       const Keys& keys, const Shape& s) {
    times_transposed(c, q, k);
    float scale = s.scale * 1.44269504f;
    int lane = threadIdx.x % 32;
    bool all = !keys.far && all_seen(query, 16, keys.from, TILE, s);
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            c[j][e] *= scale;
            int at = query + lane / 4 + e / 2 * 8, to = keys.from + j * 8 + lane % 4 * 2 + e % 2;
            if (!all && !(keys.far ? seen_beyond(at, to, s) : seen(at, to, s))) c[j][e] = -FLOAT_MAX;
        }
}

// Running maximum and sum of exp2 of a warp's rows: rows `lane / 4` and `lane / 4 + 8`.
struct Running {
    float max[2], sum[2];
};

// Turns scores into exp2(score − max), and returns what earlier sums are worth in `decay`.
__device__ __forceinline__ void exponentials(float c[8][4], Running& run, float decay[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float max = run.max[h], sum = 0.0f;
        for (int j = 0; j < 8; j++) max = fmaxf(max, fmaxf(c[j][2 * h], c[j][2 * h + 1]));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
        decay[h] = power_of_two(run.max[h] - max);
        for (int j = 0; j < 8; j++)
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                c[j][e] = power_of_two(c[j][e] - max);  // 0 where masked
                sum += c[j][e];
            }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        run.max[h] = max;
        run.sum[h] = run.sum[h] * decay[h] + sum;
    }
}

// Leaves log2 of each row's sum of exponentials for the backward pass.
__device__ __forceinline__ void keep_log_sums(const Running& run, float* log_sums, int query, int cols) {
    int lane = threadIdx.x % 32;
    for (int h = 0; h < 2; h++) {
        int at = query + lane / 4 + h * 8;
        if (lane % 4 == 0 && at < cols) log_sums[at] = run.max[h] + log2f(fmaxf(run.sum[h], 1e-30f));
    }
}

// What a block works on: one tile of queries of one head of one sequence.
struct Place {
    int from, wide, narrow;
    const bf16 *q, *k, *v;
    size_t out;  // offset of the head's first row in the result
    size_t row;  // offset of the head's rows in `[sequences, heads, cols]`
};

__device__ __forceinline__ Place place(const bf16* qkv, const Shape& s) {
    int head = blockIdx.y, kv = head / (s.heads / s.kv_heads);
    size_t sequence = blockIdx.z;
    int wide = (s.heads + 2 * s.kv_heads) * HEAD, narrow = s.heads * HEAD;
    const bf16* rows = qkv + sequence * s.cols * wide;
    return {(int)blockIdx.x * TILE, wide, narrow, rows + head * HEAD, rows + (s.heads + kv) * HEAD,
            rows + (s.heads + s.kv_heads + kv) * HEAD, sequence * s.cols * narrow + head * HEAD,
            (sequence * s.heads + head) * s.cols};
}

__device__ __forceinline__ void load_rows(u32 a[STEPS][4], const bf16* tile) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) load_a(a[k], tile + threadIdx.x / 32 * 16 * STRIDE + k * 16);
}

extern "C" __global__ void __launch_bounds__(128)
    attention(const bf16* qkv, const float* cos, const float* sin, bf16* out, float* log_sums, SHAPE_PARAMETERS) {
    SHAPE
    extern __shared__ bf16 tiles[];
    bf16 *qs = tiles, *ks = qs + TILE * STRIDE, *vs = ks + TILE * STRIDE;
    Tables tables = {cos, sin};
    Place at = place(qkv, s);
    load_tile(qs, at.q, at.wide, at.from, 1, s.cols, &tables);
    __syncthreads();
    u32 q[STEPS][4];
    load_rows(q, qs);
    float o[2 * STEPS][4] = {};
    Running run = {{-1e30f, -1e30f}, {0.0f, 0.0f}};
    Tiles t = tiles_seen(at.from, s);
    for (int i = 0; i < t.all; i++) {
        Keys keys = keys_of(t, i, s);
        __syncthreads();
        load_tile(ks, at.k, at.wide, keys.from, keys.step, s.cols, &tables);
        load_tile(vs, at.v, at.wide, keys.from, keys.step, s.cols, nullptr);
        __syncthreads();
        float p[8][4], decay[2];
        scores(p, q, ks, at.from + threadIdx.x / 32 * 16, keys, s);
        exponentials(p, run, decay);
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++)
            for (int e = 0; e < 4; e++) o[n][e] *= decay[e / 2];
        add_product(o, p, vs);
    }
    keep_log_sums(run, log_sums + at.row, at.from + threadIdx.x / 32 * 16, s.cols);
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++)
        for (int e = 0; e < 4; e++) o[n][e] /= fmaxf(run.sum[e / 2], 1e-30f);
    __syncthreads();
    store_tile<false>((float*)ks, o, out + at.out, at.narrow, at.from, 1, s.cols, nullptr);
}

// --- backward ---

// `p (dp − delta) scale` in place of `p`, for rows whose `delta` the thread holds.
__device__ __forceinline__ void score_gradient(float p[8][4], const float dp[8][4], const float delta[2], float scale) {
#pragma unroll
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 4; e++) p[j][e] *= (dp[j][e] - delta[e / 2]) * scale;
}

// Σ dout · out of each of the tile's rows.
__device__ __forceinline__ void row_products(float* delta, const bf16* out, const bf16* dout, int stride, int from,
                                             int cols) {
    int r = threadIdx.x / 2, p = from + r;
    float sum = 0.0f;
    if (p < cols)
        for (int i = threadIdx.x % 2; i < HEAD; i += 2)
            sum += load(out + (size_t)p * stride + i) * load(dout + (size_t)p * stride + i);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (threadIdx.x % 2 == 0) delta[r] = sum;
}

// Gradient of the queries; leaves each row's delta for the keys' kernel.
extern "C" __global__ void __launch_bounds__(128)
    attention_backward_queries(const bf16* qkv, const float* cos, const float* sin, const bf16* out, const bf16* dout,
                               bf16* dqkv, const float* log_sums, float* deltas, SHAPE_PARAMETERS) {
    SHAPE
    extern __shared__ bf16 tiles[];
    __shared__ float delta_rows[TILE];
    bf16 *qs = tiles, *ks = qs + TILE * STRIDE, *vs = ks + TILE * STRIDE;
    Tables tables = {cos, sin};
    Place at = place(qkv, s);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, query = at.from + warp * 16;
    load_tile(qs, at.q, at.wide, at.from, 1, s.cols, &tables);
    load_tile(ks, dout + at.out, at.narrow, at.from, 1, s.cols, nullptr);
    row_products(delta_rows, out + at.out, dout + at.out, at.narrow, at.from, s.cols);
    __syncthreads();
    u32 q[STEPS][4], g[STEPS][4];
    load_rows(q, qs);
    load_rows(g, ks);
    float p[8][4], dp[8][4], dq[2 * STEPS][4] = {}, log_sum[2], delta[2];
    for (int h = 0; h < 2; h++) {
        int r = lane / 4 + h * 8;
        bool inside = query + r < s.cols;
        log_sum[h] = inside ? log_sums[at.row + query + r] : 0.0f;
        delta[h] = delta_rows[warp * 16 + r];
        if (lane % 4 == 0 && inside) deltas[at.row + query + r] = delta[h];
    }
    Tiles t = tiles_seen(at.from, s);
    for (int i = 0; i < t.all; i++) {
        Keys keys = keys_of(t, i, s);
        __syncthreads();
        load_tile(ks, at.k, at.wide, keys.from, keys.step, s.cols, &tables);
        load_tile(vs, at.v, at.wide, keys.from, keys.step, s.cols, nullptr);
        __syncthreads();
        scores(p, q, ks, query, keys, s);
#pragma unroll
        for (int j = 0; j < 8; j++)
            for (int e = 0; e < 4; e++) p[j][e] = power_of_two(p[j][e] - log_sum[e / 2]);
        times_transposed(dp, g, vs);
        score_gradient(p, dp, delta, s.scale);
        add_product(dq, p, ks);
    }
    __syncthreads();
    size_t row = (size_t)blockIdx.z * s.cols * at.wide + blockIdx.y * HEAD;
    store_tile<false>((float*)ks, dq, dqkv + row, at.wide, at.from, 1, s.cols, &tables);
}

// Gradients of keys and values: a block owns a tile of keys of one key/value head, and a warp 16 of them; it works on
// the transposed scores, keys by queries. `FAR`: the keys are global positions, what the queries beyond whose windows they
// are say is added to what is there.
template <bool FAR>
__device__ __forceinline__ void backward_keys(const bf16* qkv, const float* cos, const float* sin, const bf16* dout,
                                              const float* log_sums, const float* deltas, bf16* dqkv, const Shape& s) {
    extern __shared__ bf16 tiles[];
    __shared__ float log_sum[TILE], delta[TILE];
    bf16 *qs = tiles, *gs = qs + TILE * STRIDE;
    Tables tables = {cos, sin};
    int kv = blockIdx.y, group = s.heads / s.kv_heads, from = blockIdx.x * TILE;
    int lane = threadIdx.x % 32, key = from + threadIdx.x / 32 * 16;
    int step = FAR ? s.every : 1, wide = (s.heads + 2 * s.kv_heads) * HEAD, narrow = s.heads * HEAD;
    size_t rows = (size_t)blockIdx.z * s.cols;
    const bf16* qkv_rows = qkv + rows * wide;
    load_tile(qs, qkv_rows + (s.heads + kv) * HEAD, wide, from, step, s.cols, &tables);
    load_tile(gs, qkv_rows + (s.heads + s.kv_heads + kv) * HEAD, wide, from, step, s.cols, nullptr);
    __syncthreads();
    u32 k[STEPS][4], v[STEPS][4];
    load_rows(k, qs);
    load_rows(v, gs);
    float dk[2 * STEPS][4] = {}, dv[2 * STEPS][4] = {};
    float scale = s.scale * 1.44269504f;
    int first = FAR ? (from * step + s.window) / TILE : from / TILE;
    int end = FAR ? s.window + step * (from + TILE - 1 + s.rows) : from + TILE - 1 + s.window;
    int last = min(end - 1, s.cols - 1) / TILE;
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        size_t head_rows = ((size_t)blockIdx.z * s.heads + head) * s.cols;
        for (int tile = first; tile <= last; tile++) {
            __syncthreads();
            load_tile(qs, qkv_rows + head * HEAD, wide, tile * TILE, 1, s.cols, &tables);
            load_tile(gs, dout + rows * narrow + head * HEAD, narrow, tile * TILE, 1, s.cols, nullptr);
            for (int r = threadIdx.x; r < TILE; r += blockDim.x) {
                bool inside = tile * TILE + r < s.cols;
                log_sum[r] = inside ? log_sums[head_rows + tile * TILE + r] : 0.0f;
                delta[r] = inside ? deltas[head_rows + tile * TILE + r] : 0.0f;
            }
            __syncthreads();
            float p[8][4], dp[8][4];
            times_transposed(p, k, qs);
            bool all = !FAR && all_seen(tile * TILE, TILE, key, 16, s);
#pragma unroll
            for (int j = 0; j < 8; j++)
                for (int e = 0; e < 4; e++) {
                    int r = j * 8 + lane % 4 * 2 + e % 2, at = tile * TILE + r, to = key + lane / 4 + e / 2 * 8;
                    p[j][e] = power_of_two(p[j][e] * scale - log_sum[r]);
                    if (!all && !(FAR ? seen_beyond(at, to, s) : seen(at, to, s))) p[j][e] = 0.0f;
                }
            add_product(dv, p, gs);
            times_transposed(dp, v, gs);
#pragma unroll
            for (int j = 0; j < 8; j++)
                for (int e = 0; e < 4; e++)
                    p[j][e] *= (dp[j][e] - delta[j * 8 + lane % 4 * 2 + e % 2]) * s.scale;
            add_product(dk, p, qs);
        }
    }
    __syncthreads();
    bf16* dqkv_rows = dqkv + rows * wide;
    bf16 *dk_rows = dqkv_rows + (s.heads + kv) * HEAD, *dv_rows = dk_rows + s.kv_heads * HEAD;
    store_tile<FAR>((float*)tiles, dk, dk_rows, wide, from, step, s.cols, &tables);
    store_tile<FAR>((float*)tiles, dv, dv_rows, wide, from, step, s.cols, nullptr);
}

extern "C" __global__ void __launch_bounds__(128)
    attention_backward_keys(const bf16* qkv, const float* cos, const float* sin, const bf16* dout,
                            const float* log_sums, const float* deltas, bf16* dqkv, SHAPE_PARAMETERS) {
    SHAPE
    backward_keys<false>(qkv, cos, sin, dout, log_sums, deltas, dqkv, s);
}

// After `attention_backward_keys`, whose gradients it adds to: a block for each 64 global positions.
extern "C" __global__ void __launch_bounds__(128)
    attention_backward_globals(const bf16* qkv, const float* cos, const float* sin, const bf16* dout,
                               const float* log_sums, const float* deltas, bf16* dqkv, SHAPE_PARAMETERS) {
    SHAPE
    backward_keys<true>(qkv, cos, sin, dout, log_sums, deltas, dqkv, s);
}
