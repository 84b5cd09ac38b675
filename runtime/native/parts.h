// A batch in parts. Where rows do not meet (runtime/rows.py), the whole plan may run over a few of them after the other: what lies
// between its nodes then stays in caches, and memory is needed for those few only. Rows have the same bits in any batch.
#pragma once
#include <cstdint>
#include <memory>

#include "executor.h"

namespace hr {

// How many rows of the batch one run should take; all of them where their values fit caches, or weights are most of what is read.
int64_t rows_at_a_time(const Program& program, const Plan& whole);

// A plan for these inputs that runs over so many rows (a divisor of all) at a time; null where one row's sizes do not follow.
std::shared_ptr<Plan> plan_in_parts(Program& program, const Plan& whole, int64_t rows);

}  // namespace hr
