// The element loops of the optimisers; `forge-train/src/optim` has the formulas and the loops on the host. Every sum
// has one order: a block adds its share, and the host adds the blocks.

typedef unsigned long long count;

#define EACH(i, n) \
    count i = (count)blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= n) return;

extern "C" __global__ void scale(float* x, count n, float factor) {
    EACH(i, n)
    x[i] *= factor;
}

extern "C" __global__ void add(float* x, const float* y, count n) {
    EACH(i, n)
    x[i] += y[i];
}

// parts[block] = the block's share of the sum of squares.
extern "C" __global__ void squares(const float* x, count n, double* parts) {
    double sum = 0;
    count stride = (count)gridDim.x * blockDim.x;
    for (count i = (count)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) sum += (double)x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void grokfast(float* g, float* mean, count n, float alpha, float lambda) {
    EACH(i, n)
    float m = alpha * mean[i] + (1.0f - alpha) * g[i];
    mean[i] = m;
    g[i] += lambda * m;
}

extern "C" __global__ void adamw(
    float* w, const float* g, float* first, float* second, count n,
    float beta1, float beta2, float eps, float lr, float decay, float correct1, float correct2
) {
    EACH(i, n)
    float m = beta1 * first[i] + (1.0f - beta1) * g[i];
    float v = beta2 * second[i] + (1.0f - beta2) * (g[i] * g[i]);
    first[i] = m;
    second[i] = v;
    float direction = m * correct1 / (sqrtf(v * correct2) + eps);
    w[i] -= lr * (direction + decay * w[i]);
}

// The momentum of a map and, into `u`, Nesterov's look ahead of it.
extern "C" __global__ void muon_momentum(float* u, float* momentum, const float* g, count n, float beta) {
    EACH(i, n)
    float m = momentum[i] + (1.0f - beta) * (g[i] - momentum[i]);
    momentum[i] = m;
    u[i] = g[i] + beta * (m - g[i]);
}

// x = u / (‖u‖ + 1e-7) of the matrix of `n` elements that the block is for.
extern "C" __global__ void muon_normalise(const float* u, bf16* x, count n) {
    u += (count)blockIdx.x * n;
    x += (count)blockIdx.x * n;
    double sum = 0;
    for (count i = threadIdx.x; i < n; i += blockDim.x) sum += (double)u[i] * u[i];
    float inverse = 1.0f / ((float)sqrt(block_sum(sum)) + 1e-7f);
    for (count i = threadIdx.x; i < n; i += blockDim.x) store(x + i, u[i] * inverse);
}

// out = a·x + b·y.
extern "C" __global__ void muon_mix(const bf16* x, const bf16* y, bf16* out, count n, float a, float b) {
    EACH(i, n)
    store(out + i, a * load(x + i) + b * load(y + i));
}

// w = keep·w − rate·x.
extern "C" __global__ void muon_apply(float* w, const bf16* x, count n, float keep, float rate) {
    EACH(i, n)
    w[i] = w[i] * keep - rate * load(x + i);
}
