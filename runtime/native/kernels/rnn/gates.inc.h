// What becomes of one vector of an LSTM's gates.
#pragma once
#include "kernels/gemm/activation.inc.h"

namespace hr::HR_TIER {

// A sigmoid or a hyperbolic tangent before its division, as activation.inc.h computes them: a product of two divides once.
struct Ratio {
    vf over, under;
};
HR_INLINE Ratio sigmoid_ratio(vf x) {
    const vf e = exp_negative((vf)((vi)x | int32_t(0x80000000)));
    return {select((vi)(x < vf{}), e, splat(1.0f)), splat(1.0f) + e};
}
HR_INLINE Ratio tanh_ratio(vf x) {
    const vf m = expm1_of(vmax(splat(-40.0f), magnitude(x) * splat(-2.0f)));
    return {with_sign(magnitude(m), x), splat(2.0f) + m};
}
HR_INLINE vf product(const Ratio& a, const Ratio& b) { return a.over * b.over / (a.under * b.under); }

// The cell after a step: what is kept of it, and what is added. And the state then.
HR_INLINE vf lstm_kept(vf f, vf cell) { return sigmoid(f) * cell; }
HR_INLINE vf lstm_added(vf i, vf c) { return product(sigmoid_ratio(i), tanh_ratio(c)); }
HR_INLINE vf lstm_state(vf o, vf cell) { return product(sigmoid_ratio(o), tanh_ratio(cell)); }

}  // namespace hr::HR_TIER
