// One step of an 8-bit LSTM: the state times the recurrent weights, and the gates of some columns as soon as those are there,
// while the weights of the next ones come from L2.
#pragma once
#include "kernels/quant/igemm.h"

namespace hr {

// Columns of weights and of what is projected are in blocks of one vector of each gate: [block][i, o, f, c][nr / 2], two panels.
constexpr int64_t kLstmGates = 4;

struct LstmStep {
    const void* const* rows;        // of the state, quantized and prepared
    int64_t m, units;
    const int8_t* weights;
    int64_t panel_stride;
    const IntEpilogue* epilogue;    // f32
    const float* const* projected;  // of each row; null: its sequence is over, its state stays
    float *h, *cell;                // [m, ld], ld of whole vectors
    int64_t ld;
};

struct LstmStepTable {
    // Blocks [begin, end); `back`: from the last to the first.
    void (*run)(const LstmStep&, int64_t begin, int64_t end, bool back);
};

const LstmStepTable& lstm_step_table();

}  // namespace hr
