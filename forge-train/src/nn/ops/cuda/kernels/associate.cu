// A memory that is a matrix `[WIDTH, WIDTH]` and its momentum, a token at a time. `tokens [rows, 3 WIDTH + 3]` are keys,
// values, queries and gates behind their non-linearities, in f32.
//
// A block runs a sequence: thread `(group, i)` keeps the rows `group, group + GROUPS, …` of value channel `i` in
// registers, so that only sums over key channels and, backwards, over value channels cross threads.

#define GROUPS 4
#define LANES ((WIDTH + 31) / 32 * 32)
#define WARPS (LANES / 32)
#define ROWS ((WIDTH + GROUPS - 1) / GROUPS)
#define TOKEN (3 * WIDTH + 3)
#define UNIT_EPS 1e-6f

__device__ __forceinline__ float silu_of(float x) { return x * sigmoid(x); }

// One warp a token: `out` is `projected` behind its non-linearities.
extern "C" __global__ void activate(const bf16* projected, const float* bias, float* out, int rows) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const bf16* x = projected + (size_t)row * TOKEN;
    float* y = out + (size_t)row * TOKEN;
    for (int part = 0; part < 3; part++) {
        float squares = 0.0f;
        for (int i = lane; i < WIDTH; i += 32) {
            float s = silu_of(load(x + part * WIDTH + i));
            y[part * WIDTH + i] = s;
            squares += s * s;
        }
        if (part == 1) continue;
        float r = 1.0f / sqrtf(warp_sum(squares) + UNIT_EPS);
        for (int i = lane; i < WIDTH; i += 32) y[part * WIDTH + i] *= r;
    }
    if (lane < 3) y[3 * WIDTH + lane] = sigmoid(load(x + 3 * WIDTH + lane) + bias[lane]);
}

// One warp a token: gradients behind the non-linearities to those before them, and each token's share of the bias's.
extern "C" __global__ void activate_backward(const bf16* projected, const float* bias, const float* dtokens,
                                             bf16* dprojected, float* dgates, int rows) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const bf16* x = projected + (size_t)row * TOKEN;
    const float* d = dtokens + (size_t)row * TOKEN;
    bf16* out = dprojected + (size_t)row * TOKEN;
    for (int part = 0; part < 3; part++) {
        float squares = 0.0f, along = 0.0f;
        for (int i = lane; i < WIDTH; i += 32) {
            float s = silu_of(load(x + part * WIDTH + i));
            squares += s * s;
            along += s * d[part * WIDTH + i];
        }
        float r = 1.0f / sqrtf(warp_sum(squares) + UNIT_EPS);
        along = warp_sum(along) * r * r;
        for (int i = lane; i < WIDTH; i += 32) {
            float raw = load(x + part * WIDTH + i), g = sigmoid(raw);
            float ds = d[part * WIDTH + i];
            if (part != 1) ds = r * (ds - raw * g * along);
            store(out + part * WIDTH + i, ds * g * (1.0f + raw * (1.0f - g)));
        }
    }
    if (lane < 3) {
        float g = sigmoid(load(x + 3 * WIDTH + lane) + bias[lane]);
        float dx = d[3 * WIDTH + lane] * g * (1.0f - g);
        store(out + 3 * WIDTH + lane, dx);
        dgates[(size_t)row * 3 + lane] = dx;
    }
}

