// What follows the products of one step of an LSTM: f32 and 8-bit layers share it.
#pragma once
#include <cstdint>

namespace hr {

struct GateTable {
    // Gates i, o, f, c of n values each, `step` apart, as p + r; `h` becomes the state and `cell` the cell after the step.
    void (*lstm)(const float* p, const float* r, int64_t step, int64_t n, float* h, float* cell);
};

const GateTable& gate_table();

}  // namespace hr
