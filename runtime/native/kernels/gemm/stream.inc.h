// Few rows times a B that stays as it lies, [k, n]: what is limited by reading B once. Sums wait in C, which L1 holds for so many
// columns; some rows of B are read side by side, so that many reads are on their way and each sum is loaded once for all of them.
// Every sum is the same chain over rising k as in gemm_f32.inc.h.
#pragma once
#include "kernels/gemm/gemm_f32.inc.h"

namespace hr::HR_TIER {

// M rows of A, R rows of B from k on.
template <int M, int R> static void stream_rows(const GemmStream& g, int64_t k) {
    float x[M][R];
    for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) x[m][r] = g.a[m * g.lda + k + r];
    const float* b = g.b + k * g.ldb;
    int64_t n = 0;
    for (; n + kLanes <= g.n; n += kLanes) {
        vf sum[M];
        HR_UNROLL for (int m = 0; m < M; m++) sum[m] = load(g.c + m * g.ldc + n);
        HR_UNROLL for (int r = 0; r < R; r++) {
            const vf bv = load(b + r * g.ldb + n);
            HR_UNROLL for (int m = 0; m < M; m++) sum[m] = step(spread(&x[m][r]), bv, sum[m]);
        }
        HR_UNROLL for (int m = 0; m < M; m++) store(g.c + m * g.ldc + n, sum[m]);
    }
    if (n == g.n) return;
    float last[R][kLanes] = {};     // the end of B may be the end of a mapped file
    for (int r = 0; r < R; r++) copy_part(last[r], b + r * g.ldb + n, (g.n - n) * 4);
    for (int m = 0; m < M; m++) {
        float c[kLanes] = {};
        copy_part(c, g.c + m * g.ldc + n, (g.n - n) * 4);
        vf sum = load(c);
        for (int r = 0; r < R; r++) sum = step(spread(&x[m][r]), load(last[r]), sum);
        store(c, sum);
        copy_part(g.c + m * g.ldc + n, c, (g.n - n) * 4);
    }
}

template <int M> static void stream(const GemmStream& g) {
    constexpr int kTogether = HR_TIER_RANK >= 2 && M <= 4 ? 12 : 8;
    constexpr int64_t kWhole = 1024;    // columns: whole rows of so many are best read one after the other
    for (int m = 0; m < M; m++) memset(g.c + m * g.ldc, 0, size_t(g.n) * 4);
    int64_t k = 0;
    if (M > 1 || g.n != g.ldb || g.n > kWhole)
        for (; k + kTogether <= g.k; k += kTogether) stream_rows<M, kTogether>(g, k);
    for (; k < g.k; k++) stream_rows<M, 1>(g, k);
}

static void gemm_stream(const GemmStream& g) {
    static_assert(kStreamRows == 8);
    constexpr void (*rows[])(const GemmStream&) = {stream<1>, stream<2>, stream<3>, stream<4>, stream<5>, stream<6>, stream<7>, stream<8>};
    rows[g.m - 1](g);
}

}  // namespace hr::HR_TIER
