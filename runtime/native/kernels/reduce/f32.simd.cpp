// float32 reductions of one tier.
#include "kernels/reduce/folds.inc.h"

namespace hr::HR_TIER {
namespace {

std::unique_ptr<Kernel> f32(const NodeInfo& node) { return reduction<float>(node, "reduce_f32"); }
HR_REDUCTIONS(f32);

}  // namespace
}  // namespace hr::HR_TIER
