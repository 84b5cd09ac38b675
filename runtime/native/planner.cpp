#include "planner.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace hr {

namespace {

constexpr size_t kFoldLimit = size_t(64) << 10;     // larger static values are computed in each call, in the arena
constexpr size_t kSmall = size_t(128) << 10;        // bytes of all values and packed constants of a small plan: microseconds

// Builds one specialised plan; the members are the questions that its steps answer in turn.
class Planner {
public:
    Planner(Program& program, Plan& plan) : p_(program), plan_(plan), parent_(program.dtypes.size()), within_(program.dtypes.size()), known_(program.dtypes.size()) {
        std::iota(parent_.begin(), parent_.end(), 0);
        plan_.tensors.resize(program.dtypes.size());
        plan_.storage.resize(program.dtypes.size());
    }

    void build(const Tensor* inputs) {
        seed(inputs);
        for (size_t n = 0; n < p_.nodes.size(); n++) classify(int(n));
        lifetimes();
        reuse_in_place();
        bind_outputs();
        lay_out();
        plan_.small = small(inputs);
    }

private:
    Storage& place(int v) { return plan_.storage[v]; }
    bool value_known(int v) const { return plan_.storage[v].place == Place::fixed && plan_.tensors[v].data; }
    int root(int v) {
        while (parent_[v] != v) v = parent_[v] = parent_[parent_[v]];
        return v;
    }

    void seed(const Tensor* inputs) {
        for (size_t v = 0; v < p_.dtypes.size(); v++) {
            if (p_.constants[v].data) {
                plan_.tensors[v] = p_.constants[v];
                plan_.storage[v] = {Place::fixed, 0, 0, p_.constants[v].data};
                known_[v] = true;
            } else if (p_.input_of[v] >= 0) {
                const int i = p_.input_of[v];
                plan_.storage[v] = {Place::input, i, 0, nullptr};
                known_[v] = bool(inputs[i]);
                plan_.tensors[v] = inputs[i];
                plan_.tensors[v].data = nullptr;
            }
        }
    }

    // Folds a node, makes it a static step, or leaves it to run time.
    void classify(int n) {
        Node& node = *p_.nodes[n];
        bool fixed_shapes = node.kernel != nullptr, foldable = node.pure && node.kernel;
        for (size_t i = 0; fixed_shapes && i < node.inputs.size(); i++) {
            const int v = node.inputs[i];
            if (v < 0) continue;
            fixed_shapes = known_[v] && (value_known(v) || !node.kernel->needs_value(int(i)));
            foldable = foldable && (value_known(v) || !node.kernel->reads_data(int(i)));
        }
        if (!fixed_shapes || (node.kernel->shrinks() && !foldable)) return add_dynamic(n);
        std::vector<Tensor> in = gather(node), out(node.outputs.size());
        const ShapeContext shapes = infer_shapes(p_, node, in.data(), out.data());
        if (alias(node, shapes, out)) return;
        if (foldable && fold(node, shapes, in, out)) return;
        if (node.kernel->shrinks()) return add_dynamic(n);
        for (size_t i = 0; i < out.size(); i++)
            if (const int v = node.outputs[i]; v >= 0) {
                plan_.tensors[v] = out[i];
                plan_.storage[v] = {Place::arena, 0, 0, nullptr};
                known_[v] = true;
                if (i == 0 && shapes.alias >= 0) join(v, node.inputs[shapes.alias]);
            }
        plan_.steps.push_back({n, false, plan_.n_slots, shapes.scratch, 0});
        plan_.n_slots += int(node.inputs.size() + node.outputs.size());
    }

    void add_dynamic(int n) {
        for (int v : p_.nodes[n]->outputs)
            if (v >= 0) plan_.storage[v].place = Place::dynamic;
        plan_.steps.push_back({n, true});
    }

    std::vector<Tensor> gather(const Node& node) {
        std::vector<Tensor> in(node.inputs.size());
        for (size_t i = 0; i < in.size(); i++)
            if (node.inputs[i] >= 0) in[i] = plan_.tensors[node.inputs[i]];
        return in;
    }

    // `v` has the bytes of `source`, from `at` on.
    void join(int v, int source, size_t at = 0) {
        plan_.storage[v] = plan_.storage[source];
        if (char* data = plan_.tensors[source].as<char>()) plan_.tensors[v].data = plan_.storage[v].data = data + at;
        within_[v] = within_[source] + at;
        parent_[v] = root(source);
    }

    // Memory that is not the plan's own: a piece of it costs nothing, and lies where it lies.
    bool lent(int v) const { return plan_.storage[v].place == Place::fixed || plan_.storage[v].place == Place::input; }

