// Vector activations, about 2 units in the last place; e^x by a polynomial after Cephes (Moshier).
#pragma once
#include "kernels/gemm/activation.h"
#include "kernels/gemm/simd.h"

#if HR_TIER_RANK >= 2 && !defined(HR_EMULATE_VNNI)
#define HR_SCALES   // vrndscaleps, vscalefps
#endif

namespace hr::HR_TIER {

HR_INLINE vf nearest(vf x) {
#ifdef HR_SCALES
    return (vf)_mm512_roundscale_ps((__m512)x, 8);
#else
    return to_float(round_even(x));
#endif
}

// x = n ln2 + r with n whole and |r| <= ln2 / 2; ln2 in two parts, of which n times the first is exact.
struct Octaves {
    vf n, r;
};
HR_INLINE Octaves octaves(vf x) {
    const vf n = nearest(x * splat(1.44269504088896341f));
    return {n, fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x))};
}

// y 2^n; subnormal and infinite results as they should be.
HR_INLINE vf scaled(vf y, vf n) {
#ifdef HR_SCALES
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    const vi whole = round_even(n), half = whole >> 1;  // in two factors: n may be 128, one more than an exponent holds
    return y * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
#endif
}

// Polynomials of N vectors in step: alone, each step of one waits for the step before.
template <int N, int K> HR_INLINE void polynomials(const float (&c)[K], const vf (&x)[N], vf (&y)[N]) {
    HR_UNROLL for (int j = 0; j < N; j++) y[j] = splat(c[0]);
    HR_UNROLL for (int i = 1; i < K; i++) HR_UNROLL for (int j = 0; j < N; j++) y[j] = fma(y[j], x[j], splat(c[i]));
}

// 2^(n + f), n whole and |f| <= 1/2: a polynomial of the least relative error, 2e-9.
template <int N> HR_INLINE void powers_of_two(const vf (&n)[N], const vf (&f)[N], vf (&y)[N]) {
    static constexpr float c[] = {1.53533620e-4f, 1.33988750e-3f, 9.61843692e-3f, 5.55033237e-2f, 2.40226477e-1f, 6.93147182e-1f, 1.0f};
    polynomials(c, f, y);
    HR_UNROLL for (int j = 0; j < N; j++) y[j] = scaled(y[j], n[j]);
}
HR_INLINE vf power_of_two(vf n, vf f) {
    vf y[1];
    powers_of_two({n}, {f}, y);
    return y[0];
}

// e^x for what is at most 89, or NaN.
HR_INLINE vf exp_of(vf x) {
    const Octaves o = octaves(x);
    return power_of_two(o.n, o.r * splat(1.44269504088896341f));
}

// e^x for x <= 0, and for what is NaN.
HR_INLINE vf exp_negative(vf x) { return exp_of(vmax(splat(-104.0f), x)); }

HR_INLINE vf exp(vf x) { return exp_of(vmin(splat(89.0f), vmax(splat(-104.0f), x))); }

// e^x - 1 by way of e^r - 1 of degree 7 in r, exact near 0; for |x| up to 88.
HR_INLINE vf expm1_of(vf x) {
    const auto [n, r] = octaves(x);
    vf p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    const vf scale = (vf)((round_even(n) + 127) << 23);
    return fma(p * (r * r) + r, scale, scale - splat(1.0f));
}

HR_INLINE vf magnitude(vf x) { return (vf)((vi)x & 0x7fffffff); }
HR_INLINE vf with_sign(vf x, vf sign) { return (vf)((vi)x | ((vi)sign & int32_t(0x80000000))); }

// a / b for b from 1 to 2, to one unit in the last place: a step of Newton's from 14 bits costs a third of a division.
HR_INLINE vf quotient(vf a, vf b) {
#ifdef HR_SCALES
    const vf r = (vf)_mm512_rcp14_ps((__m512)b);
    return a * fma(r, fma(-b, r, splat(1.0f)), r);
#else
    return a / b;
#endif
}

// From the negative side, so that e^-|x| never overflows: e/(1+e) for x < 0, 1/(1+e) else.
HR_INLINE vf sigmoid(vf x) {
    const vf e = exp_negative((vf)((vi)x | int32_t(0x80000000)));
    return quotient(select((vi)(x < vf{}), e, splat(1.0f)), splat(1.0f) + e);
}

// (1 - e^-2|x|) / (1 + e^-2|x|).
HR_INLINE vf tanh(vf x) {
    const vf a = magnitude(x), m = expm1_of(vmax(splat(-40.0f), a * splat(-2.0f)));
    return with_sign(magnitude(m) / (splat(2.0f) + m), x);     // divided: 1 + tanh(x) multiplies what is off
}

// x q(x) with q a polynomial whose weighted error is the least; -ln erfc(x) is smooth and has no zero but that at 0.
template <int N> HR_INLINE vf times_polynomial(vf x, const float (&c)[N]) {
    vf p = splat(c[0]);
    HR_UNROLL for (int i = 1; i < N; i++) p = fma(p, x, splat(c[i]));
    return p * x;
}

