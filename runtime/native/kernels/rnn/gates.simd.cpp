// The gates of an LSTM in one pass, built once for every tier.
#include "kernels/rnn/gates.h"
#include "kernels/rnn/gates.inc.h"

namespace hr::HR_TIER {

HR_INLINE void lstm_vector(const float* p, const float* r, int64_t step, float* h, float* cell) {
    const auto gate = [&](int64_t g) __attribute__((always_inline)) { return load(p + g * step) + load(r + g * step); };
    const vf next = lstm_kept(gate(2), load(cell)) + lstm_added(gate(0), gate(3));
    store(cell, next);
    store(h, lstm_state(gate(1), next));
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
