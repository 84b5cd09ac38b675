#include "kernels/gemm/activation.h"

namespace hr {

bool read_activation(const NodeInfo& node, Activation& out) {
    const std::string name = node.s("activation", "");
    out = Activation{};
    if (name.empty()) return true;
    if (name == "Relu") return out.lo = 0, true;
    if (name == "Clip") {
        out.lo = float(node.f("clip_min", out.lo));
        out.hi = float(node.f("clip_max", out.hi));
        return true;
    }
    const auto is = [&](const char* known, Act kind, double alpha = 0, double beta = 0) {
        if (name != known) return false;
        out.kind = kind;
        out.alpha = float(node.f("alpha", alpha));
        out.beta = float(node.f("beta", beta));
        return true;
    };
    const bool approximate = name == "Gelu" && node.s("approximate", "none") == "tanh";
    return is("Sigmoid", Act::sigmoid) || is("Tanh", Act::tanh) || is("Silu", Act::silu) || is("Swish", Act::silu) ||
           is("HardSwish", Act::hard_swish) || is("HardSigmoid", Act::hard_sigmoid, 0.2, 0.5) ||
           is("LeakyRelu", Act::leaky_relu, 0.01) || is("GeluTanh", Act::gelu_tanh) ||
           is("Gelu", approximate ? Act::gelu_tanh : Act::gelu);
}

}  // namespace hr
