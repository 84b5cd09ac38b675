#include "parts.h"

#include <algorithm>
#include <vector>

#include "planner.h"

namespace hr {

namespace {

constexpr int64_t kNear = 4 << 20;      // bytes for each thread: its L2 and some of L3

// Rows of the batch, or 0 where it cannot be cut: sizes known only at run time, an output that no kernel writes.
int64_t batch_of(const Program& program, const Plan& plan) {
    int64_t rows = -1;
    const auto carries = [&](const Shape& shape) { return shape.rank > 0 && (rows < 0 || shape[0] == rows) && ((rows = shape[0]), true); };
    for (const Step& step : plan.steps)
        if (step.dynamic) return 0;
    for (size_t i = 0; i < program.inputs.size(); i++)
        if (is_object(program.dtypes[program.inputs[i].value]) || !carries(plan.signature[i])) return 0;
    for (size_t k = 0; k < program.outputs.size(); k++)
        if (!plan.direct[k] || !carries(plan.tensors[program.outputs[k].value].shape)) return 0;
    return std::max<int64_t>(rows, 0);
}

}  // namespace

int64_t rows_at_a_time(const Program& program, const Plan& whole) {
    const int64_t rows = batch_of(program, whole), near = kNear * program.pool->threads(), arena = int64_t(whole.arena_bytes);
    if (rows < 2 || arena <= near) return rows;
    double values = 0;      // bytes that nodes write
    for (const Step& step : whole.steps)
        for (int v : program.nodes[step.node]->outputs)
            if (v >= 0) values += double(whole.tensors[v].bytes());
    // Weights are read once for each part: they should not be more than the values of one.
    const double worth = double(program.packed_bytes()) * double(rows) / std::max(values, 1.0), fit = double(near) / double(arena) * double(rows);
    int64_t part = 1;
    for (int64_t next = 2; next <= rows; next++)
        if (rows % next == 0 && (double(next) <= fit || double(part) < worth)) part = next;
    return part;
}

std::shared_ptr<Plan> plan_in_parts(Program& program, const Plan& whole, int64_t rows) {
    const size_t n_in = program.inputs.size(), n_out = program.outputs.size();
    std::vector<Tensor> inputs(n_in);
    for (size_t i = 0; i < n_in; i++) {
        inputs[i] = {program.dtypes[program.inputs[i].value], whole.signature[i], nullptr};
        inputs[i].shape.d[0] = rows;
    }
    auto plan = special_plan(program, inputs.data());
    if (batch_of(program, *plan) != rows) return nullptr;
    plan->parts = whole.signature[0][0] / rows;
    plan->signature = whole.signature;
    for (size_t i = 0; i < n_in; i++) plan->strides.push_back(inputs[i].bytes());
    for (size_t k = 0; k < n_out; k++) {
        const Tensor part = plan->tensors[program.outputs[k].value];
        if (plan->whole(part).shape != whole.tensors[program.outputs[k].value].shape) return nullptr;
        plan->strides.push_back(part.bytes());
    }
    return plan;
}

}  // namespace hr
