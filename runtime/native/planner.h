// From a program and the shapes of its inputs to a plan: which nodes are static, what folds, where every byte lies.
#pragma once
#include <memory>

#include "executor.h"

namespace hr {

// Every node infers its shapes while it runs; serves any signature.
std::shared_ptr<Plan> generic_plan(Program& program);

// Shapes fixed by `inputs`; kernels may run here on static values. Throws NodeError.
std::shared_ptr<Plan> special_plan(Program& program, const Tensor* inputs);

// A piece of memory that is needed from step `first` to step `last`, both included.
struct Interval {
    int first, last;
    size_t bytes;
    size_t offset = 0;      // the answer
};

// Best fit by size: fills the offsets (multiples of `alignment`, a power of two), answers the total.
size_t assign_offsets(std::vector<Interval>& intervals, size_t alignment = 64);

}  // namespace hr
