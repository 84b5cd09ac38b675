// Between f32 and 8 bits, element by element, with the rounding of the reference.
#pragma once
#include "kernels/quant/igemm.inc.h"

namespace hr::HR_TIER {

// rint(v) + zero, saturated; the order of steps (clamp, then round) gives the same integers. NaN becomes the zero point.
HR_INLINE vi level(vf v, vi zero, bool is_signed) {
    const vf lo = to_float(splat(is_signed ? -128 : 0) - zero), hi = to_float(splat(is_signed ? 127 : 255) - zero);
    return round_even(vmin(hi, vmax(lo, (vf)((vi)v & (vi)(v == v))))) + zero;
}

static void quantize(const float* x, int64_t n, const float* scale, const int32_t* zero, bool each, bool is_signed, void* y) {
    uint8_t* to = static_cast<uint8_t*>(y);
    const vf one_scale = splat(scale[0]);
    const vi one_zero = splat(zero[0]);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        narrow(level(load(x + i) / (each ? load(scale + i) : one_scale), each ? load(zero + i) : one_zero, is_signed), is_signed, to + i);
    if (i < n) {
        float tail[kLanes] = {}, s[kLanes];
        int32_t z[kLanes] = {};
        uint8_t out[kLanes];
        store(s, splat(1.0f));
        for (int64_t j = 0; j < n - i; j++) tail[j] = x[i + j], s[j] = scale[each ? i + j : 0], z[j] = zero[each ? i + j : 0];
        narrow(level(load(tail) / load(s), load(z), is_signed), is_signed, out);
        memcpy(to + i, out, size_t(n - i));
    }
}

static void dequantize(const uint8_t* x, int64_t n, const float* scale, const int32_t* zero, bool each, bool is_signed, float* y) {
    int64_t i = 0;
    const vf one_scale = splat(scale[0]);
    const vi one_zero = splat(zero[0]);
    for (; i + kLanes <= n; i += kLanes)
        store(y + i, to_float(widen(x + i, is_signed) - (each ? load(zero + i) : one_zero)) * (each ? load(scale + i) : one_scale));
    for (; i < n; i++) {
        const int64_t at = each ? i : 0;
        y[i] = float((is_signed ? int32_t(int8_t(x[i])) : int32_t(x[i])) - zero[at]) * scale[at];
    }
}

// Least and greatest, together with what *lo and *hi hold; NaN where one is met, as NumPy's min and max.
static void min_max(const float* x, int64_t n, float* lo, float* hi) {
    vf least = splat(*lo), most = splat(*hi), nan = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const vf v = load(x + i);
        least = vmin(v, least), most = vmax(v, most);
        nan = (vf)((vi)nan | (vi)(v != v));
    }
    HR_UNROLL for (int half = kLanes / 2; half; half /= 2) {
        least = vmin(least, exchanged(least, half)), most = vmax(most, exchanged(most, half));
        nan = (vf)((vi)nan | (vi)exchanged(nan, half));
    }
    *lo = least[0], *hi = most[0];
    bool any = ((vi)nan)[0] != 0;
    for (; i < n; i++) {
        *lo = x[i] < *lo ? x[i] : *lo;
        *hi = x[i] > *hi ? x[i] : *hi;
        any |= x[i] != x[i];
    }
    if (any) *lo = *hi = __builtin_nanf("");
}

static void add_levels(const IntTable::Side& a, const IntTable::Side& b, int64_t n, float lo, float hi, int32_t zero, bool y_signed, void* y) {
    uint8_t* to = static_cast<uint8_t*>(y);
    const Bytes sa(a.is_signed, a.zero, a.scale), sb(b.is_signed, b.zero, b.scale);
    const vf low = splat(lo), high = splat(hi);
    const vi shift = splat(zero);
    const auto one = [&](const uint8_t* pa, const uint8_t* pb) __attribute__((always_inline)) {
        return round_even(vmin(high, vmax(low, real(pa, sa) + real(pb, sb)))) + shift;
    };
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) narrow(one(a.data + i, b.data + i), y_signed, to + i);
    if (i < n) {
        uint8_t ta[kLanes] = {}, tb[kLanes] = {}, out[kLanes];
        memcpy(ta, a.data + i, size_t(n - i));
        memcpy(tb, b.data + i, size_t(n - i));
        narrow(one(ta, tb), y_signed, out);
        memcpy(to + i, out, size_t(n - i));
    }
}

}  // namespace hr::HR_TIER
