// Matrix kernels over bf16 factors with f32 sums (vdpbf16ps): the tiles of gemm_f32.inc.h over pairs.
#define HR_BF16
#include "kernels/gemm/gemm_f32.inc.h"

namespace hr::HR_TIER {

extern const GemmTable gemm_kernels;
const GemmTable gemm_kernels = {"avx512_bf16", kRowStep, kCols, kDepth, gemm_block, pack_panels, transpose32, activate_row, narrow, nullptr};

}  // namespace hr::HR_TIER
