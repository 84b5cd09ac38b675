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

HR_INLINE vf load(const BFloat16* p) {
    __m256i v;
    memcpy(&v, p, sizeof v);
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16);
}
HR_INLINE void store(BFloat16* p, vf v) {
    const __m256bh low = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &low, sizeof low);
}
#else
HR_INLINE vf step(vf a, vf b, vf sum) { return fma(a, b, sum); }
#endif

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
