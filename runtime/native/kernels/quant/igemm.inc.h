// Integer tiles.
#pragma once
#include <type_traits>

#include "kernels/quant/requantize.inc.h"

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

// Sums of MR rows by NV vectors (one of a panel, a panel, or several panels). Asks for memory ahead as f32 tiles do.
template <int MR, int NV, class Keep>
HR_INLINE void int_sums(const IntBlock& g, int64_t m, const int8_t* b, const int8_t* ahead, int64_t step, const Keep& keep) {
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
    keep(acc);
}

// The sums as they are, [MR, NV * kLanes]. Nothing else happens here: with more code around the loop g++ keeps the accumulators
// in memory.
template <int MR, int NV>
static __attribute__((noinline)) void int_tile(const IntBlock& g, int64_t m, const int8_t* b, int32_t* sums, const int8_t* ahead, int64_t step) {
    int_sums<MR, NV>(g, m, b, ahead, step, [&](const vi (&acc)[MR][NV]) __attribute__((always_inline)) {
        HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) store(sums + (i * NV + j) * kLanes, acc[i][j]);
    });
}

#ifdef HR_PACKS_BYTES
// Straight to bytes where packing is all that is left to do (IntEpilogue::saturates), column n first.
template <int MR, int NV>
static __attribute__((noinline)) void byte_tile(const IntBlock& g, int64_t m, int64_t n, const int8_t* b, const int8_t* ahead, int64_t step) {
    int_sums<MR, NV>(g, m, b, ahead, step, [&](const vi (&acc)[MR][NV]) __attribute__((always_inline)) {
        const IntEpilogue& e = g.epilogue;
        const int32_t* col = e.col + n;
        const float* scale = e.scale + n;
        const ByteEnd end(e);
        const int64_t width = g.n - n < NV * kLanes ? g.n - n : NV * kLanes, ldc = g.ldc;
        char* c = static_cast<char*>(g.c) + m * ldc + n;
        const auto level = [&](int i) __attribute__((always_inline)) {      // vector i of all, row by row
            i = i < MR * NV ? i : MR * NV - 1;
            return round_even(to_float(acc[i / NV][i % NV] + load(col + i % NV * kLanes)) * load(scale + i % NV * kLanes));
        };
        HR_UNROLL for (int i = 0; i < MR * NV; i += 4) {
            const __m512i bytes = end.packed(level(i), level(i + 1), level(i + 2), level(i + 3));
            store_rows<NV>(bytes, c + i / NV * ldc, ldc, MR - i / NV, width);
        }
    });
}
#endif

// Straight to floats, column n first: one scale and one bias a column; and a scale and a zero point a row, or floats that are added.
enum class Ending { plain, levels, added, levels_added };
template <int MR, int NV, Ending kEnding>
static __attribute__((noinline)) void float_tile(const IntBlock& g, int64_t m, int64_t n, const int8_t* b, float* c, int64_t ldc, const int8_t* ahead, int64_t step) {
    constexpr bool kLevels = kEnding == Ending::levels || kEnding == Ending::levels_added, kAdded = kEnding == Ending::added || kEnding == Ending::levels_added;
    int_sums<MR, NV>(g, m, b, ahead, step, [&](const vi (&acc)[MR][NV]) __attribute__((always_inline)) {
        const IntEpilogue& e = g.epilogue;
        const int32_t *col = e.col + n, *col_sum = kLevels ? e.col_sum + n : nullptr, *row_shift = kLevels ? e.row_shift + m : nullptr;
        const float *scale = e.scale + n, *bias = e.bias + n, *row_scale = kLevels ? e.row_scale + m : nullptr;
        const float* added = kAdded ? e.added + m * e.ldr + n : nullptr;
        const int64_t ldr = e.ldr;
        float* to = c;
        HR_UNROLL for (int j = 0; j < NV * kLanes; j += kLanes) {
            const vi column = load(col + j), sum = kLevels ? load(col_sum + j) : vi{};
            const vf factor = load(scale + j), addend = load(bias + j);
            HR_UNROLL for (int i = 0; i < MR; i++) {
                vi v = acc[i][j / kLanes] + column;
                if constexpr (kLevels) v += sum * splat(row_shift[i]);
                vf y = to_float(v);
                if constexpr (kLevels) y *= splat(row_scale[i]);
                y = y * factor + addend;
                if constexpr (kAdded) y += load(added + i * ldr + j);
                store(to + i * ldc + j, y);
            }
        }
    });
}

