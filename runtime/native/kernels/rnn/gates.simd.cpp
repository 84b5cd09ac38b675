// The gates of an LSTM in one pass, built once for every tier.
#include "kernels/rnn/gates.h"
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

HR_INLINE void lstm_vector(const float* p, const float* r, int64_t step, float* h, float* cell) {
    const vf i = load(p) + load(r), o = load(p + step) + load(r + step);
    const vf f = load(p + 2 * step) + load(r + 2 * step), c = load(p + 3 * step) + load(r + 3 * step);
    const vf next = sigmoid(f) * load(cell) + product(sigmoid_ratio(i), tanh_ratio(c));
    store(cell, next);
    store(h, product(sigmoid_ratio(o), tanh_ratio(next)));
}

// The tail goes through whole vectors: the same code, the same bits.
static void lstm(const float* p, const float* r, int64_t step, int64_t n, float* h, float* cell, GateTable::Ahead ahead) {
    const char* line = static_cast<const char*>(ahead.from);
    const int64_t lines = ahead.lines * kLanes / 16;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int64_t k = 0; k < lines; k++, line += 64) __builtin_prefetch(line);
        lstm_vector(p + i, r + i, step, h + i, cell + i);
    }
    if (i == n) return;
    const size_t tail = size_t(n - i) * 4;
    float gates[2][4 * kLanes] = {}, state[2][kLanes] = {};
    for (int64_t g = 0; g < 4; g++) memcpy(gates[0] + g * kLanes, p + g * step + i, tail), memcpy(gates[1] + g * kLanes, r + g * step + i, tail);
    memcpy(state[1], cell + i, tail);
    lstm_vector(gates[0], gates[1], kLanes, state[0], state[1]);
    memcpy(h + i, state[0], tail), memcpy(cell + i, state[1], tail);
}

extern const GateTable gate_kernels;
const GateTable gate_kernels = {lstm};

}  // namespace hr::HR_TIER
