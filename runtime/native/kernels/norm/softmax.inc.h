// Softmax of rows, for Softmax and for attention.
#pragma once
#include <type_traits>

#include "kernels/elementwise/vector_math.inc.h"

namespace hr::HR_TIER {
namespace {

HR_INLINE vf load_part(const float* p, int64_t n, float fill) {
    float part[kLanes];
    store(part, splat(fill));
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}
HR_INLINE void store_part(float* p, vf v, int64_t n) {
    float part[kLanes];
    store(part, v);
    std::memcpy(p, part, size_t(n) * 4);
}
HR_INLINE float sum_of(vf v) {
    HR_UNROLL for (int half = kLanes / 2; half; half /= 2) v += exchanged(v, half);
    return v[0];
}
HR_INLINE float max_of(vf v) {
    HR_UNROLL for (int half = kLanes / 2; half; half /= 2) v = vmax(v, exchanged(v, half));
    return v[0];
}
// A NaN anywhere makes the sum NaN, and so every result, whatever the largest element is taken to be. A row of -inf gives
// NaN, as subtracting infinities does.

// float16's neighbour of values >= 0, to nearest even; what is beyond float16 stays as it is, NaN too.
HR_INLINE vf round_to_half(vf x) {
    const vi bits = (vi)x;
    const vf normal = (vf)((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fff), small = x + splat(0.5f) - splat(0.5f);
    const vf rounded = select((vi)(x < splat(0x1p-14f)), small, normal);    // subnormals: let the addition round
    return select((vi)(x < splat(65520.0f)), rounded, x);
}

// e^x for x <= 0, or NaN, as a share of a sum of such: x log2(e) is off by half a unit in its last place, 2^-25 |x| of e^x.
HR_INLINE vf weight_of(vf x) {
    const vf t = vmax(splat(-150.0f), x * splat(1.44269504088896341f)), n = nearest(t);
    return power_of_two(n, t - n);
}

// e^(x - top), with kHalf by way of float16: rows that were float16 round after every step (see runtime/ops/nn/softmax.py).
template <bool kHalf>
HR_INLINE vf exp_below(vf x, vf top) {
    return kHalf ? round_to_half(exp_negative(-round_to_half(top - x))) : weight_of(x - top);
}

// Calls f(i, whole) for each vector of n elements; the last may not be whole.
template <class F> HR_INLINE void each_vector(int64_t n, F f) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) f(i, std::true_type());
    if (i < n) f(i, std::false_type());
}

// kRows rows of n, one behind the other, in step: alone, a short row waits for its two reductions.
template <bool kLog, bool kHalf, int kRows>
void softmax_in_step(const float* x, float* y, int64_t n) {
    const float low = -__builtin_inff();
    const auto get = [&](const float* p, int r, int64_t i, auto whole) __attribute__((always_inline)) { return whole ? load(p + r * n + i) : load_part(p + r * n + i, n % kLanes, low); };
    const auto put = [&](int r, int64_t i, auto whole, vf v) __attribute__((always_inline)) { whole ? store(y + r * n + i, v) : store_part(y + r * n + i, v, n % kLanes); };
    vf top[kRows], total[kRows], last[kRows];
    HR_UNROLL for (int r = 0; r < kRows; r++) top[r] = splat(low), total[r] = vf{};
    each_vector(n, [&](int64_t i, auto whole) __attribute__((always_inline)) {
        HR_UNROLL for (int r = 0; r < kRows; r++) top[r] = vmax(top[r], get(x, r, i, whole));
    });
    HR_UNROLL for (int r = 0; r < kRows; r++) top[r] = splat(max_of(top[r]));
    each_vector(n, [&](int64_t i, auto whole) __attribute__((always_inline)) {
        HR_UNROLL for (int r = 0; r < kRows; r++) {
            const vf e = exp_below<kHalf>(get(x, r, i, whole), top[r]);
            if (!kLog) put(r, i, whole, e);
            total[r] += e;
        }
    });
    HR_UNROLL for (int r = 0; r < kRows; r++) {
        const vf sum = splat(sum_of(total[r]));
        last[r] = kLog ? log(sum) : splat(1.0f) / (kHalf ? round_to_half(sum) : sum);
    }
    each_vector(n, [&](int64_t i, auto whole) __attribute__((always_inline)) {
        HR_UNROLL for (int r = 0; r < kRows; r++) put(r, i, whole, kLog ? get(x, r, i, whole) - top[r] - last[r] : get(y, r, i, whole) * last[r]);
    });
}

// y may be x.
template <bool kLog, bool kHalf = false>
void softmax_rows(const float* x, float* y, int64_t rows, int64_t n) {
    constexpr int kTogether = 4;
    int64_t row = 0;
    for (; row + kTogether <= rows; row += kTogether) softmax_in_step<kLog, kHalf, kTogether>(x + row * n, y + row * n, n);
    for (; row < rows; row++) softmax_in_step<kLog, kHalf, 1>(x + row * n, y + row * n, n);
}

}  // namespace
}  // namespace hr::HR_TIER
