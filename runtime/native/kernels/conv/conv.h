// Leaf kernels of the convolution family, one table per tier. All work on channels-last rows.
#pragma once
#include "kernels/gemm/gemm.h"

namespace hr {

// Where results go: float32, or bf16 where `low`.
struct Output {
    void* data = nullptr;
    bool low = false;
    Output operator+(int64_t n) const { return {static_cast<char*>(data) + n * (low ? 2 : 4), low}; }
};

// Depthwise convolution of m pixels of a row: out[m, c] = act(bias[c] + sum over lines l and taps k of x[l][m * step + k][c] *
// w[l, k, c] + r[m, c]), added up in this order. Neighbouring windows share columns of the lines that they see; where they
// cannot (taps that are apart), each tap counts as a line of one column a pixel.
struct DepthwiseBlock {
    const void* const* columns;     // columns[l * stride + j]: column j of line l
    int64_t stride, lines, taps, step;
    int64_t m, c;
    bool low;                       // the columns are bf16; of the table of bf16 alone, as Output's
    const float* w;                 // [lines * taps, ldw], zero beyond c
    int64_t ldw;
    Output out;
    int64_t ldo;
    Epilogue epilogue;
};

struct ConvTable {
    const char* tier;
    int lanes;
    void (*depthwise)(const DepthwiseBlock&);
    // Over `n` rows of `c` values: the greatest (NaN wins), or the sum divided by `divisor`.
    void (*max_f32)(const void* const* rows, int64_t n, int64_t c, float* out);
    void (*sum_f32)(const void* const* rows, int64_t n, int64_t c, float divisor, float* out);
    void (*max_u8)(const void* const* rows, int64_t n, int64_t c, uint8_t* out);
    void (*max_i8)(const void* const* rows, int64_t n, int64_t c, int8_t* out);
    // The same of bf16, null in other tables than that of bf16.
    void (*max_bf16)(const void* const* rows, int64_t n, int64_t c, BFloat16* out);
    void (*sum_bf16)(const void* const* rows, int64_t n, int64_t c, float divisor, BFloat16* out);
    // out[c] = sum of rows, act(sum + bias): the last step of a transposed convolution.
    void (*gather)(const void* const* rows, int64_t n, int64_t c, const float* bias, const Activation& act, float* out);
};

const ConvTable& conv_table();
// That of values in bf16; null where the tier in use has none.
const ConvTable* bf16_conv_table();
// That table for a node with values in bf16, or whose attribute `precision` is "bf16" where there is one, else the table of f32.
const ConvTable& conv_table_for(const NodeInfo& node);

inline Reals reals(const Tensor& t) { return {t.data, t.dtype == DType::bf16}; }
// Whether a convolution's data, residual and result are float32 each, or bf16 where there is a table for it; and whether any is bf16.
bool takes_reals(const NodeInfo& node);
bool any_bf16(const NodeInfo& node);

}  // namespace hr
