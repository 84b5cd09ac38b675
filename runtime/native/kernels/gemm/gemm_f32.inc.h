// f32 tiles: kRows x kVecs vectors of accumulators that stay in registers. With HR_BF16 the 32-bit elements of A and B are
// pairs of bf16, neighbours in k, and `k` counts pairs; all else is the same.
#pragma once
#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/bf16.inc.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/simd.h"

namespace hr::HR_TIER {

// Rows of a tile: of one panel, and of a pair of panels where the registers hold as many sums (0: never). Of more than nine
// rows g++ keeps some pointers in memory, which costs 7 %.
#if HR_TIER_RANK >= 2
constexpr int kRows = 9, kPairRows = 6, kVecs = 2;      // 18 and 24 of 32 registers
#elif HR_TIER_RANK == 1
constexpr int kRows = 6, kPairRows = 0, kVecs = 2;      // 12 of 16
#else
constexpr int kRows = 4, kPairRows = 0, kVecs = 2;      // 8 of 16; the product needs a register of its own
#endif
constexpr int kRowStep = kPairRows ? 2 * kPairRows : kRows;     // rows that work is cut at
constexpr int kCols = kVecs * kLanes;
constexpr int64_t kSmallB = 192 << 10;  // bytes: a fifth of L2
// A packed panel of 20 KiB leaves a third of a 32 KiB L1 to rows of A; pairs come from L2, and only that holds them back.
constexpr int kDepth = kPairRows ? 320 : 5120 / kCols;

// What a tile asks for while it computes, so that no later one waits: one address for every k, `step` floats apart.
struct Ahead {
    const float* from;
    int64_t step;
};

// What a tile reads and writes, from its first row and column on.
struct At {
    const float* b;
    float* c;
    int64_t ldc;
    BFloat16* low;      // as in GemmBlock
    int64_t ldlow;
    const float* bias;
    Reals r;
    int64_t ldr;
};

#ifdef HR_BF16
// The results of a tile as bf16; the activations that are no clamps first.
template <int MR, int NV> HR_INLINE void store_low(const vf (&acc)[MR][NV], const Activation& act, BFloat16* low, int64_t ldlow) {
    if (act.kind == Act::none) {
        HR_UNROLL for (int i = 0; i < MR; i++) store_row(low + i * ldlow, acc[i]);
        return;
    }
    alignas(64) float y[MR * NV * kLanes];
    HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) store(y + (i * NV + j) * kLanes, acc[i][j]);
    activate_row(act, y, MR * NV * kLanes);
    for (int i = 0; i < MR; i++)
        HR_UNROLL for (int j = 0; j < NV; j++) store(low + i * ldlow + j * kLanes, load(y + (i * NV + j) * kLanes));
}
#endif

// MR rows by NV vectors: one of a panel, a whole panel, or several (wide tiles keep enough chains in flight when rows are
// few). kPacked: B's rows are kCols apart. kHalf: of the last vector only the lower half counts.
template <int MR, int NV, bool kPacked, bool kHalf = false>
static void tile(const GemmBlock& g, int64_t m, const At& at, Ahead ahead) {
    const float* b = at.b;
    float* c = at.c;
    const int64_t ldc = at.ldc;
    vf acc[MR][NV];
    if (g.first && g.epilogue.from_bias && at.bias) {
        HR_UNROLL for (int j = 0; j < NV; j++) {
            const vf start = load(at.bias + j * kLanes);
            HR_UNROLL for (int i = 0; i < MR; i++) acc[i][j] = start;
        }
    } else if (g.first) {
        HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vf{};
    } else {
        HR_UNROLL for (int i = 0; i < MR; i++)
            HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(c + i * ldc + j * kLanes);
    }
    for (int64_t s = 0; s < g.segments; s++) {
        const float* a[MR];
        // Pointers to the rows' ends and a count up to zero: with twelve rows each register counts.
        HR_UNROLL for (int i = 0; i < MR; i++) a[i] = static_cast<const float*>(g.rows[s * g.stride + m + i]) + g.offset + g.k;
        for (int64_t k = -g.k; k < 0; k++) {
            vf bv[NV];
            HR_UNROLL for (int j = 0; j < NV; j++)
                bv[j] = load(b + (j / kVecs) * g.panel_stride + (j % kVecs) * kLanes);
            b += kPacked ? kCols : g.ldb;
            if constexpr (kPacked) {
                _mm_prefetch(reinterpret_cast<const char*>(ahead.from), _MM_HINT_T1);
                ahead.from += ahead.step;
            }
            HR_UNROLL for (int i = 0; i < MR; i++) {
                const vf x = spread(a[i] + k);
                HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = kHalf && j == NV - 1 ? step_half(x, bv[j], acc[i][j]) : step(x, bv[j], acc[i][j]);
            }
        }
    }
    if (g.last) {
        const Epilogue& e = g.epilogue;
        const vf lo = splat(e.act.lo), hi = splat(e.act.hi);
        if (e.scale != 1.0f) {
            HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] *= splat(e.scale);
        }
        if (at.bias && !e.from_bias) {
            HR_UNROLL for (int j = 0; j < NV; j++) {
                const vf add = load(at.bias + j * kLanes);
                HR_UNROLL for (int i = 0; i < MR; i++) acc[i][j] += add;
            }
        }
        if (at.r) {
            HR_UNROLL for (int i = 0; i < MR; i++)
                HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += load(at.r, i * at.ldr + j * kLanes);
        }
        if (e.act.lo != -__builtin_inff()) {
            HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vmax(lo, acc[i][j]);
        }
        if (e.act.hi != __builtin_inff()) {
            HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vmin(hi, acc[i][j]);
        }
#ifdef HR_BF16
        if (at.low) return store_low<MR, NV>(acc, e.act, at.low, at.ldlow);
#endif
    }
    HR_UNROLL for (int i = 0; i < MR; i++)
        HR_UNROLL for (int j = 0; j < NV; j++) store(c + i * ldc + j * kLanes, acc[i][j]);
    if (g.last && g.epilogue.act.kind != Act::none)
        for (int i = 0; i < MR; i++) activate_row(g.epilogue.act, c + i * ldc, NV * kLanes);
}

