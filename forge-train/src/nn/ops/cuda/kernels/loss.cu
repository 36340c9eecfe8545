// Losses over rows of logits, one block a row, and the weighted mean over the rows. Rows of weight 0 are not read.

// Calls `f(i, x[i])` for every element of a row, four neighbours at a time where rows are aligned.
template <class X, class F>
__device__ __forceinline__ void each(const X* x, int width, F f) {
    if (width % 4 == 0) {
#pragma unroll 4
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
            float v[4];
            load4(x + i, v);
            for (int k = 0; k < 4; k++) f(i + k, v[k]);
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) f(i, load(x + i));
    }
}

// Writes `f(i, x[i])` for every element of a row.
template <class X, class F>
__device__ __forceinline__ void map(const X* x, X* y, int width, F f) {
    if (width % 4 == 0) {
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
            float v[4];
            load4(x + i, v);
            for (int k = 0; k < 4; k++) v[k] = f(i + k, v[k]);
            store4(y + i, v);
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) store(y + i, f(i, load(x + i)));
    }
}

struct Softmax {
    float max, sum;
};

// Maximum, and sum of `exp((x − max) · inverse)`.
template <class X>
__device__ Softmax softmax(const X* x, int width, float inverse) {
    float max = -FLOAT_MAX, sum = 0.0f;
    each(x, width, [&](int, float v) { max = fmaxf(max, v); });
    max = block_max(max);
    each(x, width, [&](int, float v) { sum += __expf((v - max) * inverse); });
    return {max, block_sum(sum)};
}

template <class X>
__device__ float negative_log_likelihood(const X* x, int width, u32 target) {
    Softmax s = softmax(x, width, 1.0f);
    return s.max + logf(s.sum) - load(x + target);
}

template <class X>
__device__ void cross_entropy(const X* x, const u32* targets, const float* weights, double* losses, int width) {
    size_t row = blockIdx.x;
    float weight = weights[row];
    float loss = weight != 0.0f ? negative_log_likelihood(x + row * width, width, targets[row]) : 0.0f;
    if (threadIdx.x == 0) losses[row] = (double)weight * (double)loss;
}

template <class X>
__device__ void cross_entropy_backward(const X* x, const u32* targets, const float* weights, const float* upstream,
                                       X* dx, int width, double inverse_total) {
    size_t row = blockIdx.x;
    x += row * width, dx += row * width;
    float factor = *upstream * (float)((double)weights[row] * inverse_total);
    if (factor == 0.0f) {
        map(x, dx, width, [](int, float) { return 0.0f; });
        return;
    }
    Softmax s = softmax(x, width, 1.0f);
    float scale = factor / s.sum;
    int target = targets[row];
    map(x, dx, width, [=](int i, float v) { return __expf(v - s.max) * scale - (i == target ? factor : 0.0f); });
}

// `Σ p_T (log p_T − log p_S)` of temperature 1 / `inverse`.
template <class X>
__device__ void divergence(const X* student, const X* teacher, const float* weights, double* losses, int width,
                           float inverse) {
    size_t row = blockIdx.x;
    float weight = weights[row], sum = 0.0f;
    if (weight != 0.0f) {
        student += row * width, teacher += row * width;
        Softmax s = softmax(student, width, inverse), t = softmax(teacher, width, inverse);
        float constant = (s.max - t.max) * inverse + logf(s.sum) - logf(t.sum);
        each(teacher, width, [&](int i, float v) {
            sum += __expf((v - t.max) * inverse) * ((v - load(student + i)) * inverse + constant);
        });
        sum = block_sum(sum) / t.sum;
    }
    if (threadIdx.x == 0) losses[row] = (double)weight * (double)sum;
}

