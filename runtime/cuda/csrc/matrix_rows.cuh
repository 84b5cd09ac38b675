// Where a matrix product finds A and puts y: plain matrices.
#pragma once
#include "gemm_s8_dp4a.cuh"
#include "gemm_s8_mma.cuh"

namespace hr {

struct MatrixRows {
    const uint8_t* a;
    long long lda, ldy, ldr;
    struct Row { const uint8_t* at; };
    HR_DEVICE Row row(long long m) const { return {a + m * lda}; }
    HR_DEVICE uint32_t word(const Row& row, int k, int depth) const { return dp4a_tile::word_of(row.at, k, depth); }
    HR_DEVICE const uint8_t* chunk(const Row& row, int k) const { return row.at + k; }
    HR_DEVICE long long at(long long m, int n) const { return m * ldy + n; }
    HR_DEVICE long long r_at(long long m, int n) const { return m * ldr + n; }
};

}  // namespace hr
