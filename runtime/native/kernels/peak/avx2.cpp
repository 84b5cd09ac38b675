#include "loops.h"

#define F32_STEP(i) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #i "\n\t"
#define INT8_STEP(i) "vpmaddwd %%ymm0, %%ymm1, %%ymm2\n\tvpaddd %%ymm2, %%ymm" #i ", %%ymm" #i "\n\t"   // widened to 16 bits

HR_PEAK(peak_f32, "float32", F32_STEP, 16, "vzeroupper");
HR_PEAK(peak_int8, "int8", INT8_STEP, 32, "vzeroupper");
