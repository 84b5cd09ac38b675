// Vector activations: exp, tanh and erf by polynomials after Cephes (Moshier), about 2 units in the last place.
#pragma once
#include "kernels/gemm/activation.h"
#include "kernels/gemm/simd.h"

namespace hr::HR_TIER {

// e^x: x = n ln2 + r, a degree-5 polynomial for e^r. 0 below -103.97, inf above 88.72, NaN kept.
HR_INLINE vf exp(vf x) {
    const vf high = splat(88.72284f), low = splat(-87.33654f);
    const vf clamped = vmin(high, vmax(low, x));
    const vi n = round_even(clamped * splat(1.44269504088896341f));
    const vf nf = to_float(n);
    vf r = fma(nf, splat(-0.693359375f), clamped);
    r = fma(nf, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r + splat(1.0f));
    // 2^n in two factors: n may be 128, one more than an exponent holds.
    const vi half = n >> 1;
    const vf y = p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
    const vf inf = splat(__builtin_inff());
    return select((vi)(x > high), inf, select((vi)(x < low), vf{}, y));
}

HR_INLINE vf sigmoid(vf x) {
    // From the negative side, so that e^-|x| never overflows: e/(1+e) for x < 0, 1/(1+e) else.
    const vi negative = (vi)(x < vf{});
    const vf e = exp(select(negative, x, -x));
    return select(negative, e, splat(1.0f)) / (splat(1.0f) + e);
}

HR_INLINE vf tanh(vf x) {
    const vf magnitude = (vf)((vi)x & 0x7fffffff);
    const vf z = x * x;
    vf p = splat(-5.70498872745e-3f);
    p = fma(p, z, splat(2.06390887954e-2f));
    p = fma(p, z, splat(-5.37397155531e-2f));
    p = fma(p, z, splat(1.33314422036e-1f));
    p = fma(p, z, splat(-3.33332819422e-1f));
    const vf small = fma(p * z, x, x);
    const vf e = exp(magnitude + magnitude);
    const vf big = splat(1.0f) - splat(2.0f) / (e + splat(1.0f));
    const vf signed_big = (vf)((vi)big | ((vi)x & int32_t(0x80000000)));
    return select((vi)(magnitude < splat(0.625f)), small, select((vi)(x != x), x, signed_big));
}

// erf: for |x| < 1 an odd polynomial, else 1 - e^(-x²) P(t)/x-like tail; both minimax fits of Cephes' erff and erfcf.
HR_INLINE vf erf(vf x) {
    const vf a = (vf)((vi)x & 0x7fffffff);
    const vf z = x * x;
    vf p = splat(7.853861353153693e-5f);
    p = fma(p, z, splat(-8.010193625184903e-4f));
    p = fma(p, z, splat(5.188327685732524e-3f));
    p = fma(p, z, splat(-2.685381193529856e-2f));
    p = fma(p, z, splat(1.128358514861418e-1f));
    p = fma(p, z, splat(-3.761262582423300e-1f));
    p = fma(p, z, splat(1.128379165726710f));
    const vf near_zero = p * x;
    const vf q = splat(1.0f) / vmax(splat(1.0f), a);
    const vf y = q * q;
    vf s = splat(2.326819970068386e-2f), t = splat(-1.047766399936249e1f);
    const float sp[] = {-1.387039388740657e-1f, 3.687424674597105e-1f, -5.824733027278666e-1f, 6.210004621745983e-1f,
                        -4.944515323274145e-1f, 3.404879937665872e-1f, -2.741127028184656e-1f, 5.638259427386472e-1f};
    const float tp[] = {1.297719955372516e1f, -7.495518717768503e0f, 2.921019019210786e0f, -1.015265279202700e0f,
                        4.218463358204948e-1f, -2.820767439740514e-1f, 5.641895067754075e-1f};
    HR_UNROLL for (float c : sp) s = fma(s, y, splat(c));
    HR_UNROLL for (float c : tp) t = fma(t, y, splat(c));
    const vf tail = exp(-(a * a)) * q * select((vi)(a < splat(2.0f)), s, t);
    const vf far = (vf)((vi)(splat(1.0f) - tail) | ((vi)x & int32_t(0x80000000)));
    return select((vi)(a < splat(1.0f)), near_zero, select((vi)(x != x), x, far));
}

HR_INLINE vf hard_sigmoid(vf x, float alpha, float beta) {
    return vmax(vf{}, vmin(splat(1.0f), splat(alpha) * x + splat(beta)));
}

HR_INLINE vf activate(Act kind, vf x, float alpha, float beta) {
    switch (kind) {
        case Act::sigmoid: return sigmoid(x);
        case Act::tanh: return tanh(x);
        case Act::silu: return x * sigmoid(x);
        case Act::hard_swish: return x * hard_sigmoid(x, 1.0f / 6, 0.5f);
        case Act::hard_sigmoid: return hard_sigmoid(x, alpha, beta);
        case Act::leaky_relu: return select((vi)(x < vf{}), splat(alpha) * x, x);
        case Act::gelu: return splat(0.5f) * x * (splat(1.0f) + erf(x * splat(0.70710678118654752f)));
        case Act::gelu_tanh:
            return splat(0.5f) * x * (splat(1.0f) + tanh(splat(0.79788456080286536f) * (x + splat(0.044715f) * x * x * x)));
        default: return x;
    }
}

// Applies a kind that is no clamp to n floats in place. The tail goes through a whole vector: the same code, the same bits.
static void activate_row(const Activation& act, float* p, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(p + i, activate(act.kind, load(p + i), act.alpha, act.beta));
    if (i < n) {
        float tail[kLanes] = {};
        memcpy(tail, p + i, size_t(n - i) * 4);
        store(tail, activate(act.kind, load(tail), act.alpha, act.beta));
        memcpy(p + i, tail, size_t(n - i) * 4);
    }
}

}  // namespace hr::HR_TIER
