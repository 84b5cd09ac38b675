// Depthwise integer sums, kUnit taps at a time: values of one channel from kUnit rows become neighbours by unpacking. That works
// within 128-bit lanes, so sum e of lane L of accumulator j belongs to channel (L * kSums + j) * 4 + e of a block.
#pragma once
#include "kernels/quant/igemm.inc.h"

namespace hr::HR_TIER {

#if HR_TIER_RANK == 0
using Bits = __m128i;
HR_INLINE Bits load_bits(const void* p) { return _mm_loadu_si128(static_cast<const Bits*>(p)); }
HR_INLINE void store_lanes(int32_t* p, Bits v, int64_t) { _mm_storeu_si128(reinterpret_cast<Bits*>(p), v); }
HR_INLINE void interleave(const Bits* x, Bits* u) { u[0] = _mm_unpacklo_epi16(x[0], x[1]), u[1] = _mm_unpackhi_epi16(x[0], x[1]); }
HR_INLINE Bits dot_bits(Bits sum, Bits x, Bits w) { return _mm_add_epi32(sum, _mm_madd_epi16(x, w)); }
#else
using Bits = __m256i;
HR_INLINE Bits load_bits(const void* p) { return _mm256_loadu_si256(static_cast<const Bits*>(p)); }
HR_INLINE void store_lanes(int32_t* p, Bits v, int64_t lane) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + lane), _mm256_extracti128_si256(v, 1));
}
#if HR_TIER_RANK == 1
HR_INLINE void interleave(const Bits* x, Bits* u) { u[0] = _mm256_unpacklo_epi16(x[0], x[1]), u[1] = _mm256_unpackhi_epi16(x[0], x[1]); }
HR_INLINE Bits dot_bits(Bits sum, Bits x, Bits w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }
#else
HR_INLINE void interleave(const Bits* x, Bits* u) {
    const Bits a = _mm256_unpacklo_epi8(x[0], x[1]), b = _mm256_unpackhi_epi8(x[0], x[1]);
    const Bits c = _mm256_unpacklo_epi8(x[2], x[3]), d = _mm256_unpackhi_epi8(x[2], x[3]);
    u[0] = _mm256_unpacklo_epi16(a, c), u[1] = _mm256_unpackhi_epi16(a, c), u[2] = _mm256_unpacklo_epi16(b, d), u[3] = _mm256_unpackhi_epi16(b, d);
}
HR_INLINE Bits dot_bits(Bits sum, Bits x, Bits w) {
#ifdef HR_EMULATE_VNNI
    return dot_half(sum, _mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(x, 8), w);
#else
    return _mm256_dpbusd_epi32(sum, x, w);
#endif
}
// The weights straight from memory: with the intrinsic g++ 12 keeps some sums there.
HR_INLINE void dot_into(Bits& sum, Bits x, const int8_t* w) {
#ifdef HR_EMULATE_VNNI
    sum = dot_bits(sum, x, load_bits(w));
#else
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "m"(*reinterpret_cast<const Bits*>(w)));
#endif
}
#endif
#endif
constexpr int kSums = kUnit, kBlock = kSums * int(sizeof(Bits)) / 4;    // accumulators, channels of a block
using Weight = std::conditional_t<kUnit == 4, int8_t, int16_t>;

// [taps, ld] as [taps / kUnit][ld / kBlock][a block's sums in their order][kUnit]; false where a weight does not fit.
static bool pack_depthwise(const int32_t* w, int64_t taps, int64_t ld, void* out) {
    Weight* to = static_cast<Weight*>(out);
    for (int64_t t = 0; t < taps; t += kUnit)
        for (int64_t c = 0; c < ld; c++) {
            const int64_t in = c % kBlock, lane = in / (4 * kSums), j = in / 4 % kSums;
            Weight* at = to + (t * ld) + (c - in + j * (kBlock / kSums) + lane * 4 + in % 4) * kUnit;
            for (int64_t i = 0; i < kUnit; i++) {
                const int32_t value = t + i < taps ? w[(t + i) * ld + c] : 0;
                at[i] = Weight(value);
                if (at[i] != value) return false;
            }
        }
    return true;
}

// The values of a block of channels, those of n that there are, else zeros.
HR_INLINE Bits load_some(const Prepared* p, int64_t n) {
#ifdef HR_PACKS_BYTES
    return _mm256_maskz_loadu_epi8(n >= kBlock ? ~0u : (1u << n) - 1, p);
#endif
    if (n >= kBlock) return load_bits(p);
    Prepared some[kBlock] = {};
    memcpy(some, p, size_t(n) * sizeof(Prepared));
    return load_bits(some);
}

