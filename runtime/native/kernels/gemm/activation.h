// The activation of a fused node: what it is, and how attributes say it.
#pragma once
#include <limits>

#include "kernel.h"

namespace hr {

enum class Act : int { none, sigmoid, tanh, silu, hard_swish, hard_sigmoid, leaky_relu, gelu, gelu_tanh };

// v = clamp(act(v), lo, hi). None, Relu and Clip are clamps alone.
struct Activation {
    Act kind = Act::none;
    float alpha = 0, beta = 0;
    float lo = -std::numeric_limits<float>::infinity(), hi = std::numeric_limits<float>::infinity();
};

// Reads `activation`, `alpha`, `beta`, `clip_min`, `clip_max`, `approximate`; answers false for a name it does not know.
bool read_activation(const NodeInfo& node, Activation& out);

}  // namespace hr
