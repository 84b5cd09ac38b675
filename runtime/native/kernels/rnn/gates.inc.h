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

// N vectors of each gate, i, o, f and c, to cells and states; by the formulas above, in step: alone, each is a chain so long that
// the processor does not see the next one behind it.
template <int N> HR_INLINE void lstm_cells(const vf (&gates)[N][4], vf (&cell)[N], vf (&state)[N]) {
    vf n[3 * N], f[3 * N], e[3 * N];
    Ratio s[N][3], c[N];
    HR_UNROLL for (int j = 0; j < 3 * N; j++) {
        const Octaves o = octaves(vmax(splat(-104.0f), (vf)((vi)gates[j / 3][j % 3] | int32_t(0x80000000))));
        n[j] = o.n, f[j] = o.r * splat(1.44269504088896341f);
    }
    powers_of_two(n, f, e);
    HR_UNROLL for (int j = 0; j < 3 * N; j++) s[j / 3][j % 3] = {select((vi)(gates[j / 3][j % 3] < vf{}), e[j], splat(1.0f)), splat(1.0f) + e[j]};
    HR_UNROLL for (int i = 0; i < N; i++) c[i] = tanh_ratio(gates[i][3]);
    HR_UNROLL for (int i = 0; i < N; i++) cell[i] = quotient(s[i][2].over, s[i][2].under) * cell[i] + product(s[i][0], c[i]);
    HR_UNROLL for (int i = 0; i < N; i++) c[i] = tanh_ratio(cell[i]);
    HR_UNROLL for (int i = 0; i < N; i++) state[i] = product(s[i][1], c[i]);
}

}  // namespace hr::HR_TIER