static void depthwise_block(const IntTable::Depthwise& d, int64_t m, int64_t j, int32_t* sums) {
    Bits acc[kSums] = {};
    const Weight* w = static_cast<const Weight*>(d.w) + j * kUnit;
    for (int64_t t = 0; t < d.taps; t += kUnit, w += d.ldw * kUnit) {
        Bits x[kUnit] = {}, u[kSums];
        HR_UNROLL for (int i = 0; i < kUnit; i++)
            if (t + i < d.taps) x[i] = load_some(static_cast<const Prepared*>(d.rows[(t + i) * d.stride + m]) + j, d.c - j);
        interleave(x, u);
        HR_UNROLL for (int i = 0; i < kSums; i++) acc[i] = dot_bits(acc[i], u[i], load_bits(w + i * (kBlock / kSums) * kUnit));
    }
    HR_UNROLL for (int i = 0; i < kSums; i++) store_lanes(sums + i * 4, acc[i], 4 * kSums);
}

#if HR_TIER_RANK == 2
// What becomes of the sums of P pixels by a block of channels, from channel j on.
template <int P> HR_INLINE void keep_sums(const Bits (&acc)[P][kSums], int32_t* sums, int64_t ld) {
    HR_UNROLL for (int i = 0; i < P; i++)
        HR_UNROLL for (int e = 0; e < kSums; e++) store_lanes(sums + i * ld + e * 4, acc[i][e], 4 * kSums);
}
#ifdef HR_PACKS_BYTES
// Straight to bytes: packing within 128-bit lanes undoes the order in which unpacking left the channels.
template <int P, bool kClamp> HR_INLINE void keep_bytes(const Bits (&acc)[P][kSums], const IntEpilogue& e, int64_t j, int64_t n, char* c, int64_t ldc) {
    const auto columns = [&](const auto* p, int k) __attribute__((always_inline)) {
        return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(p + j + 16 + 4 * k), reinterpret_cast<const __m128i*>(p + j + 4 * k));
    };
    const __m256 lo = _mm256_set1_ps(e.lo), hi = _mm256_set1_ps(e.hi);
    const __m256i zero = _mm256_set1_epi16(int16_t(e.zero));
    const bool is_signed = e.out == IntOut::i8;
    Bits level[P][kSums];
    HR_UNROLL for (int k = 0; k < kSums; k++) {
        const __m256i add = columns(e.col, k);
        const __m256 scale = _mm256_castsi256_ps(columns(e.scale, k));
        HR_UNROLL for (int i = 0; i < P; i++) {
            __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(acc[i][k], add)), scale);
            if (kClamp) y = _mm256_min_ps(hi, _mm256_max_ps(lo, y));
            level[i][k] = _mm256_cvtps_epi32(y);
        }
    }
    HR_UNROLL for (int i = 0; i < P; i++) {
        const __m256i a = _mm256_adds_epi16(_mm256_packs_epi32(level[i][0], level[i][1]), zero);
        const __m256i b = _mm256_adds_epi16(_mm256_packs_epi32(level[i][2], level[i][3]), zero);
        const __m256i bytes = is_signed ? _mm256_packs_epi16(a, b) : _mm256_packus_epi16(a, b);
        if (n >= kBlock) _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + i * ldc), bytes);
        else _mm256_mask_storeu_epi8(c + i * ldc, (1u << n) - 1, bytes);
    }
}
#endif

// P pixels of a row, 3 x 3 taps S apart: a column that several of them see is loaded and unpacked once.
template <int S, int P, class Keep> HR_INLINE void depthwise_square(const IntTable::Depthwise& d, int64_t m, int64_t j, const Keep& keep) {
    const Weight* w = static_cast<const Weight*>(d.w) + j * kUnit;
    const int64_t column_weights = d.ldw * kUnit, n = d.c - j;
    Bits acc[P][kSums];
    HR_UNROLL for (int i = 0; i < P; i++) HR_UNROLL for (int e = 0; e < kSums; e++) acc[i][e] = Bits{};
    HR_UNROLL for (int column = 0; column < S * (P - 1) + 3; column++) {
        // Any tap that looks at this column knows where it lies: that of the first pixel that can.
        const int first = column < 3 ? 0 : (column - 3) / S + 1, tap = column - S * first;
        if (tap > 2) continue;
        Bits x[kUnit] = {}, u[kSums];
        HR_UNROLL for (int i = 0; i < 3; i++) x[i] = load_some(static_cast<const Prepared*>(d.rows[(3 * i + tap) * d.stride + m + first]) + j, n);
        interleave(x, u);
        HR_UNROLL for (int i = 0; i < P; i++)
            HR_UNROLL for (int k = 0; k < 3; k++)
                if (S * i + k == column)
                    HR_UNROLL for (int e = 0; e < kSums; e++) dot_into(acc[i][e], u[e], w + k * column_weights + e * (kBlock / kSums) * kUnit);
    }
    keep(acc);
}

