// Reductions of float64, integers and bool.
#include "kernels/reduce/folds.inc.h"

namespace hr::HR_TIER {
namespace {

std::unique_ptr<Kernel> numbers(const NodeInfo& node) {
    const bool extreme = node.op == "ReduceMax" || node.op == "ReduceMin";
    if (extreme) return reduction<double, int32_t, int64_t, uint32_t, uint64_t, int8_t, uint8_t, bool>(node, "reduce");
    return reduction<double, int32_t, int64_t, uint32_t, uint64_t>(node, "reduce");
}
HR_REDUCTIONS(numbers);

}  // namespace
}  // namespace hr::HR_TIER
