// Integer matrix products: y [m, n] = epilogue(a [m, k] . b [n, k]^T).
//
//   gemm_{u8,s8}s8_{dp4a,mma64,mma128}(a, b int8, y, Epilogue, m, n, k, lda, ldb, ldy, batch strides of a, b, y)
//
// a is uint8 or int8 by name; strides in elements; y as the epilogue's `out` says. Tile T = 64 or 128; grid (ceil(m / T),
// ceil(n / T), batch). Block and shared bytes: dp4a 256, 4160; mma64 128, 24576; mma128 256, 49152.
// dp4a asks for no alignment; mma wants a and b at multiples of 16 bytes, and lda, ldb and the batch strides too.
#include "matrix_rows.cuh"

using namespace hr;

#define HR_GEMM(name, THREADS, ...)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const uint8_t* a, const uint8_t* b, uint8_t* y, Epilogue e, long long m, int n, \
                                                               int k, long long lda, long long ldb, long long ldy, long long stride_a, \
                                                               long long stride_b, long long stride_y) {                        \
        const long long z = blockIdx.z;                                                                                         \
        const MatrixRows rows = {a + z * stride_a, lda, ldy, e.ldr};                                                            \
        __VA_ARGS__(rows, b + z * stride_b, ldb, y + z * stride_y * item_size(e), m, n, k, 0, e);                               \
    }                                                                                                                           \
    HR_EXPORT(name)
HR_GEMM(gemm_u8s8_dp4a, 256, dp4a_tile::run<false>)
HR_GEMM(gemm_s8s8_dp4a, 256, dp4a_tile::run<true>)
HR_GEMM(gemm_u8s8_mma64, 128, mma_tile::run<mma_tile::Tile<64>, false>)
HR_GEMM(gemm_s8s8_mma64, 128, mma_tile::run<mma_tile::Tile<64>, true>)
HR_GEMM(gemm_u8s8_mma128, 256, mma_tile::run<mma_tile::Tile<128>, false>)
HR_GEMM(gemm_s8s8_mma128, 256, mma_tile::run<mma_tile::Tile<128>, true>)
