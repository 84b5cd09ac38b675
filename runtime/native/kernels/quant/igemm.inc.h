// Integer tiles and the shared requantization.
#pragma once
#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/simd.h"
#include "kernels/quant/igemm.h"

namespace hr::HR_TIER {

#if HR_TIER_RANK == 2
constexpr int kIntRows = 12, kIntVecs = 2, kUnit = 4;
using Prepared = uint8_t;
#elif HR_TIER_RANK == 1
constexpr int kIntRows = 6, kIntVecs = 2, kUnit = 2;
using Prepared = int16_t;
#else
constexpr int kIntRows = 4, kIntVecs = 2, kUnit = 2;
using Prepared = int16_t;
#endif
constexpr int kIntCols = kIntVecs * kLanes;
static_assert(kUnit * sizeof(Prepared) == 4, "one unit of A is broadcast as 32 bits");

// One vector of weights: kLanes columns by kUnit values of k.
#if HR_TIER_RANK == 2
HR_INLINE vi load_weights(const int8_t* p) { vi v; memcpy(&v, p, sizeof v); return v; }
#ifdef HR_EMULATE_VNNI
HR_INLINE void dot(vi& acc, vi a, vi b) {
    const vi even = a & 0x00ff00ff, odd = (vi)((__attribute__((vector_size(64))) uint32_t)a >> 8) & 0x00ff00ff;
    auto sum = as<IntHalves>(acc), e = as<IntHalves>(even), o = as<IntHalves>(odd), w = as<IntHalves>(b);
    const auto half = [](__m256i s, __m256i x, __m256i y, __m256i q) __attribute__((always_inline)) {
        s = _mm256_add_epi32(s, _mm256_madd_epi16(x, _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8)));
        return _mm256_add_epi32(s, _mm256_madd_epi16(y, _mm256_srai_epi16(q, 8)));
    };
    acc = as<vi>(IntHalves{half(sum.lo, e.lo, o.lo, w.lo), half(sum.hi, e.hi, o.hi, w.hi)});
}
#else
// The intrinsic makes g++ 12 spill the accumulators; the instruction itself does not.
HR_INLINE void dot(vi& acc, vi a, vi b) { asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
#endif
#elif HR_TIER_RANK == 1
HR_INLINE vi load_weights(const int8_t* p) { return (vi)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
// In one piece, so that the compiler cannot hoist the products and spill the sums.
HR_INLINE void dot(vi& acc, vi a, vi b) {
    vi product;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(b), "x"(a));
}
#else
HR_INLINE vi load_weights(const int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return (vi)_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
}
HR_INLINE void dot(vi& acc, vi a, vi b) { acc += (vi)_mm_madd_epi16((__m128i)a, (__m128i)b); }
#endif

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

// kLanes sums of row m at column j of the block -> the zero points folded in, as f32 in units of the result.
HR_INLINE vi folded(vi v, const IntEpilogue& e, int64_t m, int64_t j) {
    if (e.col) v += load(e.col + j);
    if (e.w_zero) v -= load(e.w_zero + j) * splat(e.row_sum[m]);
    if (e.row_shift) v += load(e.col_sum + j) * splat(e.row_shift[m]);
    return v;
}
HR_INLINE vf residual(const uint8_t* r, const IntEpilogue& e) {
    return to_float(widen(r, e.r_signed) - splat(e.r_zero)) * splat(e.r_scale);
}

// One row of n sums, padded to whole vectors; `put(i, vector)` stores the first lanes that belong to the row.
template <class Read, class Put> HR_INLINE void each_vector(int64_t n, const uint8_t* r, Read&& read, Put&& put) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) put(i, read(i, r ? r + i : nullptr), kLanes);
    if (i < n) {    // a vector would reach beyond the residual and the result: copies
        uint8_t copy[kLanes] = {};
        if (r) memcpy(copy, r + i, size_t(n - i));
        put(i, read(i, r ? copy : nullptr), n - i);
    }
}

