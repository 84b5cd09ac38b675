// Between float32 and 8 bits, with the rounding of the one arithmetic: half to even, saturating, NaN to the zero point.
//
//   quantize_{u8,s8}(x, y, scale, zero, n, inner, channels)         scale [channels], zero [channels] of y's type or null;
//   dequantize_{u8,s8,i32}(x, y, scale, zero, n, inner, channels)   element i belongs to channel i / inner % channels
//   quantize_rows(x [rows, k], y uint8, scale, zero, shift, rows, k) one scale and zero point a row, as DynamicQuantizeLinear;
//                                                                   shift (int32 -zero) or zero may be null
//   add_levels(a, b, y, Broadcast, Sum)                             QAdd
//   lookup(x, table, y, n)                                          y = table[x], bytes
//   row_sums_{u8,s8}(x [rows, ld], y int32, rows, k, ld)            sums of rows, for weights with a zero point
//
// Elementwise ones: grid ceil(n / 256), block 256. Ones of rows: grid (rows, 1, 1), block 256, shared 64 bytes.
#include "broadcast.cuh"
#include "reduce.cuh"
#include "requantize.cuh"

namespace hr {

template <bool SIGNED> HR_DEVICE void quantize(const float* x, uint8_t* y, const float* scale, const uint8_t* zero, long long n, long long inner, int channels) {
    const long long i = global_id();
    if (i >= n) return;
    const int c = channels == 1 ? 0 : int(i / inner % channels);
    y[i] = uint8_t(saturate(div_rn(x[i], scale[c]), zero ? level(zero, c, SIGNED) : 0, SIGNED));
}

template <class T> HR_DEVICE void dequantize(const T* x, float* y, const float* scale, const T* zero, long long n, long long inner, int channels) {
    const long long i = global_id();
    if (i >= n) return;
    const int c = channels == 1 ? 0 : int(i / inner % channels);
    y[i] = mul_rn(float(static_cast<long long>(x[i]) - (zero ? zero[c] : 0)), scale[c]);
}

// (a - a_zero) * a_scale + (b - b_zero) * b_scale, clamped to lo..hi, rounded, + zero. Python packs it as kernels.quant.SUM.
struct Sum {
    float a_scale, b_scale, lo, hi;
    int a_signed, b_signed, a_zero, b_zero, zero, unused;
};

template <class T> HR_DEVICE void row_sums(const T* x, int* y, int k, long long ld) {
    HR_SHARED(int, shared);
    const T* row = x + static_cast<long long>(blockIdx.x) * ld;
    int sum = 0;
    for (int i = int(threadIdx.x); i < k; i += int(blockDim.x)) sum += row[i];
    sum = block_reduce(sum, 0, shared, [](int a, int b) { return a + b; });
    if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

}  // namespace hr

using namespace hr;

extern "C" __global__ void __launch_bounds__(256) quantize_u8(const float* x, uint8_t* y, const float* scale, const uint8_t* zero, long long n, long long inner, int channels) {
    quantize<false>(x, y, scale, zero, n, inner, channels);
}
HR_EXPORT(quantize_u8)
extern "C" __global__ void __launch_bounds__(256) quantize_s8(const float* x, uint8_t* y, const float* scale, const uint8_t* zero, long long n, long long inner, int channels) {
    quantize<true>(x, y, scale, zero, n, inner, channels);
}
HR_EXPORT(quantize_s8)

#define HR_DEQUANTIZE(name, T) \
    extern "C" __global__ void __launch_bounds__(256) name(const T* x, float* y, const float* scale, const T* zero, long long n, long long inner, int channels) { \
        dequantize<T>(x, y, scale, zero, n, inner, channels); \
    } \
    HR_EXPORT(name)
HR_DEQUANTIZE(dequantize_u8, uint8_t)
HR_DEQUANTIZE(dequantize_s8, int8_t)
HR_DEQUANTIZE(dequantize_i32, int32_t)

extern "C" __global__ void __launch_bounds__(256) quantize_rows(const float* x, uint8_t* y, float* scale, uint8_t* zero, int* shift, long long k) {
    HR_SHARED(float, shared);
    const float* row = x + blockIdx.x * k;
    float lo = 0, hi = 0;
    for (long long i = threadIdx.x; i < k; i += blockDim.x) lo = min_nan(lo, row[i]), hi = max_nan(hi, row[i]);
    lo = block_reduce(lo, 0.0f, shared, [](float a, float b) { return min_nan(a, b); });
    hi = block_reduce(hi, 0.0f, shared, [](float a, float b) { return max_nan(a, b); });
    float s = div_rn(add_rn(hi, -lo), 255.0f);
    if (s == 0) s = 1;
    const float z = fminf(255.0f, fmaxf(0.0f, rintf(div_rn(-lo, s))));
    for (long long i = threadIdx.x; i < k; i += blockDim.x) {
        const float v = rintf(div_rn(row[i], s));
        y[blockIdx.x * k + i] = uint8_t(fminf(255.0f, fmaxf(0.0f, (is_nan(v) ? 0.0f : v) + z)));
    }
    if (threadIdx.x == 0) {
        scale[blockIdx.x] = s;
        if (zero) zero[blockIdx.x] = uint8_t(z);
        if (shift) shift[blockIdx.x] = -int(z);
    }
}
HR_EXPORT(quantize_rows)

extern "C" __global__ void __launch_bounds__(256) add_levels(const uint8_t* a, const uint8_t* b, uint8_t* y, Broadcast shape, Sum s) {
    const long long i = global_id();
    if (i >= shape.n) return;
    const Places p = places(shape, i);
    const float left = mul_rn(float(level(a, p.of[0], s.a_signed) - s.a_zero), s.a_scale);
    const float right = mul_rn(float(level(b, p.of[1], s.b_signed) - s.b_zero), s.b_scale);
    y[i] = uint8_t(int(rintf(fminf(s.hi, fmaxf(s.lo, add_rn(left, right))))) + s.zero);
}
HR_EXPORT(add_levels)

extern "C" __global__ void __launch_bounds__(256) lookup(const uint8_t* x, const uint8_t* table, uint8_t* y, long long n) {
    const long long i = global_id();
    if (i < n) y[i] = table[x[i]];
}
HR_EXPORT(lookup)

extern "C" __global__ void __launch_bounds__(256) row_sums_u8(const uint8_t* x, int* y, int k, long long ld) { row_sums(x, y, k, ld); }
HR_EXPORT(row_sums_u8)
extern "C" __global__ void __launch_bounds__(256) row_sums_s8(const int8_t* x, int* y, int k, long long ld) { row_sums(x, y, k, ld); }
HR_EXPORT(row_sums_s8)
