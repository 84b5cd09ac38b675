// The plain integer product: any shape, any alignment, every architecture since sm_61; the oracle of the tensor-core one.
#pragma once
#include "requantize.cuh"

namespace hr::dp4a_tile {

constexpr int kRows = 64, kCols = 64, kWords = 8, kThreads = 256, kShared = 2 * kWords * (kRows + 1) * 4;

// Bytes k..k+3 of a row as one word, zero beyond `depth`.
HR_DEVICE uint32_t word_of(const uint8_t* row, int k, int depth) {
    if (k + 4 <= depth && (reinterpret_cast<uint64_t>(row + k) & 3) == 0) return *reinterpret_cast<const uint32_t*>(row + k);
    uint32_t value = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (k + i < depth) value |= uint32_t(row[k + i]) << (8 * i);
    return value;
}

// y = finish(A [m, k] . B [n, k]^T) for one tile: block of kThreads, kShared bytes. `rows` knows where A and y lie: row(m),
// what it wants to remember of a row, and word(row, k, depth), its bytes k..k+3; at(m, n), the element of y, and r_at(m, n),
// that of the residual. `feature` is added to a column to find what belongs to it in the epilogue.
template <bool SIGNED_A, class Rows>
HR_DEVICE void run(const Rows& rows, const uint8_t* b, long long ldb, void* y, long long m, int n, int k, int feature, const Epilogue& e) {
    HR_SHARED(uint32_t, shared);
    uint32_t(*as)[kRows + 1] = reinterpret_cast<uint32_t(*)[kRows + 1]>(shared);
    uint32_t(*bs)[kCols + 1] = as + kWords;
    const long long m0 = static_cast<long long>(blockIdx.x) * kRows;
    const int n0 = int(blockIdx.y) * kCols, tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
    // Each thread brings word `w` of kLoads rows of A and of B.
    constexpr int kLoads = kRows * kWords / kThreads, kStep = kThreads / kWords;
    const int w = int(threadIdx.x) % kWords, first = int(threadIdx.x) / kWords;
    typename Rows::Row a_rows[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; i++) a_rows[i] = rows.row(m0 + first + i * kStep < m ? m0 + first + i * kStep : 0);
    int sums[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += 4 * kWords) {
#pragma unroll
        for (int i = 0; i < kLoads; i++) {
            const int row = first + i * kStep;
            as[w][row] = m0 + row < m ? rows.word(a_rows[i], k0 + 4 * w, k) : 0;
            bs[w][row] = n0 + row < n ? word_of(b + (n0 + row) * ldb, k0 + 4 * w, k) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int w = 0; w < kWords; w++) {
            uint32_t x[4], z[4];
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = as[w][ty + 16 * i], z[i] = bs[w][tx + 16 * i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = dp4a<SIGNED_A>(x[i], z[j], sums[i][j]);
        }
        __syncthreads();
    }
    const auto each = [&](int i, int j, auto use) {
        const long long row = m0 + ty + 16 * i;
        const int column = n0 + tx + 16 * j;
        if (row < m && column < n) use(row, column, rows.at(row, column));
    };
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            each(i, j, [&](long long row, int column, long long at) { finish(e, sums[i][j], row, feature + column, y, at, rows.r_at(row, column)); });
    if (activates(e))
#pragma unroll 1
        for (int i = 0; i < 16; i++) each(i / 4, i % 4, [&](long long, int, long long at) { activate(e, y, at); });
}

}  // namespace hr::dp4a_tile
