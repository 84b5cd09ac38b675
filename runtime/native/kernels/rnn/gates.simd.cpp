// The gates of an LSTM in one pass, built once for every tier.
#include "kernels/rnn/gates.h"
#include "kernels/gemm/activation.inc.h"

namespace hr::HR_TIER {

HR_INLINE void lstm_vector(const float* p, const float* r, int64_t step, float* h, float* cell) {
    const vf i = load(p) + load(r), o = load(p + step) + load(r + step);
    const vf f = load(p + 2 * step) + load(r + 2 * step), c = load(p + 3 * step) + load(r + 3 * step);
    const vf next = sigmoid(f) * load(cell) + sigmoid(i) * tanh(c);
    store(cell, next);
    store(h, sigmoid(o) * tanh(next));
}

// The tail goes through whole vectors: the same code, the same bits.
static void lstm(const float* p, const float* r, int64_t step, int64_t n, float* h, float* cell) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) lstm_vector(p + i, r + i, step, h + i, cell + i);
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
