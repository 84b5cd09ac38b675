// Integer tiles and the shared requantization.
#pragma once
#include <type_traits>

#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/simd.h"
#include "kernels/quant/igemm.h"

namespace hr::HR_TIER {

// Rows of a tile: of one panel, and of a pair of panels where the registers hold as many sums (0: never). Of more than nine
// rows g++ keeps some pointers in memory, which costs 7 %.
#if HR_TIER_RANK == 2
constexpr int kIntRows = 9, kPairRows = 6, kIntVecs = 2, kUnit = 4;
using Prepared = uint8_t;
#elif HR_TIER_RANK == 1
constexpr int kIntRows = 6, kPairRows = 0, kIntVecs = 2, kUnit = 2;
using Prepared = int16_t;
#else
constexpr int kIntRows = 4, kPairRows = 0, kIntVecs = 2, kUnit = 2;
using Prepared = int16_t;
#endif
constexpr int kRowStep = kPairRows ? 2 * kPairRows : kIntRows;    // rows that work is cut at
constexpr int kIntCols = kIntVecs * kLanes;
constexpr int64_t kSmallWeights = 192 << 10;    // bytes: a fifth of L2
static_assert(kUnit * sizeof(Prepared) == 4, "one unit of A is broadcast as 32 bits");

// One vector of weights: kLanes columns by kUnit values of k.
#if HR_TIER_RANK == 2
HR_INLINE vi load_weights(const int8_t* p) { vi v; memcpy(&v, p, sizeof v); return v; }
#ifdef HR_EMULATE_VNNI
HR_INLINE __m256i dot_half(__m256i s, __m256i even, __m256i odd, __m256i w) {
    s = _mm256_add_epi32(s, _mm256_madd_epi16(even, _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8)));
    return _mm256_add_epi32(s, _mm256_madd_epi16(odd, _mm256_srai_epi16(w, 8)));
}
HR_INLINE void dot(vi& acc, vi a, vi b) {
    const vi even = a & 0x00ff00ff, odd = (vi)((__attribute__((vector_size(64))) uint32_t)a >> 8) & 0x00ff00ff;
    auto sum = as<IntHalves>(acc), e = as<IntHalves>(even), o = as<IntHalves>(odd), w = as<IntHalves>(b);
    acc = as<vi>(IntHalves{dot_half(sum.lo, e.lo, o.lo, w.lo), dot_half(sum.hi, e.hi, o.hi, w.hi)});
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

HR_INLINE int64_t out_bytes(IntOut out) { return out == IntOut::s32 || out == IntOut::f32 ? 4 : 1; }

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

// Sums of MR rows by NV vectors (one of a panel, a panel, or several panels), [MR, NV * kLanes]. Nothing else happens here:
// with more code around the loop g++ keeps the accumulators in memory. Asks for memory ahead as f32 tiles do.
template <int MR, int NV>
static __attribute__((noinline)) void int_tile(const IntBlock& g, int64_t m, const int8_t* b, int32_t* sums, const int8_t* ahead, int64_t step) {
    vi acc[MR][NV];
    HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vi{};
    for (int64_t s = 0; s < g.segments; s++) {
        const char* a[MR];
        HR_UNROLL for (int i = 0; i < MR; i++) a[i] = static_cast<const char*>(g.rows[s * g.stride + m + i]) + 4 * g.units;
        for (int64_t k = -g.units; k < 0; k++) {
            vi bv[NV];
            HR_UNROLL for (int j = 0; j < NV; j++)
                bv[j] = load_weights(b + (j / kIntVecs) * g.panel_stride + (j % kIntVecs) * kLanes * kUnit);
            b += kIntCols * kUnit;
            _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
            ahead += step;
            HR_UNROLL for (int i = 0; i < MR; i++) {
                int32_t unit;
                memcpy(&unit, a[i] + 4 * k, 4);
                const vi x = splat(unit);
                HR_UNROLL for (int j = 0; j < NV; j++) dot(acc[i][j], x, bv[j]);
            }
        }
    }
    HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) store(sums + (i * NV + j) * kLanes, acc[i][j]);
}

using IntTileFn = void (*)(const IntBlock&, int64_t, const int8_t*, int32_t*, const int8_t*, int64_t);
template <int MR> constexpr int int_panels() { return MR == 1 ? 3 : MR <= (kPairRows ? kPairRows : kIntRows / 2) ? 2 : 1; }
template <int... I> struct IntTiles {
    static constexpr IntTileFn narrow[] = {int_tile<I + 1, 1>...};
    static constexpr IntTileFn one[] = {int_tile<I + 1, kIntVecs>...};
    static constexpr IntTileFn wide[] = {int_tile<I + 1, kIntVecs * int_panels<I + 1>()>...};
    static constexpr int panels[] = {int_panels<I + 1>()...};
};
template <int N, int... I> struct MakeIntTiles : MakeIntTiles<N - 1, N - 1, I...> {};
template <int... I> struct MakeIntTiles<0, I...> { using type = IntTiles<I...>; };
using AllIntTiles = MakeIntTiles<kIntRows>::type;