// An even number of bytes; a call of memcpy for each row would cost more than some tiles.
HR_INLINE void copy_part(void* to, const void* from, int64_t bytes) {
#if HR_TIER_RANK >= 2 && !defined(HR_EMULATE_VNNI)
    for (int64_t at = 0; at < bytes; at += 64) {
        const __mmask32 mask = bytes - at >= 64 ? ~0u : (1u << ((bytes - at) / 2)) - 1;
        _mm512_mask_storeu_epi16(static_cast<char*>(to) + at, mask, _mm512_maskz_loadu_epi16(mask, static_cast<const char*>(from) + at));
    }
#else
    memcpy(to, from, size_t(bytes));
#endif
}

// A last panel that ends within a vector: the same tile on a copy of whole vectors.
template <int MR, int NV, bool kHalf = false>
static void edge_tile(const GemmBlock& g, int64_t m, int64_t n, const At& at, Ahead ahead) {
    constexpr int kWidth = NV * kLanes;
    float out[MR * kWidth], residual[MR * kWidth];
    BFloat16 low[MR * kWidth];
    const int64_t item = at.r.low ? 2 : 4;
    if (!g.first) {
        memset(out, 0, sizeof out);
        for (int i = 0; i < MR; i++) copy_part(out + i * kWidth, at.c + i * at.ldc, n * 4);
    }
    if (at.r) {
        memset(residual, 0, sizeof residual);
        for (int i = 0; i < MR; i++) copy_part(reinterpret_cast<char*>(residual) + i * kWidth * item, (at.r + i * at.ldr).data, n * item);
    }
    const Reals r(at.r ? residual : nullptr, at.r.low);
    tile<MR, NV, true, kHalf>(g, m, {at.b, out, kWidth, at.low ? low : nullptr, kWidth, at.bias, r, kWidth}, ahead);
    if (g.last && at.low)
        for (int i = 0; i < MR; i++) copy_part(at.low + i * at.ldlow, low + i * kWidth, n * 2);
    else
        for (int i = 0; i < MR; i++) copy_part(at.c + i * at.ldc, out + i * kWidth, n * 4);
}

using TileFn = void (*)(const GemmBlock&, int64_t, const At&, Ahead);
using EdgeFn = void (*)(const GemmBlock&, int64_t, int64_t, const At&, Ahead);

