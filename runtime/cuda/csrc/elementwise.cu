// Elementwise operators. Block 256, grid ceil(n / 256), no shared memory; one thread an element of the result.
//
//   unary_f32(x, y, n, function, a, b)                       f32 -> f32
//   binary_{f32,i32,i64}(x, y, out, Broadcast, function)     broadcast, result of the same type
//   compare_{f32,i32,i64,u8}(x, y, out, Broadcast, function) result bool (one byte, 0 or 1)
//   logical(x, y, out, Broadcast, function)                  bool; `not` reads x only
//   where_{1,4,8}(condition, x, y, out, Broadcast)           items of 1, 4, 8 bytes
//   cast(x, y, n, from, to)                                  Type codes below; to bool: x != 0
#include "broadcast.cuh"
#include "functions.cuh"

namespace hr {

template <class T> HR_DEVICE void binary(const T* x, const T* y, T* out, const Broadcast& b, int function) {
    const long long i = global_id();
    if (i >= b.n) return;
    const Places p = places(b, i);
    out[i] = apply_binary(function, x[p.of[0]], y[p.of[1]]);
}

template <class T> HR_DEVICE void compare(const T* x, const T* y, uint8_t* out, const Broadcast& b, int function) {
    const long long i = global_id();
    if (i >= b.n) return;
    const Places p = places(b, i);
    out[i] = apply_compare(function, x[p.of[0]], y[p.of[1]]);
}

template <class T> HR_DEVICE void where(const uint8_t* condition, const T* x, const T* y, T* out, const Broadcast& b) {
    const long long i = global_id();
    if (i >= b.n) return;
    const Places p = places(b, i);
    out[i] = condition[p.of[0]] ? x[p.of[1]] : y[p.of[2]];
}

enum Type { float32, int32, int64, uint8, int8, bool_ };

template <class From> HR_DEVICE void cast_to(From value, void* y, long long i, int to) {
    switch (to) {
        case float32: static_cast<float*>(y)[i] = float(value); break;
        case int32: static_cast<int32_t*>(y)[i] = int32_t(value); break;
        case int64: static_cast<long long*>(y)[i] = static_cast<long long>(value); break;
        case uint8: static_cast<uint8_t*>(y)[i] = uint8_t(static_cast<long long>(value)); break;
        case int8: static_cast<int8_t*>(y)[i] = int8_t(static_cast<long long>(value)); break;
        default: static_cast<uint8_t*>(y)[i] = value != From(0);
    }
}

}  // namespace hr

using namespace hr;

extern "C" __global__ void __launch_bounds__(256) unary_f32(const float* x, float* y, long long n, int function, float a, float b) {
    const long long i = global_id();
    if (i >= n) return;
    y[i] = function == sin_ ? sinf(x[i]) : function == cos_ ? cosf(x[i]) : apply_unary(function, x[i], a, b);
}
HR_EXPORT(unary_f32)

#define HR_BINARY(name, T) \
    extern "C" __global__ void __launch_bounds__(256) name(const T* x, const T* y, T* out, Broadcast b, int function) { binary<T>(x, y, out, b, function); } \
    HR_EXPORT(name)
HR_BINARY(binary_f32, float)
HR_BINARY(binary_i32, int32_t)
HR_BINARY(binary_i64, long long)

#define HR_COMPARE(name, T) \
    extern "C" __global__ void __launch_bounds__(256) name(const T* x, const T* y, uint8_t* out, Broadcast b, int function) { compare<T>(x, y, out, b, function); } \
    HR_EXPORT(name)
HR_COMPARE(compare_f32, float)
HR_COMPARE(compare_i32, int32_t)
HR_COMPARE(compare_i64, long long)
HR_COMPARE(compare_u8, uint8_t)

extern "C" __global__ void __launch_bounds__(256) logical(const uint8_t* x, const uint8_t* y, uint8_t* out, Broadcast b, int function) {
    const long long i = global_id();
    if (i >= b.n) return;
    const Places p = places(b, i);
    const bool left = x[p.of[0]], right = function == not_ ? false : y[p.of[1]];
    out[i] = function == and_ ? left && right : function == or_ ? left || right : function == xor_ ? left != right : !left;
}
HR_EXPORT(logical)

#define HR_WHERE(name, T) \
    extern "C" __global__ void __launch_bounds__(256) name(const uint8_t* condition, const T* x, const T* y, T* out, Broadcast b) { where<T>(condition, x, y, out, b); } \
    HR_EXPORT(name)
HR_WHERE(where_1, uint8_t)
HR_WHERE(where_4, uint32_t)
HR_WHERE(where_8, uint64_t)

extern "C" __global__ void __launch_bounds__(256) cast(const void* x, void* y, long long n, int from, int to) {
    const long long i = global_id();
    if (i >= n) return;
    switch (from) {
        case float32: cast_to(static_cast<const float*>(x)[i], y, i, to); break;
        case int32: cast_to(static_cast<const int32_t*>(x)[i], y, i, to); break;
        case int64: cast_to(static_cast<const long long*>(x)[i], y, i, to); break;
        case int8: cast_to(static_cast<const int8_t*>(x)[i], y, i, to); break;
        default: cast_to(static_cast<const uint8_t*>(x)[i], y, i, to);
    }
}
HR_EXPORT(cast)
