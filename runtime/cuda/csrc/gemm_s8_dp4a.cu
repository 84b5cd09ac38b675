// Integer matrix product on dp4a.
//
//   gemm_{u8,s8}s8_dp4a(a [m, lda], b [n, ldb] int8, y [m, ldy], Epilogue, m, n, k, lda, ldb, ldy, batch strides of a, b, y)
//
// a is uint8 or int8 by name; strides in elements; y as the epilogue's `out` says. Grid (ceil(m / 64), ceil(n / 64), batch),
// block 256, dp4a_tile::kShared = 4160 bytes. No alignment is asked for.
#include "gemm_s8_dp4a.cuh"

using namespace hr;

#define HR_GEMM(name, SIGNED)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) name(const uint8_t* a, const uint8_t* b, uint8_t* y, Epilogue e, long long m, int n, int k, \
                                                           long long lda, long long ldb, long long ldy, long long stride_a,       \
                                                           long long stride_b, long long stride_y) {                              \
        const long long z = blockIdx.z, item = e.out == out_s32 || e.out == out_f32 ? 4 : 1;                                      \
        const dp4a_tile::MatrixRows rows = {a + z * stride_a, lda};                                                               \
        dp4a_tile::run<SIGNED>(rows, b + z * stride_b, ldb, y + z * stride_y * item, ldy, m, n, k, e);                            \
    }                                                                                                                             \
    HR_EXPORT(name)
HR_GEMM(gemm_u8s8_dp4a, false)
HR_GEMM(gemm_s8s8_dp4a, true)
