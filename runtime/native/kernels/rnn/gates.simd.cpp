// The gates of an LSTM in one pass, built once for every tier.
#include "kernels/rnn/gates.h"
#include "kernels/rnn/gates.inc.h"

namespace hr::HR_TIER {

template <int N> HR_INLINE void lstm_vectors(const float* p, const float* r, int64_t step, float* h, float* cell) {
    vf gates[N][4], cells[N], states[N];
    HR_UNROLL for (int i = 0; i < N; i++) {
        HR_UNROLL for (int g = 0; g < 4; g++) gates[i][g] = load(p + g * step + i * kLanes) + load(r + g * step + i * kLanes);
        cells[i] = load(cell + i * kLanes);
    }
    lstm_cells(gates, cells, states);
    HR_UNROLL for (int i = 0; i < N; i++) store(cell + i * kLanes, cells[i]), store(h + i * kLanes, states[i]);
}

// The tail goes through whole vectors: the same code, the same bits.
static void lstm(const float* p, const float* r, int64_t step, int64_t n, float* h, float* cell, GateTable::Ahead ahead) {
    const char* line = static_cast<const char*>(ahead.from);
    const int64_t lines = ahead.lines * kLanes / 16;
    const auto ask = [&](int64_t count) {
        for (int64_t k = 0; k < count; k++, line += 64) __builtin_prefetch(line);
    };
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) ask(2 * lines), lstm_vectors<2>(p + i, r + i, step, h + i, cell + i);
    for (; i + kLanes <= n; i += kLanes) ask(lines), lstm_vectors<1>(p + i, r + i, step, h + i, cell + i);
    if (i == n) return;
    const size_t tail = size_t(n - i) * 4;
    float gates[2][4 * kLanes] = {}, state[2][kLanes] = {};
    for (int64_t g = 0; g < 4; g++) memcpy(gates[0] + g * kLanes, p + g * step + i, tail), memcpy(gates[1] + g * kLanes, r + g * step + i, tail);
    memcpy(state[1], cell + i, tail);
    lstm_vectors<1>(gates[0], gates[1], kLanes, state[0], state[1]);
    memcpy(h + i, state[0], tail), memcpy(cell + i, state[1], tail);
}

extern const GateTable gate_kernels;
const GateTable gate_kernels = {lstm};

}  // namespace hr::HR_TIER