using IntTileFn = void (*)(const IntBlock&, int64_t, const int8_t*, int32_t*, const int8_t*, int64_t);
using FloatTileFn = void (*)(const IntBlock&, int64_t, int64_t, const int8_t*, float*, int64_t, const int8_t*, int64_t);
using ByteTileFn = void (*)(const IntBlock&, int64_t, int64_t, const int8_t*, const int8_t*, int64_t);
template <int MR> constexpr int int_panels() { return MR == 1 ? 3 : MR <= (kPairRows ? kPairRows : kIntRows / 2) ? 2 : 1; }
template <int MR> constexpr int two_panels() { return int_panels<MR>() > 1 ? 2 : 1; }
template <int... I> struct IntTiles {
    static constexpr IntTileFn narrow[] = {int_tile<I + 1, 1>...};
    static constexpr IntTileFn one[] = {int_tile<I + 1, kIntVecs>...};
    static constexpr IntTileFn wide[] = {int_tile<I + 1, kIntVecs * int_panels<I + 1>()>...};
    template <Ending kEnding> static constexpr FloatTileFn one_floats[] = {float_tile<I + 1, kIntVecs, kEnding>...};
    template <Ending kEnding> static constexpr FloatTileFn two_floats[] = {float_tile<I + 1, kIntVecs * two_panels<I + 1>(), kEnding>...};
    static constexpr int panels[] = {int_panels<I + 1>()...};
#ifdef HR_PACKS_BYTES
    static constexpr ByteTileFn narrow_bytes[] = {byte_tile<I + 1, 1>...};
    static constexpr ByteTileFn one_bytes[] = {byte_tile<I + 1, kIntVecs>...};
    static constexpr ByteTileFn wide_bytes[] = {byte_tile<I + 1, kIntVecs * two_panels<I + 1>()>...};
#endif
};
template <int N, int... I> struct MakeIntTiles : MakeIntTiles<N - 1, N - 1, I...> {};
template <int... I> struct MakeIntTiles<0, I...> { using type = IntTiles<I...>; };
using AllIntTiles = MakeIntTiles<kIntRows>::type;

template <Ending kEnding> HR_INLINE FloatTileFn float_tile_of(int rows, int64_t panels) {
    return (panels > 1 ? AllIntTiles::two_floats<kEnding> : AllIntTiles::one_floats<kEnding>)[rows - 1];
}

template <int NV> HR_INLINE void gelu_rows(const float* y, int rows, float* c, int64_t ldc) {
    for (int row = 0; row < rows; row++, y += NV * kLanes, c += ldc) {
        vf x[NV];
        HR_UNROLL for (int j = 0; j < NV; j++) x[j] = load(y + j * kLanes);
        gelus(x);
        HR_UNROLL for (int j = 0; j < NV; j++) store(c + j * kLanes, x[j]);
    }
}

// Where nothing but float_tile() is needed, and GELU, which most transformers have after every other product of theirs.
static bool run_float_tile(const IntBlock& g, int64_t m, int rows, int64_t n, int64_t panels, float* c, int64_t ldc, const int8_t* ahead, int64_t step) {
    const IntEpilogue& e = g.epilogue;
    const bool levels = e.row_shift && e.row_scale, gelus = e.act.kind == Act::gelu;
    const bool others = e.r || (e.added && gelus) || e.w_zero || bool(e.row_shift) != bool(e.row_scale) || !e.col || !e.bias || e.act.lo != -__builtin_inff() || e.act.hi != __builtin_inff();
    const int64_t width = panels * kIntCols;
    if (e.out != IntOut::f32 || others || (e.act.kind != Act::none && !gelus) || panels > 2 || g.n - n < width) return false;
    const FloatTileFn tile = levels && e.added ? float_tile_of<Ending::levels_added>(rows, panels)
                             : levels          ? float_tile_of<Ending::levels>(rows, panels)
                             : e.added         ? float_tile_of<Ending::added>(rows, panels)
                                               : float_tile_of<Ending::plain>(rows, panels);
    const int8_t* b = g.b + n / kIntCols * g.panel_stride;
    if (!gelus) return tile(g, m, n, b, c, ldc, ahead, step), true;
    alignas(64) float y[kIntRows * kIntCols * 2];
    tile(g, m, n, b, y, width, ahead, step);
    panels > 1 ? gelu_rows<2 * kIntVecs>(y, rows, c, ldc) : gelu_rows<kIntVecs>(y, rows, c, ldc);
    return true;
}

