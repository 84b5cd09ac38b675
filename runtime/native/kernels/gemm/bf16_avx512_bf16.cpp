// Matrix kernels over bf16 factors with f32 sums (vdpbf16ps): the tiles of gemm_f32.inc.h over pairs.
#define HR_BF16
#include "kernels/gemm/gemm_f32.inc.h"

namespace hr::HR_TIER {

// Rounded to nearest even. Like the products, the instruction takes subnormal numbers for zero.
static void narrow(const float* x, int64_t n, float* out) {
    uint16_t* to = reinterpret_cast<uint16_t*>(out);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const __m256bh low = _mm512_cvtneps_pbh((__m512)load(x + i));
        memcpy(to + i, &low, sizeof low);
    }
    if (i < n) {
        float last[kLanes] = {};
        memcpy(last, x + i, size_t(n - i) * 4);
        const __m256bh low = _mm512_cvtneps_pbh((__m512)load(last));
        memcpy(to + i, &low, size_t((n - i + 1) / 2 * 4));
    }
}

extern const GemmTable gemm_kernels;
const GemmTable gemm_kernels = {"avx512_bf16", kRows, kCols, kDepth, gemm_block, pack_panels, transpose32, activate_row, narrow};

}  // namespace hr::HR_TIER
