// One multiply-add of a tile, in f32 or over pairs of bf16: with HR_BF16 a 32-bit element holds two factors, neighbours in k.
#pragma once
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/simd.h"

namespace hr::HR_TIER {

#ifdef HR_BF16
// In assembly, as integer tiles are: g++ 12 spills sums that go through the intrinsic.
HR_INLINE vf step(vf a, vf b, vf sum) { asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a)); return sum; }

// n values rounded to nearest even, in pairs; the second of a last, odd one is zero. Like the products, the instruction
// takes subnormal numbers for zero.
static void narrow(const float* x, int64_t n, float* out) {
    uint16_t* to = reinterpret_cast<uint16_t*>(out);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const __m256bh low = _mm512_cvtneps_pbh((__m512)load(x + i));
        memcpy(to + i, &low, sizeof low);
    }
    if (i < n) {
        float last[kLanes] = {};
        memcpy(last, x + i, size_t(n - i) * 4);
        const __m256bh low = _mm512_cvtneps_pbh((__m512)load(last));
        memcpy(to + i, &low, size_t((n - i + 1) / 2 * 4));
    }
}

// Each value becomes the upper half of a lane: one instruction, where to widen and to shift are two.
HR_INLINE vf load(const BFloat16* p) {
    typedef uint16_t Words __attribute__((vector_size(64)));
    constexpr Words order = {0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
    __m256i v;
    memcpy(&v, p, sizeof v);
    return (vf)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)order, _mm512_castsi256_si512(v));
}
HR_INLINE void store(BFloat16* p, vf v) {
    const __m256bh low = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &low, sizeof low);
}
// Two vectors at a time are one rounding and one store.
template <int N> HR_INLINE void store_row(BFloat16* p, const vf (&v)[N]) {
    HR_UNROLL for (int j = 0; j + 2 <= N; j += 2) {
        const __m512bh low = _mm512_cvtne2ps_pbh((__m512)v[j + 1], (__m512)v[j]);
        memcpy(p + j * kLanes, &low, sizeof low);
    }
    if constexpr (N % 2) store(p + (N - 1) * kLanes, v[N - 1]);
}
#else
HR_INLINE vf step(vf a, vf b, vf sum) { return fma(a, b, sum); }
#endif

template <int N> HR_INLINE void store_row(float* p, const vf (&v)[N]) { HR_UNROLL for (int j = 0; j < N; j++) store(p + j * kLanes, v[j]); }

// The same of a vector's lower half alone, which takes half of the time; the upper half of the sum becomes zero.
HR_INLINE vf step_half(vf a, vf b, vf sum) {
#if HR_TIER_RANK >= 2 && !defined(HR_EMULATE_VNNI)
#ifdef HR_BF16
    asm("vdpbf16ps %t2, %t1, %t0" : "+v"(sum) : "v"(b), "v"(a));
#else
    asm("vfmadd231ps %t2, %t1, %t0" : "+v"(sum) : "v"(b), "v"(a));
#endif
    return sum;
#else
    return step(a, b, sum);
#endif
}

// A vector of values from the i-th on.
HR_INLINE vf load(const Reals& r, int64_t i) {
#ifdef HR_BF16
    if (r.low) return load(static_cast<const BFloat16*>(r.data) + i);
#endif
    return load(static_cast<const float*>(r.data) + i);
}

// A 32-bit element of A for every lane, whatever it holds.
HR_INLINE vf spread(const float* p) {
    int32_t bits;
    memcpy(&bits, p, 4);
    return (vf)splat(bits);
}

}  // namespace hr::HR_TIER
