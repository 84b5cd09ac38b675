// Integer matrix products: exact 32-bit sums of 8-bit factors, and what becomes of them.
//
// The same indirect form as gemm.h. Rows of A come widened ("prepared"):
//   unit 2 (baseline, AVX2): 16-bit values with A's zero point subtracted; pmaddwd of pairs, which cannot saturate. The
//          shorter pmaddubsw could (255 * 127 * 2 > 32767), so it is not used.
//   unit 4 (AVX-512 VNNI): unsigned bytes (signed ones shifted by 128); vpdpbusd. The zero point is folded into `col`.
// B is packed as signed bytes (unsigned ones shifted by -128): [panel][segment][k / unit][nr][unit], zero beyond k.
#pragma once
#include "kernels/gemm/gemm.h"

namespace hr {

enum class IntOut { s32, f32, u8, i8 };

// v = sum + col[n] - w_zero[n] * row_sum[m] + row_shift[m] * col_sum[n]; then, by `out`:
//   s32: v
//   f32: act(float(v) [* row_scale[m]] * scale[n] [+ r] [+ bias[n]] [+ added])
//   f32 where level_scale is not 0: bytes, saturate(rint(that [* factor[n]] / level_scale) + zero)
//   u8, i8: saturate(rint(clamp(float(v) * scale[n] [+ (r - r_zero) * r_scale], lo, hi)) + zero)
// All in f32, one rounding at a time, as the NumPy reference does; equal to the byte on every tier.
struct IntEpilogue {
    IntOut out = IntOut::s32;
    const int32_t* col = nullptr;       // per column, padded to whole panels, as all of these
    const int32_t* w_zero = nullptr;
    const int32_t* col_sum = nullptr;
    const float* scale = nullptr;
    const float* bias = nullptr;
    const int32_t* row_sum = nullptr;   // per row
    const int32_t* row_shift = nullptr;
    const float* row_scale = nullptr;
    const void* r = nullptr;
    const float* added = nullptr;       // as r, of floats
    int64_t ldr = 0;
    bool r_signed = false;
    int32_t r_zero = 0;
    float r_scale = 0;
    float lo = 0, hi = 0;               // for u8 and i8 already within what the type holds
    int32_t zero = 0;
    const float* factor = nullptr;      // per column
    float level_scale = 0;
    bool levels_signed = false;
    bool saturates = false;             // u8, i8: the type's own bounds are lo and hi, and no value leaves 32 bits: no clamp is needed
    Activation act;                     // f32 only
    float* range = nullptr;             // f32 only: [3, kRangeLanes], of all results the least, the greatest (0 among them), and a sum that a NaN makes one
};

constexpr int kRangeLanes = 16;         // as many as the widest vector has

struct IntBlock {
    const void* const* rows;
    int64_t stride, m;
    int64_t segments, units;            // units of k in one segment
    const int8_t* b;
    int64_t panel_stride, n;
    void* c;
    int64_t ldc;                        // elements
    IntEpilogue epilogue;
};

struct IntTable {
    const char* tier;
    int mr, nr, unit, item;             // mr: rows that work is cut at; item: bytes of one prepared value of A
    void (*block)(const IntBlock&);
    // n 8-bit values prepared; `zero` only matters where item is 2.
    void (*prepare)(const uint8_t* x, bool is_signed, int32_t zero, int64_t n, void* out);
    // Sum of n prepared values.
    int32_t (*sum)(const void* x, int64_t n);
    // y = saturate(rint(x / scale) + zero); NaN becomes zero. scale and zero: one, or with `each` one an element.
    void (*quantize)(const float* x, int64_t n, const float* scale, const int32_t* zero, bool each, bool is_signed, void* y);
    // The same to unsigned bytes, scale and zero being those of a range that holds all of x (rows.h): with less to look after.
    void (*quantize_within)(const float* x, int64_t n, float scale, int32_t zero, uint8_t* y);
    void (*quantize_scaled)(const float* x, const float* factor, int64_t n, float scale, int32_t zero, bool is_signed, void* y);   // of x * factor
    void (*dequantize)(const uint8_t* x, int64_t n, const float* scale, const int32_t* zero, bool each, bool is_signed, float* y);
    void (*min_max)(const float* x, int64_t n, float* lo, float* hi);
    struct Side { const uint8_t* data; bool is_signed; int32_t zero; float scale; };
    void (*add)(const Side& a, const Side& b, int64_t n, float lo, float hi, int32_t zero, bool y_signed, void* y);
    // Depthwise: sums over taps of prepared values times w[tap, c], zero point subtracted. Weights [taps, ld] of 32 bits are
    // packed (in no more bytes), or used as they are (`wide`) where they do not fit.
    bool (*pack_depthwise)(const int32_t* w, int64_t taps, int64_t ld, void* out);
    struct Depthwise {
        const void* const* rows;        // rows[tap * stride + m]
        int64_t stride, m, taps, c;
        const void* w;
        int64_t ldw;
        bool wide;
        // Where unit is 4: 3 x 3 taps whose neighbours share columns, their stride, 1 or 2; else 0. Weights are then packed from
        // 12 taps, column by column, the fourth of each column zero. Pixel m is column (first + m) % width of an image's row.
        int64_t step = 0, first = 0, width = 1;
    };
    void (*depthwise)(const Depthwise&, void* c, int64_t ldc, const IntEpilogue&);
};

const IntTable& int_table();

inline int64_t units_of(const IntTable& t, int64_t k) { return (k + t.unit - 1) / t.unit; }
inline int64_t int_panel(const IntTable& t, int64_t segments, int64_t k) { return segments * units_of(t, k) * t.nr * t.unit; }
inline int64_t int_packed(const IntTable& t, int64_t segments, int64_t k, int64_t n) { return (n + t.nr - 1) / t.nr * int_panel(t, segments, k); }

// Packs element (k, n) of segment s from w[s * lds + k * ldk + n * ldn]; `shift`: unsigned weights, 128 is subtracted.
// sums[n] (padded to panels) becomes the sum of column n as packed.
void pack_int(const IntTable& t, const uint8_t* w, int64_t lds, int64_t ldk, int64_t ldn, bool shift, int64_t segments, int64_t k, int64_t n,
              int8_t* out, int32_t* sums);

struct IntProblem {
    int64_t m, n, segments, k;
    const Rows* rows;
    const int8_t* b;
    void* c;
    int64_t ldc;
    IntEpilogue epilogue;
    int64_t row_bytes;      // fresh bytes of A that one more row needs (a convolution's rows overlap)
    int32_t sum_shift = 0;  // subtracted from each row's sum: k times the zero point of prepared A
};
GemmPlan plan_int(const IntTable& t, const IntProblem& p, int threads);
void run_int_task(const IntTable& t, const IntProblem& p, const GemmPlan& plan, int64_t task);

inline size_t item_size(const IntEpilogue& e) { return e.level_scale == 0 && (e.out == IntOut::s32 || e.out == IntOut::f32) ? 4 : 1; }

}  // namespace hr
