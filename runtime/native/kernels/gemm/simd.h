// The vector vocabulary of one instruction-set tier. Only tier files (baseline.cpp, avx2.cpp, avx512_vnni.cpp) include it.
// They hold leaf code alone (no std:: templates), so that no symbol built for a wide tier can end up in a narrow one.
// Contraction of a*b+c is off for these files: an FMA happens only where fma() says so, hence results never depend on
// what the compiler felt like.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernel.h"   // HR_TIER, HR_TIER_RANK

#define HR_INLINE static inline __attribute__((always_inline))
#define HR_UNROLL _Pragma("GCC unroll 32")
#pragma GCC diagnostic ignored "-Wpsabi"

namespace hr::HR_TIER {

#if HR_TIER_RANK >= 2
constexpr int kLanes = 16;
#elif HR_TIER_RANK == 1
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));

HR_INLINE vf load(const float* p) { vf v; memcpy(&v, p, sizeof v); return v; }
HR_INLINE vi load(const int32_t* p) { vi v; memcpy(&v, p, sizeof v); return v; }
HR_INLINE void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
HR_INLINE void store(int32_t* p, vi v) { memcpy(p, &v, sizeof v); }
HR_INLINE vf splat(float x) { return x - vf{}; }
HR_INLINE vi splat(int32_t x) { return x - vi{}; }

// vmax(a, b): b where either is NaN (x86's rule), so vmax(limit, x) lets NaN through.
#if HR_TIER_RANK >= 2 && !defined(HR_EMULATE_VNNI)
HR_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
HR_INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
HR_INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
HR_INLINE vi round_even(vf a) { return (vi)_mm512_cvtps_epi32((__m512)a); }
HR_INLINE vf to_float(vi a) { return (vf)_mm512_cvtepi32_ps((__m512i)a); }
#elif HR_TIER_RANK >= 1
struct Halves { __m256 lo, hi; };
#if HR_TIER_RANK == 1
HR_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
HR_INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
HR_INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
HR_INLINE vi round_even(vf a) { return (vi)_mm256_cvtps_epi32((__m256)a); }
HR_INLINE vf to_float(vi a) { return (vf)_mm256_cvtepi32_ps((__m256i)a); }
#else
// The 512-bit tier's geometry on a machine with AVX2: each operation in two halves (a test build, see CMakeLists.txt).
template <class T, class V> HR_INLINE T as(V v) { T t; static_assert(sizeof t == sizeof v); memcpy(&t, &v, sizeof t); return t; }
HR_INLINE vf fma(vf a, vf b, vf c) {
    auto x = as<Halves>(a), y = as<Halves>(b), z = as<Halves>(c);
    return as<vf>(Halves{_mm256_fmadd_ps(x.lo, y.lo, z.lo), _mm256_fmadd_ps(x.hi, y.hi, z.hi)});
}
HR_INLINE vf vmax(vf a, vf b) {
    auto x = as<Halves>(a), y = as<Halves>(b);
    return as<vf>(Halves{_mm256_max_ps(x.lo, y.lo), _mm256_max_ps(x.hi, y.hi)});
}
HR_INLINE vf vmin(vf a, vf b) {
    auto x = as<Halves>(a), y = as<Halves>(b);
    return as<vf>(Halves{_mm256_min_ps(x.lo, y.lo), _mm256_min_ps(x.hi, y.hi)});
}
struct IntHalves { __m256i lo, hi; };
HR_INLINE vi round_even(vf a) {
    auto x = as<Halves>(a);
    return as<vi>(IntHalves{_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)});
}
HR_INLINE vf to_float(vi a) { return __builtin_convertvector(a, vf); }
#endif
#else
HR_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }   // no such instruction: two roundings
HR_INLINE vf vmax(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
HR_INLINE vf vmin(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
HR_INLINE vi round_even(vf a) { return (vi)_mm_cvtps_epi32((__m128)a); }
HR_INLINE vf to_float(vi a) { return (vf)_mm_cvtepi32_ps((__m128i)a); }
#endif

// Lane i gets lane i ^ distance. (Written as a loop over lanes g++ 12 puts the indices together anew, one by one, wherever it is used.)
constexpr int32_t kLaneNumbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
HR_INLINE vf exchanged(vf v, int distance) { return __builtin_shuffle(v, load(kLaneNumbers) ^ distance); }

// Whether a mask (lanes of all ones or all zeros) has a lane of ones.
HR_INLINE bool any(vi mask) {
#if HR_TIER_RANK >= 2 && !defined(HR_EMULATE_VNNI)
    return _mm512_movepi32_mask((__m512i)mask);
#elif HR_TIER_RANK >= 2
    const auto m = as<IntHalves>(mask);
    return _mm256_movemask_epi8(_mm256_or_si256(m.lo, m.hi));
#elif HR_TIER_RANK == 1
    return _mm256_movemask_epi8((__m256i)mask);
#else
    return _mm_movemask_epi8((__m128i)mask);
#endif
}

// Lanes of `yes` where the mask is all ones, else of `no`.
HR_INLINE vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }

}  // namespace hr::HR_TIER
