// Kernels over rows: one block of 256 threads a row, grid (rows, 1, 1), shared 64 bytes. A row has k elements, `inner` apart:
// row r begins at (r / inner) * k * inner + r % inner, so that any axis can be reduced.
//
//   layer_norm(x, scale [k], bias [k] or null, y, mean, inverse, k, epsilon, centred)   rows are contiguous; mean and
//       inverse (one a row) may be null; centred 0: root mean square only
//   softmax(x, y, k, inner, log)
//   reduce(x, y, k, inner, function)        Reduce below; y [rows]
//   arg_extreme(x, y int64, k, inner, least, last)   where the largest (least: smallest) element is, the first of equals or
//       the last; NaN counts as the extreme
//   lp_normalize(x, y, k, inner, p)         p 1 or 2; rows of zeros stay
//   scale_shift(x, y, mean, factor, bias, n, inner, channels)   (x - mean) * factor + bias by channel i / inner % channels;
//       grid ceil(n / 256), no shared memory
#include "functions.cuh"
#include "reduce.cuh"

namespace hr {

enum Reduce { reduce_sum, reduce_mean, reduce_max, reduce_min, reduce_prod, reduce_l1, reduce_l2, reduce_sum_square };

struct Row {
    long long first, k, inner;
    HR_DEVICE long long at(long long i) const { return first + i * inner; }
};

HR_DEVICE Row row_of(long long k, long long inner) {
    const long long r = blockIdx.x;
    return {r / inner * k * inner + r % inner, k, inner};
}

// f of all elements of the row, joined.
template <class F, class J> HR_DEVICE float over_row(const Row& row, const float* x, float empty, float* shared, F f, J join) {
    float value = empty;
    for (long long i = threadIdx.x; i < row.k; i += blockDim.x) value = join(value, f(x[row.at(i)]));
    return block_reduce(value, empty, shared, join);
}

template <class F> HR_DEVICE float sum_over_row(const Row& row, const float* x, float* shared, F f) {
    return over_row(row, x, 0.0f, shared, f, [](float a, float b) { return a + b; });
}

}  // namespace hr

using namespace hr;

extern "C" __global__ void __launch_bounds__(256) layer_norm(const float* x, const float* scale, const float* bias, float* y, float* mean, float* inverse,
                                                             long long k, float epsilon, int centred) {
    HR_SHARED(float, shared);
    const Row row = row_of(k, 1);
    const float count = float(k), middle = centred ? sum_over_row(row, x, shared, [](float v) { return v; }) / count : 0.0f;
    const float variance = sum_over_row(row, x, shared, [=](float v) { return (v - middle) * (v - middle); }) / count;
    const float factor = 1.0f / sqrtf(variance + epsilon);
    for (long long i = threadIdx.x; i < k; i += blockDim.x) {
        const float v = (x[row.at(i)] - middle) * factor * scale[i];
        y[row.at(i)] = bias ? v + bias[i] : v;
    }
    if (threadIdx.x == 0) {
        if (mean) mean[blockIdx.x] = middle;
        if (inverse) inverse[blockIdx.x] = factor;
    }
}
HR_EXPORT(layer_norm)

extern "C" __global__ void __launch_bounds__(256) softmax(const float* x, float* y, long long k, long long inner, int log) {
    HR_SHARED(float, shared);
    const Row row = row_of(k, inner);
    const float most = over_row(row, x, -INFINITY, shared, [](float v) { return v; }, [](float a, float b) { return max_nan(a, b); });
    const float sum = sum_over_row(row, x, shared, [=](float v) { return expf(v - most); });
    const float shift = log ? logf(sum) : 0.0f;
    for (long long i = threadIdx.x; i < k; i += blockDim.x) {
        const float v = x[row.at(i)] - most;
        y[row.at(i)] = log ? v - shift : expf(v) / sum;
    }
}
HR_EXPORT(softmax)

extern "C" __global__ void __launch_bounds__(256) reduce(const float* x, float* y, long long k, long long inner, int function) {
    HR_SHARED(float, shared);
    const Row row = row_of(k, inner);
    float value = 0;
    switch (function) {
        case reduce_max: value = over_row(row, x, -INFINITY, shared, [](float v) { return v; }, [](float a, float b) { return max_nan(a, b); }); break;
        case reduce_min: value = over_row(row, x, INFINITY, shared, [](float v) { return v; }, [](float a, float b) { return min_nan(a, b); }); break;
        case reduce_prod: value = over_row(row, x, 1.0f, shared, [](float v) { return v; }, [](float a, float b) { return a * b; }); break;
        default: {
            const bool square = function == reduce_l2 || function == reduce_sum_square;
            value = sum_over_row(row, x, shared, [=](float v) { return square ? v * v : function == reduce_l1 ? fabsf(v) : v; });
            if (function == reduce_mean) value /= float(k);
            if (function == reduce_l2) value = sqrtf(value);
        }
    }
    if (threadIdx.x == 0) y[blockIdx.x] = value;
}
HR_EXPORT(reduce)

extern "C" __global__ void __launch_bounds__(256) arg_extreme(const float* x, long long* y, long long k, long long inner, int least, int last) {
    HR_SHARED(long long, shared);
    const Row row = row_of(k, inner);
    const float best = over_row(
        row, x, least ? INFINITY : -INFINITY, reinterpret_cast<float*>(shared), [](float v) { return v; },
        [=](float a, float b) { return least ? min_nan(a, b) : max_nan(a, b); });
    const auto nearer = [=](long long a, long long b) { return (a < b) != (last != 0) ? a : b; };
    const long long none = last ? -1 : k;
    long long found = none;
    for (long long i = threadIdx.x; i < k; i += blockDim.x)
        if (x[row.at(i)] == best || (is_nan(best) && is_nan(x[row.at(i)]))) found = nearer(found, i);
    found = block_reduce(found, none, shared, nearer);
    if (threadIdx.x == 0) y[blockIdx.x] = found;
}
HR_EXPORT(arg_extreme)

extern "C" __global__ void __launch_bounds__(256) lp_normalize(const float* x, float* y, long long k, long long inner, int p) {
    HR_SHARED(float, shared);
    const Row row = row_of(k, inner);
    float norm = sum_over_row(row, x, shared, [=](float v) { return p == 1 ? fabsf(v) : v * v; });
    if (p == 2) norm = sqrtf(norm);
    for (long long i = threadIdx.x; i < k; i += blockDim.x) y[row.at(i)] = norm == 0 ? 0 : x[row.at(i)] / norm;
}
HR_EXPORT(lp_normalize)

extern "C" __global__ void __launch_bounds__(256) scale_shift(const float* x, float* y, const float* mean, const float* factor, const float* bias, long long n,
                                                              long long inner, int channels) {
    const long long i = global_id();
    if (i >= n) return;
    const int c = int(i / inner % channels);
    y[i] = add_rn(mul_rn(x[i] - mean[c], factor[c]), bias[c]);
}
HR_EXPORT(scale_shift)
