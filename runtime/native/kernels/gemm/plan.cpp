#include "kernels/gemm/plan.h"

#include <algorithm>

#include "kernels/gemm/common.h"

namespace hr {

GemmPlan cut_product(const GemmCut& c) {
    constexpr double kEven = 0.97;      // of the threads' time is work: even enough
    const int64_t threads = std::clamp<int64_t>(c.wanted, 1, c.threads);
    GemmPlan best{c.m, 1, c.panels, 1};
    double best_even = 0;
    const auto consider = [&](int64_t rows, int64_t groups, bool by_columns) {
        GemmPlan plan;
        plan.row_block = ceil_div(c.m, rows), plan.row_blocks = ceil_div(c.m, plan.row_block);
        plan.panel_group = ceil_div(c.panels, groups), plan.panel_groups = ceil_div(c.panels, plan.panel_group);
        plan.by_columns = by_columns;
        const double longest = double(ceil_div(plan.tasks(), threads) * plan.row_block * plan.panel_group);
        const double even = double(c.m) * double(c.panels) / (double(threads) * longest);
        if (best_even < kEven && even > best_even) best = plan, best_even = even;
    };
    const auto by_rows = [&] {
        for (int64_t each = c.wanted / threads; each >= 1; each--)
            if (each == 1 || c.m >= each * threads * c.least_rows) consider(std::max(round_up(c.row_blocks, threads), each * threads), 1, false);
    };
    const auto by_columns = [&] {
        for (int64_t each = c.wanted / threads; each >= 1; each--)
            if (each == 1 || c.panels >= 2 * each * threads) consider(c.row_blocks, each * threads, true);
    };
    if (c.columns_first) by_columns(), by_rows();
    else by_rows(), by_columns();
    const int64_t rows = std::clamp(c.m / c.least_rows, c.row_blocks, std::max(c.row_blocks, c.wanted));
    consider(rows, ceil_div(c.wanted, rows), false);
    return best;
}

}  // namespace hr
