// What becomes of integer sums: 32 bits, float32 or bytes; the shared requantization.
#pragma once
#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/simd.h"
#include "kernels/quant/igemm.h"

namespace hr::HR_TIER {

// kLanes 8-bit values as integers, and back (values already in range).
HR_INLINE vi widen(const uint8_t* p, bool is_signed) {
#if HR_TIER_RANK == 1
    const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return is_signed ? (vi)_mm256_cvtepi8_epi32(x) : (vi)_mm256_cvtepu8_epi32(x);
#elif HR_TIER_RANK == 2 && !defined(HR_EMULATE_VNNI)
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return is_signed ? (vi)_mm512_cvtepi8_epi32(x) : (vi)_mm512_cvtepu8_epi32(x);
#else
    vi v = {};
    for (int i = 0; i < kLanes; i++) v[i] = is_signed ? int32_t(int8_t(p[i])) : int32_t(p[i]);
    return v;
#endif
}

// Signed bytes through the unsigned path: flipped by 0x80 they are 128 more. One instruction instead of a branch.
struct Bytes {
    uint8_t flip;
    vi zero;
    vf scale;
    Bytes(bool is_signed, int32_t z, float s) : flip(is_signed ? 0x80 : 0), zero(splat(z + (is_signed ? 128 : 0))), scale(splat(s)) {}
};
HR_INLINE vf real(const uint8_t* p, const Bytes& b) {
    uint8_t copy[kLanes];
    for (int i = 0; i < kLanes; i++) copy[i] = p[i] ^ b.flip;
    return to_float(widen(copy, false) - b.zero) * b.scale;
}

HR_INLINE void narrow(vi v, bool is_signed, void* p) {
#if HR_TIER_RANK == 1
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    _mm_storel_epi64(static_cast<__m128i*>(p), is_signed ? _mm_packs_epi16(words, words) : _mm_packus_epi16(words, words));
#elif HR_TIER_RANK == 2 && !defined(HR_EMULATE_VNNI)
    (void)is_signed;
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
#elif HR_TIER_RANK == 0
    const __m128i words = _mm_packs_epi32((__m128i)v, (__m128i)v);
    const int32_t bytes = _mm_cvtsi128_si32(is_signed ? _mm_packs_epi16(words, words) : _mm_packus_epi16(words, words));
    memcpy(p, &bytes, 4);
#else
    (void)is_signed;
    for (int i = 0; i < kLanes; i++) static_cast<uint8_t*>(p)[i] = uint8_t(v[i]);
#endif
}

HR_INLINE int64_t out_bytes(const IntEpilogue& e) { return e.level_scale == 0 && (e.out == IntOut::s32 || e.out == IntOut::f32) ? 4 : 1; }

// What a block of sums becomes. sums[row * ld + i], i < width (padded to whole vectors), belong to row m + row and column
// j + i of the block that `e` describes; r and c point at row m, column j.
struct Finish {
    const int32_t* sums;
    int64_t ld, rows, width;
    const IntEpilogue& e;
    int64_t m, j;
    const uint8_t* r;
    char* c;
    int64_t ldc;
};

#if HR_TIER_RANK == 2 && !defined(HR_EMULATE_VNNI)
#define HR_PACKS_BYTES
// Four vectors to bytes at a time: what saturates while it is packed needs no clamp, and stores are fewer. Signed results go
// through the unsigned ones that are 128 more.
struct ByteEnd {
    __m512i zero, flip, order;
    explicit ByteEnd(const IntEpilogue& e) : ByteEnd(e.zero, e.out == IntOut::i8) {}
    ByteEnd(int32_t z, bool is_signed)
        : zero(_mm512_set1_epi16(int16_t(z + (is_signed ? 128 : 0)))), flip(_mm512_set1_epi8(char(is_signed ? 0x80 : 0))),
          order(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)) {}      // packing is by lanes of 128 bits
    __attribute__((always_inline)) __m512i packed(vi a, vi b, vi c, vi d) const {
        const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32((__m512i)a, (__m512i)b), zero);
        const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32((__m512i)c, (__m512i)d), zero);
        return _mm512_permutexvar_epi32(order, _mm512_xor_si512(_mm512_packus_epi16(low, high), flip));
    }
};

