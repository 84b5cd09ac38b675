// Vector functions beside those of activation.inc.h: log, expm1, softplus. About 2 units in the last place.
#pragma once
#include "kernels/gemm/activation.inc.h"

namespace hr::HR_TIER {

#define HR_TEXT2(x) #x
#define HR_TEXT(x) HR_TEXT2(x)
HR_INLINE const char* tier_name() { return HR_TEXT(HR_TIER); }

// Natural logarithm after Cephes' logf: x = m 2^e with m in [sqrt(1/2), sqrt(2)).
HR_INLINE vf log(vf x) {
    const vi tiny = (vi)(x < splat(1.17549435e-38f));
    const vf scaled = select(tiny, x * splat(33554432.0f), x);      // 2^25 lifts subnormals
    const vi bits = (vi)scaled;
    vi e = (bits >> 23) - 126;
    vf m = (vf)((bits & 0x007fffff) | 0x3f000000);                  // [1/2, 1)
    const vi low = (vi)(m < splat(0.707106781186547524f));
    e = e + low;                                                    // a mask is -1
    m = select(low, m + m, m) - splat(1.0f);
    e = e - (tiny & splat(int32_t(25)));
    const vf z = m * m, ef = to_float(e);
    vf p = splat(7.0376836292e-2f);
    const float c[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                       -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    HR_UNROLL for (float k : c) p = fma(p, m, splat(k));
    vf y = p * m * z;
    y = fma(ef, splat(-2.12194440e-4f), y);
    y = fma(z, splat(-0.5f), y);
    vf r = m + y;
    r = fma(ef, splat(0.693359375f), r);
    const vf inf = splat(__builtin_inff());
    r = select((vi)(x == inf), inf, r);
    r = select((vi)(x == vf{}), -inf, r);
    return select((vi)(x < vf{}), splat(__builtin_nanf("")), select((vi)(x != x), x, r));
}

// e^x - 1 for x <= 88, exact near 0.
HR_INLINE vf expm1(vf x) {
    const vf y = expm1_of(vmin(splat(88.0f), vmax(splat(-87.0f), x)));
    return select((vi)(x == vf{}), x, y);
}

// log(1 + e^x) without overflow: max(x, 0) + log1p(e^-|x|), the rounding of 1 + u corrected.
HR_INLINE vf softplus(vf x) {
    const vf one = splat(1.0f);
    const vf u = exp_negative((vf)((vi)x | int32_t(0x80000000)));
    const vf w = one + u;
    const vf l = log(w) - ((w - one) - u) / w;
    return vmax(vf{}, x) + select((vi)(x != x), x, l);
}

}  // namespace hr::HR_TIER
