// The integer kernels, built once for every tier.
#include "kernels/quant/depthwise.inc.h"
#include "kernels/quant/igemm.inc.h"
#include "kernels/quant/linear.inc.h"

namespace hr::HR_TIER {

extern const IntTable int_kernels;
#define HR_TEXT2(x) #x
#define HR_TEXT(x) HR_TEXT2(x)
const IntTable int_kernels = {HR_TEXT(HR_TIER), kRowStep, kIntCols, kUnit, sizeof(Prepared), int_block, prepare, sum_prepared, quantize,
                              quantize_within, quantize_scaled, dequantize, min_max, add_levels, pack_depthwise, depthwise_int};

}  // namespace hr::HR_TIER