// What every token reads, or with `errors` what it is wrong by, and with `kept` the state before every `segment`th token.
extern "C" __global__ void associate(const float* tokens, bf16* reads, float* errors, float* kept, int cols, int segment) {
    __shared__ float token[2][TOKEN];
    __shared__ float sums[2][GROUPS][LANES];
    int i = threadIdx.x % LANES, group = threadIdx.x / LANES;
    bool live = i < WIDTH;
    float m[ROWS], s[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) m[r] = s[r] = 0.0f;
    size_t first = (size_t)blockIdx.x * cols;
    for (int c = threadIdx.x; c < TOKEN; c += blockDim.x) token[0][c] = tokens[first * TOKEN + c];
    for (int t = 0; t < cols; t++) {
        __syncthreads();
        const float* now = token[t % 2];
        if (t + 1 < cols) {
            for (int c = threadIdx.x; c < TOKEN; c += blockDim.x)
                token[(t + 1) % 2][c] = tokens[(first + t + 1) * TOKEN + c];
        }
        if (kept && t % segment == 0 && live) {
            int segments = (cols + segment - 1) / segment;
            float* at = kept + ((size_t)blockIdx.x * segments + t / segment) * 2 * WIDTH * WIDTH;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int j = group + r * GROUPS;
                if (j < WIDTH) at[j * WIDTH + i] = m[r], at[WIDTH * WIDTH + j * WIDTH + i] = s[r];
            }
        }
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int j = group + r * GROUPS;
            if (j < WIDTH) sum += now[j] * m[r];
        }
        sums[0][group][i] = sum;
        __syncthreads();
        float e = live ? -now[WIDTH + i] : 0.0f;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) e += sums[0][g][i];
        float surprise = now[3 * WIDTH], momentum = now[3 * WIDTH + 1], keep = 1.0f - now[3 * WIDTH + 2];
        float read = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int j = group + r * GROUPS;
            if (j < WIDTH) {
                s[r] = momentum * s[r] - surprise * now[j] * e;
                m[r] = keep * m[r] + s[r];
                read += now[2 * WIDTH + j] * m[r];
            }
        }
        if (errors && group == 0 && live) errors[(first + t) * WIDTH + i] = e;
        if (reads) {
            sums[1][group][i] = read;
            __syncthreads();
            if (group == 0 && live) {
                float y = 0.0f;
#pragma unroll
                for (int g = 0; g < GROUPS; g++) y += sums[1][g][i];
                store(reads + (first + t) * WIDTH + i, y);
            }
        }
    }
}

// The sum over value channels of `x`, which all threads of a group get in the place `of` of `sums`.
__device__ __forceinline__ void put_sum(float x, float (*sums)[WARPS], int row) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[row][threadIdx.x % LANES / 32] = x;
}
__device__ __forceinline__ float get_sum(float (*sums)[WARPS], int row) {
    float x = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) x += sums[row][w];
    return x;
}

