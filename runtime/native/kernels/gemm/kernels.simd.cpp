// The matrix kernels, built once for every tier.
#include "kernels/gemm/gemm_f32.inc.h"
#include "kernels/gemm/stream.inc.h"

namespace hr::HR_TIER {

extern const GemmTable gemm_kernels;
#define HR_TEXT2(x) #x
#define HR_TEXT(x) HR_TEXT2(x)
const GemmTable gemm_kernels = {HR_TEXT(HR_TIER), kRowStep, kCols, kDepth, gemm_block, pack_panels, transpose32, activate_row, nullptr, gemm_stream};

}  // namespace hr::HR_TIER
