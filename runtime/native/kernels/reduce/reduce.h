// Reductions over any axes, as passes over [outer, R, inner]: one for each group of neighbouring axes, the last group
// first. The order of additions depends on the sizes alone, never on threads or batch.
#pragma once
#include <memory>
#include <string>

#include "kernel.h"

namespace hr {

// One pass. rows: n rows of r elements each to n results. columns: r rows of `inner`, results for columns [from, to).
struct Fold {
    void (*rows)(const void* x, void* y, int64_t n, int64_t r) = nullptr;
    void (*columns)(const void* x, void* y, int64_t r, int64_t inner, int64_t from, int64_t to) = nullptr;
};

struct Reduction {
    Fold first, rest;                                           // on the data; on results of an earlier pass
    void (*finish)(void* y, int64_t n, int64_t count) = nullptr;    // count: how many elements made one result
    bool spatial = false;                                       // all axes from 2 on, dimensions kept (global pools)
    std::string variant;
};

std::unique_ptr<Kernel> make_reduction(const NodeInfo& node, Reduction what);

}  // namespace hr
