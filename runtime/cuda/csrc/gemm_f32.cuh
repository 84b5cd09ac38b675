// One tile of a float32 product, summed in the order of k by fused multiply-adds.
#pragma once
#include "functions.cuh"

namespace hr::f32_tile {

constexpr int kSize = 64, kDepth = 16, kThreads = 256, kShared = 2 * kDepth * (kSize + 4) * 4;

// sums[i][j] belongs to row m0 + ty + 16 i and column n0 + tx + 16 j. a(m, k) and b(k, n) read elements that exist; each
// answers its value. Block of kThreads, kShared bytes.
template <class A, class B> HR_DEVICE void sum(float (&sums)[4][4], const A& a, const B& b, long long m, int n, int k) {
    HR_SHARED(float, shared);
    float(*as)[kSize + 4] = reinterpret_cast<float(*)[kSize + 4]>(shared);
    float(*bs)[kSize + 4] = as + kDepth;
    const long long m0 = static_cast<long long>(blockIdx.x) * kSize;
    const int n0 = int(blockIdx.y) * kSize, tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
    for (int k0 = 0; k0 < k; k0 += kDepth) {
        for (int i = int(threadIdx.x); i < kSize * kDepth; i += kThreads) {
            const int row = i / kDepth, d = i % kDepth;
            as[d][row] = m0 + row < m && k0 + d < k ? a(m0 + row, k0 + d) : 0;
        }
        for (int i = int(threadIdx.x); i < kSize * kDepth; i += kThreads) {
            const int column = i % kSize, d = i / kSize;
            bs[d][column] = n0 + column < n && k0 + d < k ? b(k0 + d, n0 + column) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < kDepth; d++) {
            float x[4], z[4];
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = as[d][ty + 16 * i], z[i] = bs[d][tx + 16 * i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(x[i], z[j], sums[i][j]);
        }
        __syncthreads();
    }
}

// Calls at(row, column), which answers where in y the element lies, and value(row, column, sum) for the elements of this
// thread that exist, stores the value, and then the function of it (in a second pass: inlined sixteen times it would be most
// of the program).
template <class At, class Value> HR_DEVICE void finish(const float (&sums)[4][4], long long m, int n, float* y, int function, float a, float b, At at, Value value) {
    const long long m0 = static_cast<long long>(blockIdx.x) * kSize + threadIdx.x / 16;
    const int n0 = int(blockIdx.y) * kSize + int(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (m0 + 16 * i < m && n0 + 16 * j < n) y[at(m0 + 16 * i, n0 + 16 * j)] = value(m0 + 16 * i, n0 + 16 * j, sums[i][j]);
    if (function == identity) return;
#pragma unroll 1
    for (int i = 0; i < 16; i++) {
        const long long row = m0 + i / 4 * 16;
        const int column = n0 + i % 4 * 16;
        if (row < m && column < n) {
            float* const to = y + at(row, column);
            *to = apply_unary(function, *to, a, b);
        }
    }
}

}  // namespace hr::f32_tile
