#include "loops.h"

#define BF16_STEP(i) "vdpbf16ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"

HR_PEAK(peak_bf16, "bf16", BF16_STEP, 64, "vzeroupper");
