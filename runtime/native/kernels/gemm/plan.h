// How a product is cut into tasks. The cut never changes a bit of the result: each element is summed by one task, in one order.
#pragma once
#include <cstdint>

namespace hr {

constexpr int64_t kDearWeights = 256 << 10; // bytes that L2 does not hold beside what else is there

// Blocks of rows times groups of panels of columns.
struct GemmPlan {
    int64_t row_block, row_blocks, panel_group, panel_groups;
    bool by_columns = false;    // the order of tasks: all rows of a group of panels, instead of all columns of a block of rows
    int64_t tasks() const { return row_blocks * panel_groups; }
    int64_t row_of(int64_t task) const { return by_columns ? task % row_blocks : task / panel_groups; }
    int64_t group_of(int64_t task) const { return by_columns ? task / row_blocks : task % panel_groups; }
};

// For several threads, each of which begins with its share of the tasks in their order: as many tasks for each, of one size.
struct GemmCut {
    int64_t m, panels;
    int64_t row_blocks;         // at least, for the caches
    int64_t least_rows;         // of a block, where threads have more than one
    int64_t wanted;             // tasks, so that who is late leaves some to others
    int threads;
    bool columns_first;         // weights are dear to read: each thread has panels of its own rather than rows
};
GemmPlan cut_product(const GemmCut& c);

}  // namespace hr