// Four vectors of bytes as rows of NV, at most `rows` of them, `width` bytes of each.
template <int NV> HR_INLINE void store_rows(__m512i bytes, char* c, int64_t ldc, int64_t rows, int64_t width) {
    static_assert(NV == 1 || NV == 2 || NV == 4);
    if constexpr (NV == 4) {
        if (width == 64) _mm512_storeu_si512(c, bytes);
        else _mm512_mask_storeu_epi8(c, (uint64_t(1) << width) - 1, bytes);
    } else if constexpr (NV == 2) {
        const __mmask32 within = width == 32 ? ~0u : (1u << width) - 1;
        const __m256i part[2] = {_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64(bytes, 1)};
        HR_UNROLL for (int i = 0; i < 2; i++)
            if (i < rows) width == 32 ? _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + i * ldc), part[i]) : _mm256_mask_storeu_epi8(c + i * ldc, within, part[i]);
    } else {
        const __mmask16 within = __mmask16((1u << width) - 1);
        const __m128i part[4] = {_mm512_castsi512_si128(bytes), _mm512_extracti32x4_epi32(bytes, 1), _mm512_extracti32x4_epi32(bytes, 2), _mm512_extracti32x4_epi32(bytes, 3)};
        HR_UNROLL for (int i = 0; i < 4; i++)
            if (i < rows) width == 16 ? _mm_storeu_si128(reinterpret_cast<__m128i*>(c + i * ldc), part[i]) : _mm_mask_storeu_epi8(c + i * ldc, within, part[i]);
    }
}

// Two vectors of columns, all rows, two at a time. kClamp: bounds within the type's, or sums that may leave 32 bits.
template <bool kResidual, bool kClamp> HR_INLINE void finish_byte_columns(const Finish& f, const IntEpilogue& e, const ByteEnd& end, int64_t i) {
    const int64_t left = f.width - i, second = left > kLanes ? kLanes : 0;      // a single vector is read twice
    const auto columns = [&](const auto* p, int v) __attribute__((always_inline)) { return load(p + f.j + i + v * second); };
    const vi add[2] = {e.col ? columns(e.col, 0) : vi{}, e.col ? columns(e.col, 1) : vi{}};
    const vf scale[2] = {columns(e.scale, 0), columns(e.scale, 1)}, lo = splat(e.lo), hi = splat(e.hi), r_scale = splat(e.r_scale);
    const vi r_zero = splat(e.r_zero);
    const int64_t width = left < 2 * kLanes ? left : 2 * kLanes, rows = f.rows, ld = f.ld, ldc = f.ldc, ldr = e.ldr;
    const uint32_t within = width == 2 * kLanes ? ~0u : (1u << width) - 1;
    const bool r_signed = e.r_signed;
    const int32_t* sums = f.sums + i;
    const uint8_t* r = kResidual ? f.r + i : nullptr;
    const auto level = [&](int64_t row, int v) __attribute__((always_inline)) {
        vf y = to_float(load(sums + row * ld + v * second) + add[v]) * scale[v];
        if constexpr (kResidual) {
            const __m128i bytes = _mm_maskz_loadu_epi8(__mmask16(within >> v * kLanes), r + row * ldr + v * kLanes);
            y += to_float((r_signed ? (vi)_mm512_cvtepi8_epi32(bytes) : (vi)_mm512_cvtepu8_epi32(bytes)) - r_zero) * r_scale;
        }
        if constexpr (kClamp) y = vmin(hi, vmax(lo, y));
        return round_even(y);
    };
    for (int64_t row = 0; row < rows; row += 2) {
        const int64_t next = row + 1 < rows ? row + 1 : row;
        store_rows<2>(end.packed(level(row, 0), level(row, 1), level(next, 0), level(next, 1)), f.c + row * ldc + i, ldc, rows - row, width);
    }
}

template <bool kResidual, bool kClamp> static void finish_bytes_as(const Finish& given) {
    const Finish f = given;     // copies, which no store reaches
    const IntEpilogue e = given.e;
    const ByteEnd end(e);
    for (int64_t i = 0; i < f.width; i += 2 * kLanes) finish_byte_columns<kResidual, kClamp>(f, e, end, i);
}

static void finish_bytes(const Finish& f) {
    if (f.r) return f.e.saturates ? finish_bytes_as<true, false>(f) : finish_bytes_as<true, true>(f);
    return f.e.saturates ? finish_bytes_as<false, false>(f) : finish_bytes_as<false, true>(f);
}
#endif

// The level of v, saturated, zero point not yet added: clamping before rounding gives the same integers. NaN is level 0.
HR_INLINE vi level(vf v, vf lo, vf hi) { return round_even(vmin(hi, vmax(lo, (vf)((vi)v & (vi)(v == v))))); }

