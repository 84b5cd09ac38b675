// What an exact 32-bit sum becomes: the one arithmetic of quantization (runtime/ops/quant/_arithmetic.py), float32, one
// rounding at a time, so that every kernel here equals the CPU's to the byte.
#pragma once
#include "functions.cuh"

namespace hr {

enum Out { out_s32, out_f32, out_u8, out_s8 };

// v = sum + col[n] - w_zero[n] * row_sum[m] + row_shift[m] * col_sum[n]; then
//   s32: v
//   f32: function(min(hi, max(lo, float(v) [* row_scale[m]] * scale[n] [+ (r - r_zero) * r_scale] [+ bias[n]])))
//   u8, s8: round_half_even(min(hi, max(lo, float(v) * scale[n] [+ (r - r_zero) * r_scale]))) + zero
// For u8 and s8, lo and hi lie within what the type holds. Null pointers: absent. Python packs it as
// kernels.requantize.EPILOGUE.
struct Epilogue {
    const int* col;
    const int* w_zero;
    const int* row_sum;
    const int* row_shift;
    const int* col_sum;
    const float* scale;
    const float* bias;
    const float* row_scale;
    const uint8_t* r;     // [m, ldr]
    long long ldr;
    float r_scale, lo, hi, a, b;
    int r_signed, r_zero, zero, function, out;
};

HR_DEVICE int level(const uint8_t* x, long long i, bool is_signed) { return is_signed ? int(int8_t(x[i])) : int(x[i]); }

// Levels (units of the scale, NaN allowed) to an integer of 8 bits.
HR_DEVICE int saturate(float x, int zero, bool is_signed) {
    const float lo = float((is_signed ? -128 : 0) - zero), hi = float((is_signed ? 127 : 255) - zero);
    return int(rintf(fminf(hi, fmaxf(lo, is_nan(x) ? 0.0f : x)))) + zero;
}

// The sum of row m and column n becomes y[at]; its residual is r[r_at]. The function is left to `activate`: inlined for
// every sum that a thread holds, it would be most of the program.
HR_DEVICE void finish(const Epilogue& e, int sum, long long m, long long n, void* y, long long at, long long r_at) {
    if (e.col) sum += e.col[n];
    if (e.w_zero) sum -= e.w_zero[n] * e.row_sum[m];
    if (e.row_shift) sum += e.row_shift[m] * e.col_sum[n];
    if (e.out == out_s32) {
        static_cast<int*>(y)[at] = sum;
        return;
    }
    float v = float(sum);
    if (e.row_scale) v = mul_rn(v, e.row_scale[m]);
    v = mul_rn(v, e.scale[n]);
    if (e.r) v = add_rn(v, mul_rn(float(level(e.r, r_at, e.r_signed) - e.r_zero), e.r_scale));
    if (e.out == out_f32 && e.bias) v = add_rn(v, e.bias[n]);
    v = fminf(e.hi, fmaxf(e.lo, v));
    if (e.out == out_f32) static_cast<float*>(y)[at] = v;
    else static_cast<uint8_t*>(y)[at] = uint8_t(int(rintf(v)) + e.zero);
}

HR_DEVICE bool activates(const Epilogue& e) { return e.out == out_f32 && e.function != identity; }

// The function of what the same thread has stored at y[at].
HR_DEVICE void activate(const Epilogue& e, void* y, long long at) {
    float* const to = static_cast<float*>(y) + at;
    *to = apply_unary(e.function, *to, e.a, e.b);
}

HR_DEVICE int item_size(const Epilogue& e) { return e.out == out_s32 || e.out == out_f32 ? 4 : 1; }

}  // namespace hr
