// Softmax of one row, for Softmax and for attention.
#pragma once
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
    float part[kLanes];
    store(part, v);
    for (int half = kLanes / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}
HR_INLINE float max_of(vf v) {
    float part[kLanes], top;
    store(part, v);
    top = part[0];
    for (float x : part) top = x > top ? x : top;
    return top;
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

// e^(x - top), with kHalf by way of float16: rows that were float16 round after every step (see runtime/ops/nn/softmax.py).
template <bool kHalf>
HR_INLINE vf exp_below(vf x, vf top) {
    return kHalf ? round_to_half(exp(-round_to_half(top - x))) : exp(x - top);
}

template <bool kLog, bool kHalf = false>
void softmax_row(const float* x, float* y, int64_t n) {
    const float low = -__builtin_inff();
    vf tops[4] = {splat(low), splat(low), splat(low), splat(low)};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes)
        HR_UNROLL for (int k = 0; k < 4; k++) tops[k] = vmax(tops[k], load(x + i + k * kLanes));
    vf top = vmax(vmax(tops[0], tops[1]), vmax(tops[2], tops[3]));
    for (; i + kLanes <= n; i += kLanes) top = vmax(top, load(x + i));
    if (i < n) top = vmax(top, load_part(x + i, n - i, low));
    const vf shift = splat(max_of(top));
    vf total = vf{};
    for (i = 0; i + kLanes <= n; i += kLanes) {
        const vf e = exp_below<kHalf>(load(x + i), shift);
        if (!kLog) store(y + i, e);
        total += e;
    }
    if (i < n) {
        const vf e = exp_below<kHalf>(load_part(x + i, n - i, low), shift);
        if (!kLog) store_part(y + i, e, n - i);
        total += e;
    }
    if (kLog) {
        float log_total[kLanes];
        store(log_total, log(splat(sum_of(total))));
        const vf l = splat(log_total[0]);
        for (i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(x + i) - shift - l);
        if (i < n) store_part(y + i, load_part(x + i, n - i, 0) - shift - l, n - i);
    } else {
        const vf sum = splat(sum_of(total)), scale = splat(1.0f) / (kHalf ? round_to_half(sum) : sum);
        for (i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) * scale);
        for (; i < n; i++) y[i] *= scale[0];
    }
}

}  // namespace
}  // namespace hr::HR_TIER