// Rows [m, m + rows) and `left` columns from n on, at most `panels` panels; answers how many panels it took.
static int64_t run_int_tile(const IntBlock& g, int64_t m, int rows, int64_t n, int64_t panels, const int8_t* ahead, int64_t step) {
    alignas(64) int32_t sums[kIntRows * kIntCols * 3];
    const IntEpilogue& e = g.epilogue;
    const int64_t size = out_bytes(e.out), most = panels * kIntCols, width = g.n - n < most ? g.n - n : most;
    const IntTileFn tile = (panels > 1 ? AllIntTiles::wide : width <= kLanes ? AllIntTiles::narrow : AllIntTiles::one)[rows - 1];
    tile(g, m, g.b + n / kIntCols * g.panel_stride, sums, ahead, step);
    finish({sums, panels > 1 ? most : width <= kLanes ? kLanes : kIntCols, rows, width, e, m, n,
            e.r ? static_cast<const uint8_t*>(e.r) + m * e.ldr + n : nullptr, static_cast<char*>(g.c) + (m * g.ldc + n) * size, g.ldc});
    return panels;
}

// The lines of the result that a tile is going to write.
HR_INLINE void prefetch_result(const IntBlock& g, int64_t m, int64_t rows, int64_t n, int64_t columns) {
    const int64_t size = out_bytes(g.epilogue.out), width = (g.n - n < columns ? g.n - n : columns) * size;
    const char* c = static_cast<const char*>(g.c) + (m * g.ldc + n) * size;
    for (int64_t i = 0; i < rows; i++, c += g.ldc * size)
        for (int64_t j = 0; j < width; j += 64) __builtin_prefetch(c + j, 1, 3);
}

// The order of gemm_f32.inc.h: panels, or pairs of them, one by one, or tile by tile where weights are small.
static void int_block(const IntBlock& g) {
    const int64_t panels = (g.n + kIntCols - 1) / kIntCols;
    if (g.m <= kIntRows) {
        const int64_t most = AllIntTiles::panels[g.m - 1];
        for (int64_t p = 0; p < panels;) p += run_int_tile(g, 0, int(g.m), p * kIntCols, p + most <= panels ? most : 1, g.b, 0);
        return;
    }
    const bool by_rows = panels * g.panel_stride <= kSmallWeights, pairs = kPairRows && g.n > 3 * kLanes;
    const int64_t highest = pairs ? kPairRows : kIntRows, tiles = (g.m + highest - 1) / highest, each = g.m / tiles, longer = g.m % tiles;
    const auto start = [&](int64_t t) { return each * t + (t < longer ? t : longer); };
    const auto together = [&](int64_t n) { return pairs && g.n - n > 3 * kLanes ? 2 : 1; };     // panels from column n on
    const int64_t depth = g.segments * g.units, share = by_rows ? 0 : (together(0) * g.panel_stride + tiles * depth - 1) / (tiles * depth);
    for (int64_t t = 0, n = 0; t < tiles && n < g.n;) {     // no division in here, as there
        const int64_t wide = together(n);
        int64_t next_t = t, next_n = n + wide * kIntCols;
        if (by_rows) next_n = next_n < g.n ? next_n : 0, next_t = t + (next_n == 0);
        else next_t = t + 1 < tiles ? t + 1 : 0, next_n = next_t ? n : next_n;
        if (next_t < tiles && next_n < g.n) prefetch_result(g, start(next_t), each + (next_t < longer), next_n, together(next_n) * kIntCols);
        const int8_t* ahead = by_rows ? g.b : g.b + (n / kIntCols + wide) * g.panel_stride + share * depth * t;
        run_int_tile(g, start(t), int(each + (t < longer)), n, wide, ahead, share);
        t = next_t, n = next_n;
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

// Depthwise sums, kUnit taps at a time: values of one channel from kUnit rows become neighbours by unpacking. That works
// within 128-bit lanes, so sum e of lane L of accumulator j belongs to channel (L * kSums + j) * 4 + e of a block.
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

static void depthwise_block(const IntTable::Depthwise& d, int64_t m, int64_t j, int32_t* sums) {
    Bits acc[kSums] = {};
    const Weight* w = static_cast<const Weight*>(d.w) + j * kUnit;
    for (int64_t t = 0; t < d.taps; t += kUnit, w += d.ldw * kUnit) {
        Bits x[kUnit] = {}, u[kSums];
        HR_UNROLL for (int i = 0; i < kUnit; i++)
            if (t + i < d.taps) x[i] = load_bits(static_cast<const Prepared*>(d.rows[(t + i) * d.stride + m]) + j);
        interleave(x, u);
        HR_UNROLL for (int i = 0; i < kSums; i++) acc[i] = dot_bits(acc[i], u[i], load_bits(w + i * (kBlock / kSums) * kUnit));
    }
    HR_UNROLL for (int i = 0; i < kSums; i++) store_lanes(sums + i * 4, acc[i], 4 * kSums);
}

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
    constexpr int64_t kChunk = 64, kPixels = 8;
    static_assert(kChunk % kBlock == 0);
    const int64_t size = out_bytes(e.out);
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
