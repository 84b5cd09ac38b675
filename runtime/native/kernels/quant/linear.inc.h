// Between f32 and 8 bits, element by element, with the rounding of the reference.
#pragma once
#include "kernels/quant/igemm.inc.h"

namespace hr::HR_TIER {

static void quantize(const float* x, int64_t n, const float* scale, const int32_t* zero, bool each, bool is_signed, void* y) {
    uint8_t* to = static_cast<uint8_t*>(y);
    if (!each) return Quantizer(scale[0], zero[0], is_signed).store(n, to, [&](int64_t i, int64_t count) __attribute__((always_inline)) { return load_first(x + i, count); });
    for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t count = n - i < kLanes ? n - i : kLanes;
        int32_t zeros[kLanes] = {};
        uint8_t bytes[kLanes];
        memcpy(zeros, zero + i, size_t(count) * 4);
        const vi z = load(zeros);
        const vf lo = to_float(splat(is_signed ? -128 : 0) - z), hi = to_float(splat(is_signed ? 127 : 255) - z);
        narrow(level(load_first(x + i, count) / load_first(scale + i, count), lo, hi) + z, is_signed, bytes);
        memcpy(to + i, bytes, size_t(count));
    }
}

static void quantize_within(const float* x, int64_t n, float scale, int32_t zero, uint8_t* y) {
    Quantizer(scale, zero, false).store<true>(n, y, [&](int64_t i, int64_t count) __attribute__((always_inline)) { return load_first(x + i, count); });
}

// Of x * factor.
static void quantize_scaled(const float* x, const float* factor, int64_t n, float scale, int32_t zero, bool is_signed, void* y) {
    Quantizer(scale, zero, is_signed).store(n, static_cast<uint8_t*>(y), [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        return load_first(x + i, count) * load_first(factor + i, count);
    });
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
    constexpr int kSteps = 4;
    vf least[kSteps], most[kSteps], sum[kSteps] = {};
    HR_UNROLL for (int j = 0; j < kSteps; j++) least[j] = splat(*lo), most[j] = splat(*hi);
    const auto step = [&](int j, vf v) __attribute__((always_inline)) { least[j] = vmin(v, least[j]), most[j] = vmax(v, most[j]), sum[j] += v; };
    int64_t i = 0;
    for (; i + kSteps * kLanes <= n; i += kSteps * kLanes) HR_UNROLL for (int j = 0; j < kSteps; j++) step(j, load(x + i + j * kLanes));
    for (; i + kLanes <= n; i += kLanes) step(0, load(x + i));
    HR_UNROLL for (int j = 1; j < kSteps; j++) least[0] = vmin(least[j], least[0]), most[0] = vmax(most[j], most[0]), sum[0] += sum[j];
    HR_UNROLL for (int half = kLanes / 2; half; half /= 2) least[0] = vmin(least[0], exchanged(least[0], half)), most[0] = vmax(most[0], exchanged(most[0], half));
    float low = least[0][0], high = most[0][0];
    bool nan = any((vi)(sum[0] != sum[0]));     // of a NaN, or of infinities of both signs
    for (; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        nan |= x[i] != x[i];
    }
    if (nan) {
        nan = false;
        for (i = 0; i < n; i++) nan |= x[i] != x[i];
    }
    *lo = nan ? __builtin_nanf("") : low, *hi = nan ? __builtin_nanf("") : high;
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
#ifdef HR_PACKS_BYTES
    // Where no sum leaves 32 bits, and the bounds are those of the type, packing saturates.
    const bool within = 256.0f * (magnitude(sa.scale)[0] + magnitude(sb.scale)[0]) < 0x1p30f, whole = lo == float((y_signed ? -128 : 0) - zero) && hi == float((y_signed ? 127 : 255) - zero);
    if (within && whole) {
        const ByteEnd end(zero, y_signed);
        const auto level = [&](int64_t at) __attribute__((always_inline)) { return round_even(real(a.data + at, sa) + real(b.data + at, sb)); };
        for (; i + 4 * kLanes <= n; i += 4 * kLanes)
            _mm512_storeu_si512(to + i, end.packed(level(i), level(i + kLanes), level(i + 2 * kLanes), level(i + 3 * kLanes)));
    }
#endif
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