// 1 - erfc(|x|), where -ln erfc(|x|) is a polynomial of degree 10, fitted on [0, 4.2] to an error of 4e-8 of erf; beyond it grows.
HR_INLINE vf erf(vf x) {
    static constexpr float c[] = {5.747477302975312e-7f, -1.2472514754335862e-5f, 1.155470818048343e-4f, -5.810533766634762e-4f,
                                  1.5220041386783123e-3f, 1.9478487956803292e-5f, -1.9261473789811134e-2f, 1.0280738025903702e-1f,
                                  6.366165280342102e-1f, 1.128379225730896f};
    return with_sign(magnitude(expm1_of(vmax(splat(-40.0f), -times_polynomial(magnitude(x), c)))), x);
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|), N vectors in step.
#ifdef HR_SCALES
// What is subtracted is a polynomial of degree 5 around each of 16 places 0.4 apart, good to 2e-8, and 0 from 5.8 on; its -0 at 0
// leaves 0 its sign. Instructions that
// pick coefficients run beside those that multiply.
template <int N> HR_INLINE void gelus(vf (&x)[N]) {
    static constexpr float c[6][16] = {
        {5.04936688e-05f, 2.02034571e-04f, 2.22783259e-04f, 8.42900554e-05f, -5.32707527e-05f, -9.12424366e-05f, -5.58389365e-05f, -1.31294892e-05f,
         6.43440217e-06f, 8.10503025e-06f, 4.49239906e-06f, 1.70416206e-06f, 4.88852777e-07f, 1.10504338e-07f, 2.01179446e-08f, 0.0f},
        {-1.72411301e-03f, -1.13337173e-03f, 1.66485115e-05f, 8.19452223e-04f, 8.65777023e-04f, 4.61381918e-04f, 7.81015042e-05f, -8.73560712e-05f,
         -9.40317041e-05f, -5.31952828e-05f, -2.13544208e-05f, -6.59161515e-06f, -1.62005040e-06f, -3.23054593e-07f, -5.28749773e-08f, 0.0f},
        {3.90577179e-06f, -6.03337865e-03f, -8.30573030e-03f, -6.36310410e-03f, -2.72618979e-03f, -1.31914263e-07f, 1.00900268e-03f, 9.07854293e-04f,
         5.07823948e-04f, 2.10541359e-04f, 6.85187624e-05f, 1.79779836e-05f, 3.86024567e-06f, 6.84661416e-07f, 1.00935218e-07f, 0.0f},
        {6.38305247e-02f, 5.42086139e-02f, 3.15189175e-02f, 8.70050862e-03f, -4.96871164e-03f, -8.63861479e-03f, -6.73655886e-03f, -3.69828823e-03f,
         -1.57163909e-03f, -5.36499894e-04f, -1.49868589e-04f, -3.46289598e-05f, -6.66375036e-06f, -1.07289793e-06f, -1.45007249e-07f, 0.0f},
        {-2.00000003e-01f, -7.89080933e-02f, 7.95912556e-03f, 4.71814387e-02f, 4.90696244e-02f, 3.40927243e-02f, 1.82197355e-02f, 7.84325134e-03f,
         2.77677644e-03f, 8.17495049e-04f, 2.01459959e-04f, 4.17338488e-05f, 7.28841906e-06f, 1.07525557e-06f, 1.34207923e-07f, 0.0f},
        {-0.0f, -1.37831286e-01f, -1.69484332e-01f, -1.38083622e-01f, -8.76788720e-02f, -4.55002636e-02f, -1.96740814e-02f, -7.15436228e-03f,
         -2.19884072e-03f, -5.72791148e-04f, -1.26685263e-04f, -2.38153480e-05f, -3.80802953e-06f, -5.18164427e-07f, -6.00214278e-08f, 0.0f}};
    const vf magic = splat(0x1.8p23f), scale = splat(2.5f);     // a number this large has its integer in its last bits
    vi place[N];
    vf r[N], y[N];
    HR_UNROLL for (int j = 0; j < N; j++) {
        const vf a = vmin(splat(6.0f), magnitude(x[j])), near = fma(a, scale, magic);
        place[j] = (vi)near, r[j] = fma(a, scale, magic - near);
    }
    const auto pick = [&](int k, int j) __attribute__((always_inline)) { return (vf)_mm512_permutexvar_ps((__m512i)place[j], (__m512)load(c[k])); };
    HR_UNROLL for (int j = 0; j < N; j++) y[j] = pick(0, j);
    HR_UNROLL for (int k = 1; k < 6; k++) HR_UNROLL for (int j = 0; j < N; j++) y[j] = fma(y[j], r[j], pick(k, j));
    HR_UNROLL for (int j = 0; j < N; j++) x[j] = vmax(vf{}, x[j]) + y[j];
}
#else
// Phi(-|x|) = 2^q and no 1 - 1; q = log2(erfc(|x| / sqrt 2) / 2), of degree 10, fitted on [0, 6] to 7e-8 max(1, |q|); beyond it falls,
// and Phi(-12.5) is 0.
template <int N> HR_INLINE void gelus(vf (&x)[N]) {
    static constexpr float c[] = {-1.86241635e-8f, 5.95909739e-7f, -8.14076157e-6f, 6.00017374e-5f, -2.23357434e-4f, -1.15084142e-4f,
                                  7.08363205e-3f, -5.25290444e-2f, -4.5919466e-1f, -1.15110672f, -1.0f};
    vf a[N], q[N], n[N], tail[N];
    HR_UNROLL for (int j = 0; j < N; j++) a[j] = vmin(splat(12.5f), magnitude(x[j]));
    polynomials(c, a, q);
    HR_UNROLL for (int j = 0; j < N; j++) n[j] = nearest(q[j]), q[j] -= n[j];
    powers_of_two(n, q, tail);
    HR_UNROLL for (int j = 0; j < N; j++) x[j] *= select((vi)(x[j] < vf{}), tail[j], splat(1.0f) - tail[j]);
}
#endif
HR_INLINE vf gelu(vf x) {
    vf one[] = {x};
    gelus(one);
    return one[0];
}