// Levels of x / scale, one scale and zero point for all, mostly without dividing. x * (1 / scale) is off by three roundings at
// most, 4.6e-5 of a level that matters (they are below 256): only where it lies so near to the middle of two may the quotient
// round to the other one. There, and for NaN, all is done again as it is said.
struct Quantizer {
    vf scale, inverse, lo, hi;
    vi zero;
    bool is_signed, divides;
#ifdef HR_PACKS_BYTES
    ByteEnd end;
#endif

    Quantizer(float s, int32_t z, bool of_signed)
        : scale(splat(s)), inverse(splat(1.0f / s)), lo(splat(float((of_signed ? -128 : 0) - z))), hi(splat(float((of_signed ? 127 : 255) - z))),
          zero(splat(z)), is_signed(of_signed), divides(!(s > 0x1p-100f && s < 0x1p100f))       // 1 / s: neither subnormal nor infinite
#ifdef HR_PACKS_BYTES
          , end(z, of_signed)
#endif
    {}

    // kWithin: numbers between whose extremes the levels lie, NaN and infinity not among them unless the scale tells. What packs
    // them saturates, so that nothing is clamped here.
    template <bool kWithin, int N> __attribute__((always_inline)) void levels(const vf (&x)[N], vi (&y)[N]) const {
#ifdef HR_PACKS_BYTES
        if constexpr (kWithin) {
            __m512 most = _mm512_setzero_ps();
            HR_UNROLL for (int j = 0; j < N; j++) {
                const vf v = x[j] * inverse;
                y[j] = round_even(v);
                most = _mm512_range_ps(most, _mm512_reduce_ps((__m512)v, 8), 11);   // the greater magnitude of what is left of the nearest integer
            }
            if (__builtin_expect(divides || any((vi)most > (vi)splat(0.49994f)), 0)) HR_UNROLL for (int j = 0; j < N; j++) y[j] = level(x[j] / scale, lo, hi);
            return;
        }
#endif
        vi worst = {};
        HR_UNROLL for (int j = 0; j < N; j++) {
            const vf v = vmin(hi, vmax(lo, x[j] * inverse));
            y[j] = round_even(v);
            const vi apart = (vi)(v - to_float(y[j])) & 0x7fffffff;      // as integers these are in the order of the numbers, and NaN is above
            worst = apart > worst ? apart : worst;
        }
        const vi near = worst > (vi)splat(0.49994f);
        if (__builtin_expect(divides || any(near), 0)) HR_UNROLL for (int j = 0; j < N; j++) y[j] = level(x[j] / scale, lo, hi);
    }

    // The levels of n numbers as bytes; at(i, count) answers `count` of them from i on.
    template <bool kWithin = false, class At> __attribute__((always_inline)) void store(int64_t n, uint8_t* to, const At& at) const {
        int64_t i = 0;
        vi y[4], one[1];
        for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
            const vf x[4] = {at(i, int64_t(kLanes)), at(i + kLanes, int64_t(kLanes)), at(i + 2 * kLanes, int64_t(kLanes)), at(i + 3 * kLanes, int64_t(kLanes))};
            levels<kWithin>(x, y);
#ifdef HR_PACKS_BYTES
            _mm512_storeu_si512(to + i, end.packed(y[0], y[1], y[2], y[3]));
#else
            HR_UNROLL for (int j = 0; j < 4; j++) narrow(y[j] + zero, is_signed, to + i + j * kLanes);
#endif
        }
        for (; i + kLanes <= n; i += kLanes) levels<false>({at(i, int64_t(kLanes))}, one), narrow(one[0] + zero, is_signed, to + i);
        if (i == n) return;
        uint8_t last[kLanes];
        levels<false>({at(i, n - i)}, one), narrow(one[0] + zero, is_signed, last);
        memcpy(to + i, last, size_t(n - i));
    }
};

// `count` floats, then ones.
HR_INLINE vf load_first(const float* p, int64_t count) {
    if (count == kLanes) return load(p);
    float part[kLanes];
    store(part, splat(1.0f));
    memcpy(part, p, size_t(count) * 4);
    return load(part);
}