template <class X>
__device__ void divergence_backward(const X* student, const X* teacher, const float* weights, const float* upstream,
                                    X* dx, int width, double inverse_total, float inverse, float temperature) {
    size_t row = blockIdx.x;
    student += row * width, teacher += row * width, dx += row * width;
    float factor = *upstream * temperature * (float)((double)weights[row] * inverse_total);
    if (factor == 0.0f) {
        map(student, dx, width, [](int, float) { return 0.0f; });
        return;
    }
    Softmax s = softmax(student, width, inverse), t = softmax(teacher, width, inverse);
    float a = factor / s.sum, b = factor / t.sum;
    map(student, dx, width, [=](int i, float v) {
        return __expf((v - s.max) * inverse) * a - __expf((load(teacher + i) - t.max) * inverse) * b;
    });
}

// Cross entropy of each row, and whether its target has the highest logit, the first of equals.
template <class X>
__device__ void token_scores(const X* x, const u32* targets, float* losses, float* correct, int width) {
    size_t row = blockIdx.x;
    x += row * width;
    int target = targets[row];
    float best = load(x + target), better = 0.0f;
    each(x, width, [&](int i, float v) { better += v > best || (i < target && v == best) ? 1.0f : 0.0f; });
    better = block_sum(better);
    float loss = negative_log_likelihood(x, width, target);
    if (threadIdx.x == 0) {
        losses[row] = loss;
        correct[row] = better == 0.0f ? 1.0f : 0.0f;
    }
}

#define LOSSES(name, X)                                                                                             \
    extern "C" __global__ void cross_entropy_##name(const X* x, const u32* targets, const float* weights,           \
                                                    double* losses, int width) {                                    \
        cross_entropy(x, targets, weights, losses, width);                                                          \
    }                                                                                                               \
    extern "C" __global__ void cross_entropy_backward_##name(const X* x, const u32* targets, const float* weights,  \
                                                             const float* upstream, X* dx, int width,               \
                                                             double inverse_total) {                                \
        cross_entropy_backward(x, targets, weights, upstream, dx, width, inverse_total);                            \
    }                                                                                                               \
    extern "C" __global__ void divergence_##name(const X* student, const X* teacher, const float* weights,          \
                                                 double* losses, int width, float inverse) {                        \
        divergence(student, teacher, weights, losses, width, inverse);                                              \
    }                                                                                                               \
    extern "C" __global__ void divergence_backward_##name(                                                          \
        const X* student, const X* teacher, const float* weights, const float* upstream, X* dx, int width,          \
        double inverse_total, float inverse, float temperature) {                                                   \
        divergence_backward(student, teacher, weights, upstream, dx, width, inverse_total, inverse, temperature);   \
    }                                                                                                               \
    extern "C" __global__ void token_scores_##name(const X* x, const u32* targets, float* losses, float* correct,   \
                                                   int width) {                                                     \
        token_scores(x, targets, losses, correct, width);                                                           \
    }
LOSSES(f32, float)
LOSSES(bf16, bf16)

// Binary cross entropy of `sigmoid(x)`, a thread a row: max(x, 0) − x·target + log(1 + exp(−|x|)) does not overflow.
extern "C" __global__ void binary_cross_entropy(const float* x, const float* targets, const float* weights,
                                                double* losses, int rows) {
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    float loss = fmaxf(x[r], 0.0f) - x[r] * targets[r] + log1pf(__expf(-fabsf(x[r])));
    losses[r] = weights[r] != 0.0f ? (double)weights[r] * (double)loss : 0.0;
}
extern "C" __global__ void binary_cross_entropy_backward(const float* x, const float* targets, const float* weights,
                                                         const float* upstream, float* dx, int rows,
                                                         double inverse_total) {
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    float factor = *upstream * (float)((double)weights[r] * inverse_total);
    dx[r] = factor != 0.0f ? factor * (sigmoid(x[r]) - targets[r]) : 0.0f;
}

// `factor · Σ losses`, by one block.
extern "C" __global__ void weighted_mean(const double* losses, float* mean, int rows, double factor) {
    double sum = 0.0;
    for (int r = threadIdx.x; r < rows; r += blockDim.x) sum += losses[r];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *mean = (float)(sum * factor);
}