// Floats of a tile, `ld` apart, as levels of 8 bits; `width` columns from column n on.
static void store_levels(const IntEpilogue& e, const float* y, int64_t ld, int64_t n, int rows, int64_t width, uint8_t* c, int64_t ldc) {
    const Quantizer levels(e.level_scale, e.zero, e.levels_signed);
    const float* factor = e.factor ? e.factor + n : nullptr;
    for (int row = 0; row < rows; row++, y += ld, c += ldc) {
        if (factor) levels.store(width, c, [&](int64_t i, int64_t) __attribute__((always_inline)) { return load(y + i) * load(factor + i); });     // both are padded
        else levels.store(width, c, [&](int64_t i, int64_t) __attribute__((always_inline)) { return load(y + i); });
    }
}

// What a tile has just written, still in L1, goes into the range of all results.
static void widen(float* range, const float* c, int64_t ldc, int rows, int64_t width) {
    vf least = load(range), most = load(range + kRangeLanes), sum = load(range + 2 * kRangeLanes);
    const auto step = [&](vf x) __attribute__((always_inline)) { least = vmin(x, least), most = vmax(x, most), sum += x; };
    for (int row = 0; row < rows; row++, c += ldc) {
        int64_t i = 0;
        for (; i + kLanes <= width; i += kLanes) step(load(c + i));
        if (i == width) continue;
        alignas(64) float last[kLanes] = {};
        memcpy(last, c + i, size_t(width - i) * 4);
        step(load(last));
    }
    store(range, least), store(range + kRangeLanes, most), store(range + 2 * kRangeLanes, sum);
}

// Rows [m, m + rows) and `left` columns from n on, at most `panels` panels; answers how many panels it took.
static int64_t run_int_tile(const IntBlock& g, int64_t m, int rows, int64_t n, int64_t panels, const int8_t* ahead, int64_t step) {
    alignas(64) int32_t sums[kIntRows * kIntCols * 3];
    const IntEpilogue& e = g.epilogue;
    const int64_t size = out_bytes(e), most = panels * kIntCols, width = g.n - n < most ? g.n - n : most;
    alignas(64) float floats[kIntRows * kIntCols * 3];
    const bool levels = e.level_scale != 0;
    char* c = levels ? reinterpret_cast<char*>(floats) : static_cast<char*>(g.c) + (m * g.ldc + n) * size;
    const int64_t ldc = levels ? most : g.ldc;
#ifdef HR_PACKS_BYTES
    if (e.saturates && !e.r && !e.w_zero && !e.row_shift && panels <= 2) {
        const ByteTileFn bytes = (panels > 1 ? AllIntTiles::wide_bytes : width <= kLanes ? AllIntTiles::narrow_bytes : AllIntTiles::one_bytes)[rows - 1];
        bytes(g, m, n, g.b + n / kIntCols * g.panel_stride, ahead, step);
        return panels;
    }
#endif
    if (!run_float_tile(g, m, rows, n, panels, reinterpret_cast<float*>(c), ldc, ahead, step)) {
        const IntTileFn tile = (panels > 1 ? AllIntTiles::wide : width <= kLanes ? AllIntTiles::narrow : AllIntTiles::one)[rows - 1];
        tile(g, m, g.b + n / kIntCols * g.panel_stride, sums, ahead, step);
        finish({sums, panels > 1 ? most : width <= kLanes ? kLanes : kIntCols, rows, width, e, m, n,
                e.r ? static_cast<const uint8_t*>(e.r) + m * e.ldr + n : nullptr, c, ldc});
    }
    if (e.range) widen(e.range, reinterpret_cast<const float*>(c), ldc, rows, width);
    if (levels) store_levels(e, floats, ldc, n, rows, width, static_cast<uint8_t*>(g.c) + m * g.ldc + n, g.ldc);
    return panels;
}

// The lines of the result that a tile is going to write.
HR_INLINE void prefetch_result(const IntBlock& g, int64_t m, int64_t rows, int64_t n, int64_t columns) {
    const int64_t size = out_bytes(g.epilogue), width = (g.n - n < columns ? g.n - n : columns) * size;
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

}  // namespace hr::HR_TIER