// A run of at most kRun pixels of one row of an image.
template <int S, class Keep> HR_INLINE void depthwise_run(const IntTable::Depthwise& d, int64_t m, int64_t pixels, int64_t j, const Keep& keep) {
    for (int64_t i = 0; i < pixels; i += 4) {
        const auto at = [&](const auto& acc) __attribute__((always_inline)) { keep(acc, i); };
        switch (pixels - i) {
            case 1: depthwise_square<S, 1>(d, m + i, j, at); break;
            case 2: depthwise_square<S, 2>(d, m + i, j, at); break;
            case 3: depthwise_square<S, 3>(d, m + i, j, at); break;
            default: depthwise_square<S, 4>(d, m + i, j, at);
        }
    }
}

template <int S> static void depthwise_squares(const IntTable::Depthwise& d, char* c, int64_t ldc, const IntEpilogue& given) {
    constexpr int64_t kRun = 8;
    const IntEpilogue e = given;    // a copy, which no store reaches
    const int64_t size = out_bytes(e);
    [[maybe_unused]] const bool bytes = (e.out == IntOut::u8 || e.out == IntOut::i8) && !e.r && !e.row_shift && e.col;
    alignas(64) int32_t sums[kRun * kBlock];
    for (int64_t m = 0; m < d.m;) {
        const int64_t left = d.width - (d.first + m) % d.width, most = left < kRun ? left : kRun, pixels = d.m - m < most ? d.m - m : most;
        char* to = c + m * ldc * size;
        for (int64_t j = 0; j < d.c; j += kBlock) {
            const int64_t n = d.c - j < kBlock ? d.c - j : kBlock;
#ifdef HR_PACKS_BYTES
            if (bytes) {
                if (e.saturates) depthwise_run<S>(d, m, pixels, j, [&](const auto& acc, int64_t i) __attribute__((always_inline)) { keep_bytes<sizeof acc / sizeof acc[0], false>(acc, e, j, n, to + i * ldc + j, ldc); });
                else depthwise_run<S>(d, m, pixels, j, [&](const auto& acc, int64_t i) __attribute__((always_inline)) { keep_bytes<sizeof acc / sizeof acc[0], true>(acc, e, j, n, to + i * ldc + j, ldc); });
                continue;
            }
#endif
            depthwise_run<S>(d, m, pixels, j, [&](const auto& acc, int64_t i) __attribute__((always_inline)) { keep_sums<sizeof acc / sizeof acc[0]>(acc, sums + i * kBlock, kBlock); });
            finish({sums, kBlock, pixels, n, e, m, j, e.r ? static_cast<const uint8_t*>(e.r) + m * e.ldr + j : nullptr, to + j * size, ldc});
        }
        m += pixels;
    }
}
#endif

// For weights that fit 32 bits only.
static void depthwise_wide(const IntTable::Depthwise& d, int64_t m, int64_t j, int64_t width, int32_t* sums) {
    for (int64_t i = 0; i < width; i++) sums[i] = 0;
    for (int64_t t = 0; t < d.taps; t++) {
        const Prepared* x = static_cast<const Prepared*>(d.rows[t * d.stride + m]) + j;
        const int32_t* w = static_cast<const int32_t*>(d.w) + t * d.ldw + j;
        for (int64_t i = 0; i < width; i++) sums[i] += int32_t(x[i]) * w[i];
    }
}

static void depthwise_int(const IntTable::Depthwise& d, void* c, int64_t ldc, const IntEpilogue& e) {
#if HR_TIER_RANK == 2
    if (d.step) return (d.step == 1 ? depthwise_squares<1> : depthwise_squares<2>)(d, static_cast<char*>(c), ldc, e);
#endif
    constexpr int64_t kChunk = 64, kPixels = 8;
    static_assert(kChunk % kBlock == 0);
    const int64_t size = out_bytes(e);
    alignas(64) int32_t sums[kPixels * kChunk];
    for (int64_t m = 0; m < d.m; m += kPixels) {
        const int64_t pixels = d.m - m < kPixels ? d.m - m : kPixels;
        for (int64_t j = 0; j < d.c; j += kChunk) {
            const int64_t width = d.c - j < kChunk ? d.c - j : kChunk;
            for (int64_t i = 0; i < pixels; i++) {
                if (d.wide) depthwise_wide(d, m + i, j, width, sums + i * kChunk);
                else for (int64_t k = 0; k < width; k += kBlock) depthwise_block(d, m + i, j + k, sums + i * kChunk + k);
            }
            finish({sums, kChunk, pixels, width, e, m, j, e.r ? static_cast<const uint8_t*>(e.r) + m * e.ldr + j : nullptr,
                    static_cast<char*>(c) + (m * ldc + j) * size, ldc});
        }
    }
}

}  // namespace hr::HR_TIER