template <bool kSigned>
static void requantize_row(const int32_t* sum, int64_t n, const IntEpilogue& e, int64_t m, int64_t j, const uint8_t* r, void* c) {
    const vf lo = splat(e.lo), hi = splat(e.hi);
    const vi zero = splat(e.zero);
    uint8_t* to = static_cast<uint8_t*>(c);
    const auto read = [&](int64_t i, const uint8_t* from) __attribute__((always_inline)) {
        vf y = to_float(folded(load(sum + i), e, m, j + i)) * load(e.scale + j + i);
        if (from) y += residual(from, e);
        return round_even(vmin(hi, vmax(lo, y))) + zero;
    };
    each_vector(n, r, read, [&](int64_t i, vi v, int64_t width) __attribute__((always_inline)) {
        uint8_t bytes[kLanes];
        if (width == kLanes) return narrow(v, kSigned, to + i);
        narrow(v, kSigned, bytes);
        memcpy(to + i, bytes, size_t(width));
    });
}

static void real_row(const int32_t* sum, int64_t n, const IntEpilogue& e, int64_t m, int64_t j, const uint8_t* r, float* c) {
    const vf lo = splat(e.act.lo), hi = splat(e.act.hi);
    const auto read = [&](int64_t i, const uint8_t* from) __attribute__((always_inline)) {
        vf y = to_float(folded(load(sum + i), e, m, j + i));
        if (e.row_scale) y *= splat(e.row_scale[m]);
        y *= load(e.scale + j + i);
        if (from) y += residual(from, e);
        if (e.bias) y += load(e.bias + j + i);
        return vmin(hi, vmax(lo, y));
    };
    each_vector(n, r, read, [&](int64_t i, vf v, int64_t width) __attribute__((always_inline)) {
        if (width == kLanes) store(c + i, v);
        else memcpy(c + i, &v, size_t(width) * 4);
    });
    if (e.act.kind != Act::none) activate_row(e.act, c, n);
}

HR_INLINE int64_t out_bytes(IntOut out) { return out == IntOut::s32 || out == IntOut::f32 ? 4 : 1; }

static void finish_row(const int32_t* sum, int64_t n, const IntEpilogue& e, int64_t m, int64_t j, const uint8_t* r, void* c) {
    if (e.out == IntOut::u8) return requantize_row<false>(sum, n, e, m, j, r, c);
    if (e.out == IntOut::i8) return requantize_row<true>(sum, n, e, m, j, r, c);
    if (e.out == IntOut::f32) return real_row(sum, n, e, m, j, r, static_cast<float*>(c));
    int32_t* to = static_cast<int32_t*>(c);
    each_vector(n, nullptr, [&](int64_t i, const uint8_t*) { return folded(load(sum + i), e, m, j + i); },
                [&](int64_t i, vi v, int64_t width) { memcpy(to + i, &v, size_t(width) * 4); });
}

template <int MR, int PANELS> static void int_tile(const IntBlock& g, int64_t m, int64_t n, int64_t width, const int8_t* b) {
    constexpr int NV = kIntVecs * PANELS;
    vi acc[MR][NV];
    HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vi{};
    for (int64_t s = 0; s < g.segments; s++) {
        const char* a[MR];
        HR_UNROLL for (int i = 0; i < MR; i++) a[i] = static_cast<const char*>(g.rows[s * g.stride + m + i]);
        for (int64_t k = 0; k < g.units; k++) {
            vi bv[NV];
            HR_UNROLL for (int j = 0; j < NV; j++)
                bv[j] = load_weights(b + (j / kIntVecs) * g.panel_stride + (j % kIntVecs) * kLanes * kUnit);
            b += kIntCols * kUnit;
            HR_UNROLL for (int i = 0; i < MR; i++) {
                int32_t unit;
                memcpy(&unit, a[i] + 4 * k, 4);
                const vi x = splat(unit);
                HR_UNROLL for (int j = 0; j < NV; j++) dot(acc[i][j], x, bv[j]);
            }
        }
    }
    const IntEpilogue& e = g.epilogue;
    const int64_t size = out_bytes(e.out);
    char* c = static_cast<char*>(g.c) + (m * g.ldc + n) * size;
    const uint8_t* r = e.r ? static_cast<const uint8_t*>(e.r) + m * e.ldr + n : nullptr;
    if (width > NV * kLanes) width = NV * kLanes;
    alignas(64) int32_t sums[MR][NV * kLanes];
    HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) store(sums[i] + j * kLanes, acc[i][j]);
    for (int i = 0; i < MR; i++) finish_row(sums[i], width, e, m + i, n, r ? r + i * e.ldr : nullptr, c + i * g.ldc * size);
}