// One vector of columns, all rows: what belongs to a column is loaded once. kFolds: zero points of weights or rows are
// still to be folded in; kWhole: the vector lies within the row, else through a copy.
template <IntOut kOut, bool kFolds, bool kResidual, bool kGelu, bool kWhole> HR_INLINE void finish_column(const Finish& f, const IntEpilogue& e, int64_t i) {
    constexpr bool kBytes = kOut == IntOut::u8 || kOut == IntOut::i8;
    constexpr int64_t kSize = kBytes ? 1 : 4;
    const vf lo = splat(kBytes ? e.lo : e.act.lo), hi = splat(kBytes ? e.hi : e.act.hi), r_scale = splat(e.r_scale);
    const vi zero = splat(e.zero), r_zero = splat(e.r_zero), col = e.col ? load(e.col + f.j + i) : vi{};
    const vf scale = kOut == IntOut::s32 ? vf{} : load(e.scale + f.j + i), bias = e.bias ? load(e.bias + f.j + i) : vf{};
    const bool has_bias = e.bias, r_signed = e.r_signed;
    const bool bounded = kBytes || e.act.lo != -__builtin_inff() || e.act.hi != __builtin_inff();
    const float* row_scale = e.row_scale ? e.row_scale + f.m : nullptr;
    const int32_t* sums = f.sums + i;
    const uint8_t* r = f.r + i;
    char* c = f.c + i * kSize;
    const size_t tail = size_t(f.width - i);
    const int64_t rows = f.rows, ld = f.ld, step = f.ldc * kSize, ldr = e.ldr;    // stores of bytes may alias: not read again
    for (int64_t row = 0; row < rows; row++, sums += ld, c += step) {
        alignas(64) char last[kLanes * 4];
        char* to = kWhole ? c : last;
        vi v = load(sums) + col;
        if constexpr (kFolds) {
            if (e.w_zero) v -= load(e.w_zero + f.j + i) * splat(e.row_sum[f.m + row]);
            if (e.row_shift) v += load(e.col_sum + f.j + i) * splat(e.row_shift[f.m + row]);
        }
        if constexpr (kOut == IntOut::s32) {
            store(reinterpret_cast<int32_t*>(to), v);
        } else {
            vf y = to_float(v);
            if (!kBytes && row_scale) y *= splat(row_scale[row]);
            y *= scale;
            if constexpr (kResidual) {
                uint8_t copy[kLanes] = {};
                if (!kWhole) memcpy(copy, r, tail);
                y += to_float(widen(kWhole ? r : copy, r_signed) - r_zero) * r_scale;
                r += ldr;
            }
            if constexpr (kBytes) {
                narrow(round_even(vmin(hi, vmax(lo, y))) + zero, kOut == IntOut::i8, to);
            } else {
                if (has_bias) y += bias;
                if (e.added) {
                    const float* from = e.added + (f.m + row) * ldr + f.j + i;
                    if (!kWhole) memcpy(last, from, tail * 4);
                    y += load(kWhole ? from : reinterpret_cast<const float*>(last));
                }
                store(reinterpret_cast<float*>(to), kGelu ? gelu(y) : bounded ? vmin(hi, vmax(lo, y)) : y);
            }
        }
        if (!kWhole) memcpy(c, last, tail * kSize);
    }
}

template <IntOut kOut, bool kFolds, bool kResidual, bool kGelu> static void finish_as(const Finish& given) {
    // Copies, which no store reaches: a single row would read all of it again for every vector.
    const Finish f = given;
    const IntEpilogue e = given.e;
    int64_t i = 0;
    for (; i + kLanes <= f.width; i += kLanes) finish_column<kOut, kFolds, kResidual, kGelu, true>(f, e, i);
    if (i < f.width) finish_column<kOut, kFolds, kResidual, kGelu, false>(f, e, i);
    if constexpr (kOut == IntOut::f32 && !kGelu)
        if (e.act.kind != Act::none)
            for (int64_t row = 0; row < f.rows; row++) activate_row(e.act, reinterpret_cast<float*>(f.c) + row * f.ldc, f.width);
}

// GELU, which most transformers have after every other product of theirs, is applied before the store; other activations then.
template <IntOut kOut, bool kFolds> static void finish_with(const Finish& f) {
#ifdef HR_PACKS_BYTES
    if constexpr (!kFolds && (kOut == IntOut::u8 || kOut == IntOut::i8)) return finish_bytes(f);
#endif
    if (f.r) return finish_as<kOut, kFolds, true, false>(f);
    if constexpr (kOut == IntOut::f32)
        if (f.e.act.kind == Act::gelu) return finish_as<kOut, kFolds, false, true>(f);
    return finish_as<kOut, kFolds, false, false>(f);
}

template <IntOut kOut> static void finish_to(const Finish& f) {
    return f.e.w_zero || f.e.row_shift ? finish_with<kOut, true>(f) : finish_with<kOut, false>(f);
}

static __attribute__((noinline)) void finish(const Finish& f) {
    switch (f.e.out) {
        case IntOut::u8: return finish_to<IntOut::u8>(f);
        case IntOut::i8: return finish_to<IntOut::i8>(f);
        case IntOut::f32: return finish_to<IntOut::f32>(f);
        default: return finish_to<IntOut::s32>(f);
    }
}

}  // namespace hr::HR_TIER