// Gradients of tokens behind their non-linearities, from the last to the first. `scratch` holds a segment's states.
extern "C" __global__ void associate_backward(const float* tokens, const float* errors, const float* kept,
                                              float* scratch, const bf16* grad, float* dtokens, int cols, int segment) {
    const int square = WIDTH * WIDTH;
    __shared__ float token[TOKEN], error[LANES], dread[LANES], derror[GROUPS][LANES];
    // For every key channel: what is read, what is written, the momentum's and the memory's share, the error's.
    __shared__ float read_sum[ROWS * GROUPS][WARPS], write_sum[ROWS * GROUPS][WARPS], error_sum[ROWS * GROUPS][WARPS];
    __shared__ float gate_sum[2][GROUPS * WARPS];
    int i = threadIdx.x % LANES, group = threadIdx.x / LANES;
    bool live = i < WIDTH;
    float m[ROWS], s[ROWS], dm[ROWS], ds[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) m[r] = s[r] = dm[r] = ds[r] = 0.0f;
    size_t first = (size_t)blockIdx.x * cols;
    int segments = (cols + segment - 1) / segment;
    scratch += (size_t)blockIdx.x * segment * 2 * square;
    for (int part = segments - 1; part >= 0; part--) {
        int from = part * segment, to = min(from + segment, cols);
        const float* at = kept + ((size_t)blockIdx.x * segments + part) * 2 * square;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int j = group + r * GROUPS;
            if (j < WIDTH && live) m[r] = at[j * WIDTH + i], s[r] = at[square + j * WIDTH + i];
        }
        for (int t = from; t < to; t++) {
            __syncthreads();
            for (int c = threadIdx.x; c < TOKEN; c += blockDim.x) token[c] = tokens[(first + t) * TOKEN + c];
            if (group == 0) error[i] = live ? errors[(first + t) * WIDTH + i] : 0.0f;
            __syncthreads();
            float surprise = token[3 * WIDTH], momentum = token[3 * WIDTH + 1], keep = 1.0f - token[3 * WIDTH + 2];
            float* before = scratch + (size_t)(t - from) * 2 * square;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int j = group + r * GROUPS;
                if (j < WIDTH && live) {
                    before[j * WIDTH + i] = m[r], before[square + j * WIDTH + i] = s[r];
                    s[r] = momentum * s[r] - surprise * token[j] * error[i];
                    m[r] = keep * m[r] + s[r];
                }
            }
        }
        for (int t = to - 1; t >= from; t--) {
            __syncthreads();
            for (int c = threadIdx.x; c < TOKEN; c += blockDim.x) token[c] = tokens[(first + t) * TOKEN + c];
            if (group == 0) {
                error[i] = live ? errors[(first + t) * WIDTH + i] : 0.0f;
                dread[i] = live ? load(grad + (first + t) * WIDTH + i) : 0.0f;
            }
            __syncthreads();
            float surprise = token[3 * WIDTH], momentum = token[3 * WIDTH + 1], keep = 1.0f - token[3 * WIDTH + 2];
            const float* before = scratch + (size_t)(t - from) * 2 * square;
            float de = 0.0f, dmomentum = 0.0f, dkeep = 0.0f;
            // From here on `m` is the memory before the token.
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int j = group + r * GROUPS;
                float read = 0.0f, written = 0.0f;
                if (j < WIDTH && live) {
                    float m0 = before[j * WIDTH + i], s0 = before[square + j * WIDTH + i];
                    float d = dm[r] + token[2 * WIDTH + j] * dread[i], both = ds[r] + d;
                    read = m[r] * dread[i];
                    written = both * error[i];
                    dmomentum += both * s0;
                    dkeep += d * m0;
                    de -= surprise * token[j] * both;
                    ds[r] = momentum * both;
                    dm[r] = keep * d;
                    m[r] = m0;
                }
                put_sum(read, read_sum, group + r * GROUPS);
                put_sum(written, write_sum, group + r * GROUPS);
            }
            derror[group][i] = de;
            dmomentum = warp_sum(dmomentum);
            dkeep = warp_sum(dkeep);
            if (threadIdx.x % 32 == 0) gate_sum[0][threadIdx.x / 32] = dmomentum, gate_sum[1][threadIdx.x / 32] = dkeep;
            __syncthreads();
            de = 0.0f;
#pragma unroll
            for (int g = 0; g < GROUPS; g++) de += derror[g][i];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int j = group + r * GROUPS;
                float share = 0.0f;
                if (j < WIDTH && live) {
                    share = m[r] * de;
                    dm[r] += token[j] * de;
                }
                put_sum(share, error_sum, j);
            }
            __syncthreads();
            float* out = dtokens + (first + t) * TOKEN;
            for (int j = threadIdx.x; j < WIDTH; j += blockDim.x) {
                out[j] = get_sum(error_sum, j) - surprise * get_sum(write_sum, j);
                out[2 * WIDTH + j] = get_sum(read_sum, j);
            }
            if (group == 0 && live) out[WIDTH + i] = -de;
            if (threadIdx.x == 0) {
                float dsurprise = 0.0f;
                for (int j = 0; j < WIDTH; j++) dsurprise -= token[j] * get_sum(write_sum, j);
                float gates[2] = {0.0f, 0.0f};
                for (int g = 0; g < GROUPS * WARPS; g++) gates[0] += gate_sum[0][g], gates[1] += gate_sum[1][g];
                out[3 * WIDTH] = dsurprise;
                out[3 * WIDTH + 1] = gates[0];
                out[3 * WIDTH + 2] = -gates[1];
            }
        }
    }
}
