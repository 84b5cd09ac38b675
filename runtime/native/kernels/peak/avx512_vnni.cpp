#include "loops.h"

#define F32_STEP(i) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define INT8_STEP(i) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #i "\n\t"

HR_PEAK(peak_f32, "float32", F32_STEP, 32, "vzeroupper");
HR_PEAK(peak_int8, "int8", INT8_STEP, 128, "vzeroupper");
