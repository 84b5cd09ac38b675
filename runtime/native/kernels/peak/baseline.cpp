#if defined(__x86_64__)
#include "loops.h"

#define F32_STEP(i) "mulps %%xmm0, %%xmm" #i "\n\taddps %%xmm1, %%xmm" #i "\n\t"
#define INT8_STEP(i) "pmaddwd %%xmm0, %%xmm" #i "\n\tpaddd %%xmm1, %%xmm" #i "\n\t"   // widened to 16 bits

HR_PEAK(peak_f32, "float32", F32_STEP, 8, "");
HR_PEAK(peak_int8, "int8", INT8_STEP, 16, "");
#endif