using IntTileFn = void (*)(const IntBlock&, int64_t, int64_t, int64_t, const int8_t*);
template <int MR> constexpr int int_panels() { return MR == 1 ? 3 : MR * 2 <= kIntRows ? 2 : 1; }
template <int... I> struct IntTiles {
    static constexpr IntTileFn one[] = {int_tile<I + 1, 1>...};
    static constexpr IntTileFn wide[] = {int_tile<I + 1, int_panels<I + 1>()>...};
    static constexpr int panels[] = {int_panels<I + 1>()...};
};
template <int N, int... I> struct MakeIntTiles : MakeIntTiles<N - 1, N - 1, I...> {};
template <int... I> struct MakeIntTiles<0, I...> { using type = IntTiles<I...>; };
using AllIntTiles = MakeIntTiles<kIntRows>::type;

static void int_block(const IntBlock& g) {
    const int64_t tiles = (g.m + kIntRows - 1) / kIntRows;
    for (int64_t n = 0; n < g.n;) {
        const int8_t* b = g.b + n / kIntCols * g.panel_stride;
        const int64_t left = g.n - n;
        int64_t width = kIntCols;
        for (int64_t t = 0, m = 0; t < tiles; t++) {
            const int rows = int(g.m * (t + 1) / tiles - m);
            if (tiles > 1)
                for (int64_t i = g.panel_stride * t / tiles; i < g.panel_stride * (t + 1) / tiles; i += 64)
                    _mm_prefetch(reinterpret_cast<const char*>(b + g.panel_stride + i), _MM_HINT_T1);
            const int panels = AllIntTiles::panels[rows - 1];
            if (tiles == 1 && left > kIntCols * (panels - 1)) {
                width = kIntCols * panels;
                AllIntTiles::wide[rows - 1](g, m, n, left, b);
            } else {
                AllIntTiles::one[rows - 1](g, m, n, left, b);
            }
            m += rows;
        }
        n += width;
    }
}

static void prepare(const uint8_t* x, bool is_signed, int32_t zero, int64_t n, void* out) {
    if constexpr (sizeof(Prepared) == 2) {
        int16_t* to = static_cast<int16_t*>(out);
        const int16_t z = int16_t(zero);
        if (is_signed) {
            const int8_t* from = reinterpret_cast<const int8_t*>(x);
            for (int64_t i = 0; i < n; i++) to[i] = int16_t(from[i] - z);
        } else {
            for (int64_t i = 0; i < n; i++) to[i] = int16_t(x[i] - z);
        }
    } else {
        uint8_t* to = static_cast<uint8_t*>(out);
        const uint8_t flip = is_signed ? 0x80 : 0;
        for (int64_t i = 0; i < n; i++) to[i] = uint8_t(x[i] ^ flip);
    }
}

static int32_t sum_prepared(const void* x, int64_t n) {
    const Prepared* p = static_cast<const Prepared*>(x);
    int32_t total = 0;
    for (int64_t i = 0; i < n; i++) total += p[i];
    return total;
}

static void depthwise_int(const IntTable::Depthwise& d, void* c, int64_t ldc, const IntEpilogue& e) {
    constexpr int64_t kChunk = 64;
    const int64_t size = out_bytes(e.out);
    for (int64_t m = 0; m < d.m; m++)
        for (int64_t j = 0; j < d.c; j += kChunk) {
            alignas(64) int32_t sums[kChunk + kLanes] = {};
            const int64_t width = d.c - j < kChunk ? d.c - j : kChunk;
            for (int64_t t = 0; t < d.taps; t++) {
                const Prepared* x = static_cast<const Prepared*>(d.rows[t * d.stride + m]) + j;
                const int32_t* w = d.w + t * d.ldw + j;
                for (int64_t i = 0; i < width; i++) sums[i] += int32_t(x[i]) * w[i];
            }
            finish_row(sums, width, e, m, j, e.r ? static_cast<const uint8_t*>(e.r) + m * e.ldr + j : nullptr,
                       static_cast<char*>(c) + (m * ldc + j) * size);
        }
}

}  // namespace hr::HR_TIER
