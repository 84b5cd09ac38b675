// What follows the products of one step of an LSTM of float32.
#pragma once
#include <cstdint>

namespace hr {

struct GateTable {
    // What is read next: so many cache lines of it are asked for with 16 values, since the gates leave memory idle.
    struct Ahead {
        const void* from;
        int64_t lines;
    };
    // Gates i, o, f, c of n values each, `step` apart, as p + r; `h` becomes the state and `cell` the cell after the step.
    void (*lstm)(const float* p, const float* r, int64_t step, int64_t n, float* h, float* cell, Ahead ahead);
};

const GateTable& gate_table();

}  // namespace hr