    // A view with no other wanted output needs no step at all.
    bool alias(const Node& node, const ShapeContext& shapes, const std::vector<Tensor>& out) {
        const int source = shapes.alias >= 0 ? shapes.alias : shapes.part >= 0 && lent(node.inputs[shapes.part]) ? shapes.part : -1;
        if (source < 0) return false;
        for (size_t i = 1; i < node.outputs.size(); i++)
            if (node.outputs[i] >= 0) return false;
        const int v = node.outputs[0];
        if (v < 0) return true;
        plan_.tensors[v] = out[0];
        known_[v] = true;
        join(v, node.inputs[source], source == shapes.part ? shapes.part_at : 0);
        return true;
    }

    bool fold(const Node& node, const ShapeContext& shapes, std::vector<Tensor>& in, std::vector<Tensor>& out) {
        size_t total = 0;
        for (size_t i = 0; i < out.size(); i++)
            if (node.outputs[i] >= 0) total += aligned(out[i].bytes());
        if (total > kFoldLimit || shapes.scratch > kFoldLimit) return false;
        Buffer* memory = take_buffer(total + shapes.scratch);
        plan_.folded.push_back(memory);
        char* at = static_cast<char*>(memory->data);
        for (size_t i = 0; i < out.size(); i++)
            if (node.outputs[i] >= 0) out[i].data = at, at += aligned(out[i].bytes());
        if (shapes.alias >= 0) std::copy_n(in[shapes.alias].as<char>(), out[0].bytes(), out[0].as<char>());
        RunContext run{in.data(), int(in.size()), out.data(), int(out.size()), at, p_.pool.get()};
        run_kernel(node, run);
        for (size_t i = 0; i < out.size(); i++)
            if (const int v = node.outputs[i]; v >= 0) {
                plan_.tensors[v] = out[i];
                plan_.storage[v] = {Place::fixed, 0, 0, out[i].data};
                known_[v] = true;
            }
        return true;
    }

    void lifetimes() {
        const int end = int(plan_.steps.size());
        first_.assign(parent_.size(), -1), last_.assign(parent_.size(), -1);
        for (int s = 0; s < end; s++) {
            const Node& node = *p_.nodes[plan_.steps[s].node];
            for (int v : node.inputs)
                if (v >= 0) last_[root(v)] = s;
            for (int v : node.outputs)
                if (v >= 0 && root(v) == v) first_[v] = s, last_[v] = std::max(last_[v], s);
        }
        for (const OutputSpec& output : p_.outputs) last_[root(output.value)] = end;
        plan_.dead.resize(plan_.steps.size());
        for (size_t v = 0; v < parent_.size(); v++)
            if (place(int(v)).place == Place::dynamic && last_[v] >= 0 && last_[v] < end) plan_.dead[last_[v]].push_back(int(v));
    }

    // Output 0 takes over the memory of an input that dies here, where the kernel allows it.
    void reuse_in_place() {
        for (int s = 0; s < int(plan_.steps.size()); s++) {
            const Node& node = *p_.nodes[plan_.steps[s].node];
            if (plan_.steps[s].dynamic || node.outputs.empty() || node.outputs[0] < 0) continue;
            const int out = node.outputs[0];
            if (root(out) != out || place(out).place != Place::arena) continue;
            for (size_t i = 0; i < node.inputs.size(); i++)
                if (may_take(node, s, int(i), out)) {
                    const int r = root(node.inputs[i]);
                    parent_[out] = r;
                    last_[r] = last_[out];
                    break;
                }
        }
    }

    bool may_take(const Node& node, int s, int i, int out) {
        const int v = node.inputs[i];
        if (v < 0 || !node.kernel->in_place(i)) return false;
        const int r = root(v);
        if (place(r).place != Place::arena || last_[r] != s || !plan_.tensors[v].fits(plan_.tensors[out])) return false;
        for (size_t j = 0; j < node.inputs.size(); j++) {   // the same memory under another shape would be read after the write
            const int w = node.inputs[j];
            if (w >= 0 && int(j) != i && root(w) == r && !(node.kernel->in_place(int(j)) && plan_.tensors[w].shape == plan_.tensors[v].shape)) return false;
        }
        for (size_t j = 1; j < node.outputs.size(); j++)
            if (node.outputs[j] >= 0 && root(node.outputs[j]) == r) return false;
        return true;
    }

    // A value that is a graph output is written into the output array, unless it shares memory with an earlier one.
    void bind_outputs() {
        plan_.direct.assign(p_.outputs.size(), 0);
        for (size_t k = 0; k < p_.outputs.size(); k++) {
            Storage& storage = place(root(p_.outputs[k].value));
            if (storage.place != Place::arena) continue;
            storage = {Place::output, int(k), 0, nullptr};
            plan_.direct[k] = 1;
        }
    }

