// f32 tiles: kRows x kVecs vectors of accumulators that stay in registers.
#pragma once
#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/simd.h"

namespace hr::HR_TIER {

#if HR_TIER_RANK == 2
constexpr int kRows = 12, kVecs = 2;    // 24 of 32 registers
#elif HR_TIER_RANK == 1
constexpr int kRows = 6, kVecs = 2;     // 12 of 16
#else
constexpr int kRows = 4, kVecs = 2;     // 8 of 16; the product needs a register of its own
#endif
constexpr int kCols = kVecs * kLanes;

// MR rows by PANELS panels (wide tiles keep enough chains in flight when rows are few).
template <int MR, int PANELS>
static void tile(const GemmBlock& g, int64_t m, const float* b, float* c, int64_t ldc, const float* bias, const float* r,
                 int64_t ldr) {
    constexpr int NV = kVecs * PANELS;
    vf acc[MR][NV];
    if (g.first) {
        HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vf{};
    } else {
        HR_UNROLL for (int i = 0; i < MR; i++)
            HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(c + i * ldc + j * kLanes);
    }
    for (int64_t s = 0; s < g.segments; s++) {
        const float* a[MR];
        HR_UNROLL for (int i = 0; i < MR; i++) a[i] = static_cast<const float*>(g.rows[s * g.stride + m + i]) + g.offset;
        for (int64_t k = 0; k < g.k; k++) {
            vf bv[NV];
            HR_UNROLL for (int j = 0; j < NV; j++)
                bv[j] = load(b + (j / kVecs) * g.panel_stride + (j % kVecs) * kLanes);
            b += g.ldb;
            HR_UNROLL for (int i = 0; i < MR; i++) {
                const vf x = splat(a[i][k]);
                HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = fma(x, bv[j], acc[i][j]);
            }
        }
    }
    if (g.last) {
        const Epilogue& e = g.epilogue;
        const vf lo = splat(e.act.lo), hi = splat(e.act.hi);
        if (e.scale != 1.0f) {
            HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] *= splat(e.scale);
        }
        if (bias) {
            HR_UNROLL for (int j = 0; j < NV; j++) {
                const vf add = load(bias + j * kLanes);
                HR_UNROLL for (int i = 0; i < MR; i++) acc[i][j] += add;
            }
        }
        if (r) {
            HR_UNROLL for (int i = 0; i < MR; i++)
                HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += load(r + i * ldr + j * kLanes);
        }
        HR_UNROLL for (int i = 0; i < MR; i++)
            HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vmin(hi, vmax(lo, acc[i][j]));
    }
    HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) store(c + i * ldc + j * kLanes, acc[i][j]);
    if (g.last && g.epilogue.act.kind != Act::none)
        for (int i = 0; i < MR; i++) activate_row(g.epilogue.act, c + i * ldc, NV * kLanes);
}

// The last, narrow panel: the same tile on a copy of whole vectors.
template <int MR>
static void edge_tile(const GemmBlock& g, int64_t m, int64_t n, const float* b, float* c, const float* bias, const float* r) {
    float out[MR * kCols], residual[MR * kCols];
    for (int i = 0; i < MR; i++) {
        memset(out + i * kCols, 0, kCols * 4);
        memset(residual + i * kCols, 0, kCols * 4);
        if (!g.first) memcpy(out + i * kCols, c + i * g.ldc, size_t(n) * 4);
        if (r) memcpy(residual + i * kCols, r + i * g.epilogue.ldr, size_t(n) * 4);
    }
    tile<MR, 1>(g, m, b, out, kCols, bias, r ? residual : nullptr, kCols);
    for (int i = 0; i < MR; i++) memcpy(c + i * g.ldc, out + i * kCols, size_t(n) * 4);
}

using TileFn = void (*)(const GemmBlock&, int64_t, const float*, float*, int64_t, const float*, const float*, int64_t);
using EdgeFn = void (*)(const GemmBlock&, int64_t, int64_t, const float*, float*, const float*, const float*);

// Tables over the number of rows: one panel, as many panels as fill the registers, the edge.
template <int MR> constexpr int wide_panels() { return MR == 1 ? 4 : MR * 2 <= kRows ? (MR * 3 <= kRows ? 3 : 2) : 1; }
template <int... I> struct Tiles {
    static constexpr TileFn one[] = {tile<I + 1, 1>...};
    static constexpr TileFn wide[] = {tile<I + 1, wide_panels<I + 1>()>...};
    static constexpr int panels[] = {wide_panels<I + 1>()...};
    static constexpr EdgeFn edge[] = {edge_tile<I + 1>...};
};
template <int N, int... I> struct MakeTiles : MakeTiles<N - 1, N - 1, I...> {};
template <int... I> struct MakeTiles<0, I...> { using type = Tiles<I...>; };
using AllTiles = MakeTiles<kRows>::type;

HR_INLINE void prefetch(const float* p, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += 16) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
}

static void gemm_block(const GemmBlock& g) {
    const Epilogue& e = g.epilogue;
    // Rows spread evenly over the tiles: 49 rows in tiles of 6 would end with a slow tile of one.
    const int64_t tiles = (g.m + kRows - 1) / kRows;
    for (int64_t n = 0; n < g.n;) {
        const float* b = g.b + n / kCols * g.panel_stride;
        const float* bias = e.bias ? e.bias + n : nullptr;
        int64_t width = kCols;
        for (int64_t t = 0, m = 0; t < tiles; t++) {
            const int rows = int((g.m * (t + 1)) / tiles - m);
            // Each tile asks for its share of the next panel, so that no tile waits for memory.
            if (tiles > 1) prefetch(b + g.panel_stride, g.panel_stride * t / tiles, g.panel_stride * (t + 1) / tiles);
            float* c = g.c + m * g.ldc + n;
            const float* r = e.residual ? e.residual + m * e.ldr + n : nullptr;
            if (g.n - n < kCols) {
                AllTiles::edge[rows - 1](g, m, g.n - n, b, c, bias, r);
            } else if (tiles == 1 && g.n - n >= kCols * AllTiles::panels[rows - 1]) {
                width = kCols * AllTiles::panels[rows - 1];
                AllTiles::wide[rows - 1](g, m, b, c, g.ldc, bias, r, e.ldr);
            } else {
                AllTiles::one[rows - 1](g, m, b, c, g.ldc, bias, r, e.ldr);
            }
            m += rows;
        }
        n += width;
    }
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
            for (int64_t j = 0; j < width; j++)
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