// x / (1 + e^-x). Kernels of bf16 do not look closer than to 2^-13 of it, which takes half of the time.
HR_INLINE vf silu(vf x) {
#ifdef HR_BF16
    static constexpr float c[] = {9.58285e-3f, 5.590643e-2f, 2.4024099e-1f, 6.9312419e-1f, 1.0f};   // 2^f, |f| <= 1/2, to 3e-6
    const vf t = vmin(splat(128.0f), vmax(splat(-40.0f), x * splat(-1.44269504f))), n = nearest(t);
    const vf f[1] = {t - n};
    vf power[1];
    polynomials(c, f, power);
    return x * (vf)_mm512_rcp14_ps((__m512)(splat(1.0f) + scaled(power[0], n)));
#else
    return x * sigmoid(x);
#endif
}

HR_INLINE vf hard_sigmoid(vf x, float alpha, float beta) {
    return vmax(vf{}, vmin(splat(1.0f), splat(alpha) * x + splat(beta)));
}

HR_INLINE vf activate(Act kind, vf x, float alpha, float beta) {
    switch (kind) {
        case Act::sigmoid: return sigmoid(x);
        case Act::tanh: return tanh(x);
        case Act::silu: return silu(x);
        case Act::hard_swish: return x * hard_sigmoid(x, 1.0f / 6, 0.5f);
        case Act::hard_sigmoid: return hard_sigmoid(x, alpha, beta);
        case Act::leaky_relu: return select((vi)(x < vf{}), splat(alpha) * x, x);
        case Act::gelu: return gelu(x);
        case Act::gelu_tanh:
            return splat(0.5f) * x * (splat(1.0f) + tanh(splat(0.79788456080286536f) * (x + splat(0.044715f) * x * x * x)));
        default: return x;
    }
}

// The tail goes through a whole vector: the same code, the same bits.
template <Act kind> static void activate_all(const Activation& act, float* p, int64_t n) {
    int64_t i = 0;
    if constexpr (kind == Act::gelu)
        for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
            vf x[4];
            HR_UNROLL for (int j = 0; j < 4; j++) x[j] = load(p + i + j * kLanes);
            gelus(x);
            HR_UNROLL for (int j = 0; j < 4; j++) store(p + i + j * kLanes, x[j]);
        }
    for (; i + kLanes <= n; i += kLanes) store(p + i, activate(kind, load(p + i), act.alpha, act.beta));
    if (i < n) {
        float tail[kLanes] = {};
        memcpy(tail, p + i, size_t(n - i) * 4);
        store(tail, activate(kind, load(tail), act.alpha, act.beta));
        memcpy(p + i, tail, size_t(n - i) * 4);
    }
}

// Applies a kind that is no clamp to n floats in place.
static void activate_row(const Activation& act, float* p, int64_t n) {
    switch (act.kind) {
        case Act::none: return;
        case Act::sigmoid: return activate_all<Act::sigmoid>(act, p, n);
        case Act::tanh: return activate_all<Act::tanh>(act, p, n);
        case Act::silu: return activate_all<Act::silu>(act, p, n);
        case Act::hard_swish: return activate_all<Act::hard_swish>(act, p, n);
        case Act::hard_sigmoid: return activate_all<Act::hard_sigmoid>(act, p, n);
        case Act::leaky_relu: return activate_all<Act::leaky_relu>(act, p, n);
        case Act::gelu: return activate_all<Act::gelu>(act, p, n);
        case Act::gelu_tanh: return activate_all<Act::gelu_tanh>(act, p, n);
    }
}

}  // namespace hr::HR_TIER