    void lay_out() {
        std::vector<Interval> intervals;
        std::vector<int> owners;    // value, or -1 - step for its scratch
        for (size_t v = 0; v < parent_.size(); v++)
            if (parent_[v] == int(v) && place(int(v)).place == Place::arena) {
                intervals.push_back({first_[v], last_[v], plan_.tensors[v].bytes()});
                owners.push_back(int(v));
            }
        for (size_t s = 0; s < plan_.steps.size(); s++)
            if (plan_.steps[s].scratch) {
                intervals.push_back({int(s), int(s), plan_.steps[s].scratch});
                owners.push_back(-1 - int(s));
            }
        plan_.arena_bytes = assign_offsets(intervals);
        for (size_t i = 0; i < owners.size(); i++) {
            if (owners[i] >= 0) place(owners[i]).offset = intervals[i].offset;
            else plan_.steps[-1 - owners[i]].scratch_offset = intervals[i].offset;
        }
        for (size_t v = 0; v < parent_.size(); v++)
            if (const Storage storage = place(root(int(v))); parent_[v] != int(v)) {
                place(int(v)) = storage;
                place(int(v)).offset += within_[v];
                if (storage.data) place(int(v)).data = static_cast<char*>(storage.data) + within_[v];
            }
    }

    bool small(const Tensor* inputs) const {
        for (size_t i = 0; i < p_.inputs.size(); i++)
            if (!inputs[i]) return false;
        for (const Step& step : plan_.steps)
            if (step.dynamic) return false;
        size_t bytes = plan_.arena_bytes + p_.packed_bytes();
        for (size_t v = 0; v < plan_.tensors.size() && bytes <= kSmall; v++) bytes += plan_.tensors[v].bytes();
        return bytes <= kSmall;
    }

    Program& p_;
    Plan& plan_;
    std::vector<int> parent_;       // values that share memory form a tree
    std::vector<size_t> within_;    // where in its root a value begins; only lent memory is cut
    std::vector<char> known_;       // shape known now
    std::vector<int> first_, last_; // steps, per root
};

}  // namespace

size_t assign_offsets(std::vector<Interval>& intervals, size_t alignment) {
    const auto up = [&](size_t bytes) { return (bytes + alignment - 1) & ~(alignment - 1); };
    std::vector<int> order(intervals.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return intervals[a].bytes > intervals[b].bytes; });
    std::vector<int> placed;    // by rising offset
    size_t total = 0;
    for (int i : order) {
        Interval& now = intervals[i];
        size_t at = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
        for (int j : placed) {
            const Interval& other = intervals[j];
            if (other.last < now.first || other.first > now.last) continue;
            if (other.offset > at && other.offset - at >= now.bytes && other.offset - at < best_gap) best = at, best_gap = other.offset - at;
            at = std::max(at, up(other.offset + other.bytes));
        }
        now.offset = best != SIZE_MAX ? best : at;
        placed.insert(std::upper_bound(placed.begin(), placed.end(), i, [&](int a, int b) { return intervals[a].offset < intervals[b].offset; }), i);
        total = std::max(total, up(now.offset + now.bytes));
    }
    return total;
}

std::shared_ptr<Plan> special_plan(Program& program, const Tensor* inputs) {
    auto plan = std::make_shared<Plan>();
    for (size_t i = 0; i < program.inputs.size(); i++) plan->signature.push_back(inputs[i].shape);
    Planner(program, *plan).build(inputs);
    return plan;
}

std::shared_ptr<Plan> generic_plan(Program& program) {
    auto plan = std::make_shared<Plan>();
    plan->generic = true;
    const size_t n = program.dtypes.size();
    plan->tensors.resize(n), plan->storage.resize(n);
    plan->direct.assign(program.outputs.size(), 0);
    for (size_t v = 0; v < n; v++) {
        if (program.constants[v].data) {
            plan->tensors[v] = program.constants[v];
            plan->storage[v] = {Place::fixed, 0, 0, program.constants[v].data};
        } else if (program.input_of[v] >= 0) {
            plan->storage[v] = {Place::input, program.input_of[v], 0, nullptr};
        }
    }
    std::vector<int> last(n, -1);
    for (size_t s = 0; s < program.nodes.size(); s++) {
        const Node& node = *program.nodes[s];
        plan->steps.push_back({int(s), true});
        for (int v : node.inputs)
            if (v >= 0) last[v] = int(s);
        for (int v : node.outputs)
            if (v >= 0) plan->storage[v].place = Place::dynamic, last[v] = int(s);
    }
    for (const OutputSpec& output : program.outputs) last[output.value] = -1;
    plan->dead.resize(plan->steps.size());
    for (size_t v = 0; v < n; v++)
        if (last[v] >= 0 && plan->storage[v].place == Place::dynamic) plan->dead[last[v]].push_back(int(v));
    return plan;
}

}  // namespace hr