// Tables over the number of rows: one vector, one panel, two, as many as fill the registers; for whole vectors and not.
template <int MR> constexpr int wide_panels() {
    constexpr int most = kPairRows ? 2 * kPairRows : kRows;
    return MR == 1 ? 4 : MR * 3 <= most ? 3 : MR * 2 <= most ? 2 : 1;
}
template <int MR> constexpr int two_panels() { return wide_panels<MR>() > 1 ? 2 : 1; }
template <int... I> struct Tiles {
    static constexpr TileFn narrow[] = {tile<I + 1, 1, true>...};
    static constexpr TileFn one[] = {tile<I + 1, kVecs, true>...};
    static constexpr TileFn two[] = {tile<I + 1, kVecs * two_panels<I + 1>(), true>...};
    static constexpr TileFn wide[] = {tile<I + 1, kVecs * wide_panels<I + 1>(), true>...};
    static constexpr TileFn in_place[] = {tile<I + 1, kVecs, false>...};
    static constexpr TileFn in_place_two[] = {tile<I + 1, kVecs * two_panels<I + 1>(), false>...};
    static constexpr TileFn in_place_wide[] = {tile<I + 1, kVecs * wide_panels<I + 1>(), false>...};
    static constexpr EdgeFn narrow_edge[] = {edge_tile<I + 1, 1>...};
    static constexpr EdgeFn edge[] = {edge_tile<I + 1, kVecs>...};
    static constexpr EdgeFn half_edge[] = {edge_tile<I + 1, kVecs, true>...};
    static constexpr int panels[] = {wide_panels<I + 1>()...};
};
template <int N, int... I> struct MakeTiles : MakeTiles<N - 1, N - 1, I...> {};
template <int... I> struct MakeTiles<0, I...> { using type = Tiles<I...>; };
using AllTiles = MakeTiles<kRows>::type;

// The lines that a tile is going to write, those of the residual that it is going to read.
template <int kWrite> HR_INLINE void prefetch_tile(const Reals& from, int64_t ld, int64_t rows, int64_t columns) {
    const char* line = static_cast<const char*>(from.data);
    const int64_t item = from.low ? 2 : 4;
    for (int64_t i = 0; i < rows; i++, line += ld * item)
        for (int64_t j = 0; j < columns * item; j += 64) __builtin_prefetch(line + j, kWrite, 3);
}

// Rows [m, m + rows) and `width` columns from n on: whole panels, or the last one, which may be narrow.
static void run_tile(const GemmBlock& g, int64_t m, int rows, int64_t n, int64_t width, Ahead ahead) {
    const Epilogue& e = g.epilogue;
    const At at{g.b + n / kCols * g.panel_stride, g.c + m * g.ldc + n, g.ldc, g.low ? g.low + m * g.ldlow + n : nullptr, g.ldlow,
                e.bias ? e.bias + n : nullptr, e.residual ? e.residual + (m * e.ldr + n) : Reals(), e.ldr};
    const bool packed = g.ldb == kCols;
    const auto run = [&](const TileFn* tiles) { tiles[rows - 1](g, m, at, ahead); };
    if (width > 2 * kCols) run(packed ? AllTiles::wide : AllTiles::in_place_wide);
    else if (width > kCols) run(packed ? AllTiles::two : AllTiles::in_place_two);
    else if (width == kCols) run(packed ? AllTiles::one : AllTiles::in_place);
    else if (width == kLanes) run(AllTiles::narrow);
    else if (width < kLanes) AllTiles::narrow_edge[rows - 1](g, m, width, at, ahead);
    else (width <= kCols - kLanes / 2 ? AllTiles::half_edge : AllTiles::edge)[rows - 1](g, m, width, at, ahead);
}

