// The step of an 8-bit LSTM, built once for every tier.
#include "kernels/quant/lstm_step.h"
#include "kernels/quant/igemm.inc.h"
#include "kernels/rnn/gates.inc.h"

namespace hr::HR_TIER {

constexpr int64_t kStepColumns = kLstmGates * kLanes;     // columns
constexpr int kStepPanels = int(kStepColumns / kIntCols), kStepRows = kPairRows ? kPairRows : kIntRows / 2;

template <int... I> struct StepTiles {
    static constexpr IntTileFn of_rows[] = {int_tile<I + 1, kIntVecs * kStepPanels>...};
};
template <int N, int... I> struct MakeStepTiles : MakeStepTiles<N - 1, N - 1, I...> {};
template <int... I> struct MakeStepTiles<0, I...> { using type = StepTiles<I...>; };

// Gate g of a block before its activation: what is projected and the sum as finish_column() makes it a float.
HR_INLINE vf gate_of(const LstmStep& s, int64_t row, int64_t column, vi sum) {
    const IntEpilogue& e = *s.epilogue;
    if (e.w_zero) sum -= load(e.w_zero + column) * splat(e.row_sum[row]);
    if (e.row_shift) sum += load(e.col_sum + column) * splat(e.row_shift[row]);
    return load(s.projected[row] + column) + to_float(sum) * splat(e.row_scale[row]) * load(e.scale + column);
}

// Sums of one row over units [from, to) of a block.
HR_INLINE void add_units(vi (&sums)[kLstmGates], const char* a, const int8_t* b, int64_t panel_stride, int64_t from, int64_t to) {
    for (int64_t k = from; k < to; k++) {
        int32_t unit;
        memcpy(&unit, a + 4 * k, 4);
        HR_UNROLL for (int g = 0; g < kLstmGates; g++)
            dot(sums[g], splat(unit), load_weights(b + g / kIntVecs * panel_stride + (k * kIntCols + g % kIntVecs * kLanes) * kUnit));
    }
}

// A single row waits for its weights: between parts of the sums of one block are the gates of the one before, which are long
// chains of few instructions, so that weights keep coming while they are computed.
static void step_of_one(const LstmStep& s, int64_t begin, int64_t end, bool back) {
    if (!s.projected[0]) return;
    const char* a = static_cast<const char*>(s.rows[0]);
    vf gates[kLstmGates] = {};
    int64_t before = 0;
    for (int64_t i = begin; i <= end; i++) {
        const int64_t block = back ? end - 1 - (i - begin) : i, units = i < end ? s.units : 0;
        const int8_t* b = s.weights + block * kStepPanels * s.panel_stride;
        vi sums[kLstmGates] = {};
        vf kept = {}, cell = {};
        add_units(sums, a, b, s.panel_stride, 0, units / 3);
        if (i > begin) kept = lstm_kept(gates[2], load(s.cell + before));
        add_units(sums, a, b, s.panel_stride, units / 3, units * 2 / 3);
        if (i > begin) store(s.cell + before, cell = kept + lstm_added(gates[0], gates[3]));
        add_units(sums, a, b, s.panel_stride, units * 2 / 3, units);
        if (i > begin) store(s.h + before, lstm_state(gates[1], cell));
        if (i == end) return;
        HR_UNROLL for (int g = 0; g < kLstmGates; g++) gates[g] = gate_of(s, 0, block * kStepColumns + g * kLanes, sums[g]);
        before = block * kLanes;
    }
}

// What becomes of the sums of N rows of a block: sums[row * kStepColumns + column] of row m + row.
template <int N> HR_INLINE void finish_rows(const LstmStep& s, const int* live, int64_t m, int64_t block, const int32_t* sums) {
    vf gates[N][kLstmGates], cells[N], states[N];
    HR_UNROLL for (int k = 0; k < N; k++) {
        HR_UNROLL for (int g = 0; g < kLstmGates; g++)
            gates[k][g] = gate_of(s, m + live[k], block * kStepColumns + g * kLanes, load(sums + live[k] * kStepColumns + g * kLanes));
        cells[k] = load(s.cell + (m + live[k]) * s.ld + block * kLanes);
    }
    lstm_cells(gates, cells, states);
    HR_UNROLL for (int k = 0; k < N; k++) {
        const int64_t at = (m + live[k]) * s.ld + block * kLanes;
        store(s.cell + at, cells[k]), store(s.h + at, states[k]);
    }
}

static void lstm_step(const LstmStep& s, int64_t begin, int64_t end, bool back) {
    if (s.m == 1) return step_of_one(s, begin, end, back);
    alignas(64) int32_t sums[kStepRows * kStepColumns];
    IntBlock g{};
    g.rows = s.rows, g.stride = g.m = s.m, g.segments = 1, g.units = s.units, g.panel_stride = s.panel_stride;
    const int64_t tiles = (s.m + kStepRows - 1) / kStepRows;
    for (int64_t i = begin; i < end; i++) {
        const int64_t block = back ? end - 1 - (i - begin) : i;
        const int8_t* b = s.weights + block * kStepPanels * s.panel_stride;
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t m = s.m * tile / tiles, rows = s.m * (tile + 1) / tiles - m;
            MakeStepTiles<kStepRows>::type::of_rows[rows - 1](g, m, b, sums, b, 0);
            int live[kStepRows], count = 0;     // rows whose sequence is not over
            for (int r = 0; r < rows; r++) {
                if (!s.projected[m + r]) continue;
                live[count++] = r;
                // Rows of what is projected lie far apart, each read in pieces: of the next block asked for here.
                const char* next = reinterpret_cast<const char*>(s.projected[m + r] + (back ? block - 1 : block + 1) * kStepColumns);
                for (int64_t at = 0; i + 1 < end && at < kStepColumns * 4; at += 64) __builtin_prefetch(next + at);
            }
            int k = 0;
            if constexpr (HR_TIER_RANK >= 2)        // of 16 registers some would lie in memory
                for (; k + 2 <= count; k += 2) finish_rows<2>(s, live + k, m, block, sums);
            for (; k < count; k++) finish_rows<1>(s, live + k, m, block, sums);
        }
    }
}

extern const LstmStepTable lstm_step_kernels;
const LstmStepTable lstm_step_kernels = {lstm_step};

}  // namespace hr::HR_TIER
