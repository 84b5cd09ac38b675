// Dynamic quantization of one row (or a whole tensor): the formula of DynamicQuantizeLinear.
#pragma once
#include "kernels/quant/igemm.h"
#include "pool.h"

namespace hr {

struct RowLevels {
    float scale;
    int32_t zero;
};

// scale = (max(x, 0) - min(x, 0)) / 255 (1 where that is 0), zero = clamp(round(-min / scale), 0, 255).
RowLevels levels_of(float lo, float hi);
RowLevels row_levels(const IntTable& t, const float* x, int64_t n);
// A whole tensor, whose range that of `levels` is; from the last piece to the first: caches hold what was written or read last.
void quantize_all(const IntTable& t, ThreadPool& pool, const float* x, int64_t n, const RowLevels& levels, uint8_t* to);
// Quantized to unsigned bytes and prepared for a product at once.
void prepare_row(const IntTable& t, const float* x, int64_t n, const RowLevels& row, void* out);

}  // namespace hr