// Panel by panel, so that a panel stays in L1 for all rows, or pair by pair, which come from L2 as fast as they are used; but
// tile by tile where L2 holds all of B and each tile is short: then rows of C and of the residual are met in the order in
// which they lie in memory.
static void gemm_block(const GemmBlock& g) {
    const Epilogue& e = g.epilogue;
    const int64_t panels = (g.n + kCols - 1) / kCols;
    if (g.m <= kRows) {
        const int64_t wide = kCols * AllTiles::panels[g.m - 1], two = wide < 2 * kCols ? wide : 2 * kCols;
        for (int64_t n = 0; n < g.n;) {
            const int64_t left = g.n - n, width = left >= wide ? wide : left >= two ? two : left < kCols ? left : kCols;
            run_tile(g, 0, int(g.m), n, width, {g.b, 0});
            n += width;
        }
        return;
    }
    const bool by_rows = panels * g.panel_stride * 4 <= kSmallB, pairs = kPairRows && g.n >= 2 * kCols;
    // Rows spread evenly over the tiles: 49 rows in tiles of 6 would end with a slow tile of one.
    const int64_t highest = pairs ? kPairRows : kRows, tiles = (g.m + highest - 1) / highest, each = g.m / tiles, longer = g.m % tiles;
    const auto start = [&](int64_t t) { return each * t + (t < longer ? t : longer); };
    const auto width_at = [&](int64_t n) { return pairs && g.n - n >= 2 * kCols ? 2 * kCols : g.n - n < kCols ? g.n - n : kCols; };
    const int64_t depth = g.segments * g.k, share = by_rows ? 0 : ((pairs ? 2 : 1) * g.panel_stride + tiles * depth - 1) / (tiles * depth);
    for (int64_t t = 0, n = 0; t < tiles && n < g.n;) {     // no division in here: a short tile takes 400 cycles
        const int64_t width = width_at(n);
        int64_t next_t = t, next_n = n + width;
        if (by_rows) next_n = next_n < g.n ? next_n : 0, next_t = t + (next_n == 0);
        else next_t = t + 1 < tiles ? t + 1 : 0, next_n = next_t ? n : next_n;
        if (next_t < tiles && next_n + kCols <= g.n) {
            const int64_t m = start(next_t), rows = each + (next_t < longer), columns = width_at(next_n);
            if (g.low && g.last) prefetch_tile<1>(Reals(g.low + m * g.ldlow + next_n, true), g.ldlow, rows, columns);
            else prefetch_tile<1>(g.c + m * g.ldc + next_n, g.ldc, rows, columns);
            if (e.residual && g.last) prefetch_tile<0>(e.residual + (m * e.ldr + next_n), e.ldr, rows, columns);
        }
        // Each tile asks for its share of the panels that follow.
        const Ahead ahead{by_rows ? g.b : g.b + (n + width) / kCols * g.panel_stride + share * depth * t, share};
        run_tile(g, start(t), int(each + (t < longer)), n, width, ahead);
        t = next_t, n = next_n;
    }
}

// Four columns of k values each, from where they lie as rows.
static void turn_columns(const float* from, int64_t step, int64_t k, float* to) {
    int64_t i = 0;
    for (; i + 4 <= k; i += 4, from += 4) {
        __m128 r[4];
        HR_UNROLL for (int j = 0; j < 4; j++) r[j] = _mm_loadu_ps(from + j * step);
        _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
        HR_UNROLL for (int j = 0; j < 4; j++) _mm_storeu_ps(to + (i + j) * kCols, r[j]);
    }
    for (; i < k; i++, from++)
        for (int j = 0; j < 4; j++) to[i * kCols + j] = from[j * step];
}

static void pack_panels(const float* b, int64_t ldk, int64_t ldn, int64_t k, int64_t n, float* out, int64_t panel_stride,
                        int64_t panel0, int64_t panel1) {
    for (int64_t p = panel0; p < panel1; p++) {
        float* to = out + p * panel_stride;
        const float* from = b + p * kCols * ldn;
        const int64_t width = n - p * kCols < kCols ? n - p * kCols : kCols;
        if (ldn == 1 && width == kCols) {
            for (int64_t i = 0; i < k; i++, from += ldk, to += kCols)
                HR_UNROLL for (int j = 0; j < kVecs; j++) store(to + j * kLanes, load(from + j * kLanes));
        } else {
            const int64_t turned = ldk == 1 ? width & ~int64_t(3) : 0;
            for (int64_t j = 0; j < turned; j += 4) turn_columns(from + j * ldn, ldn, k, to + j);
            for (int64_t j = turned; j < width; j++)
                for (int64_t i = 0; i < k; i++) to[i * kCols + j] = from[i * ldk + j * ldn];
            for (int64_t i = 0; width < kCols && i < k; i++) memset(to + i * kCols + width, 0, size_t(kCols - width) * 4);
        }
    }
}

// Square blocks of 16 keep both sides' cache lines alive.
static void transpose32(const void* in, int64_t ldi, int64_t rows, int64_t cols, void* out, int64_t ldo) {
    constexpr int64_t B = 16;
    const int32_t* from = static_cast<const int32_t*>(in);
    int32_t* to = static_cast<int32_t*>(out);
    for (int64_t r = 0; r < rows; r += B)
        for (int64_t c = 0; c < cols; c += B) {
            const int64_t r1 = r + B < rows ? r + B : rows, c1 = c + B < cols ? c + B : cols;
            for (int64_t j = c; j < c1; j++)
                for (int64_t i = r; i < r1; i++) to[j * ldo + i] = from[i * ldi + j];
        }
}

}  // namespace hr::HR_TIER
