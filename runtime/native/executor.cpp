#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "cpu.h"
#include "parts.h"
#include "planner.h"

namespace hr {

namespace {

constexpr size_t kPlans = 16;       // specialised plans kept
constexpr size_t kSeen = 64;        // signatures remembered without a plan
constexpr size_t kEvents = size_t(1) << 20;     // of one trace; later ones are left out
constexpr int kOften = 8;           // calls after which a signature is worth another plan's place

alignas(kAlign) char nothing[kAlign];   // where empty tensors point

[[noreturn]] void fail(const Node& node, const std::string& what) { throw NodeError(node.label + ": " + what); }

}  // namespace

ShapeContext infer_shapes(const Program& program, const Node& node, const Tensor* inputs, Tensor* outputs) {
    ShapeContext c{inputs, int(node.inputs.size()), outputs, int(node.outputs.size())};
    c.threads = program.pool->threads();
    try {
        node.kernel->shape(c);
        for (size_t i = 0; i < node.outputs.size(); i++) {
            const int v = node.outputs[i];
            if (v < 0) continue;
            if (outputs[i].dtype != program.dtypes[v])
                fail(node, "the kernel answers element type " + std::to_string(int(outputs[i].dtype)) + " for output " + std::to_string(i) + ", declared is " + std::to_string(int(program.dtypes[v])));
            size_t bytes;
            for (int axis = 0; axis < outputs[i].shape.rank; axis++)
                if (outputs[i].shape[axis] < 0) fail(node, "output " + std::to_string(i) + " would have a negative dimension");
            if (__builtin_mul_overflow(size_t(outputs[i].count()), item_size(outputs[i].dtype), &bytes)) fail(node, "an output is too large");
        }
    } catch (const NodeError&) {
        throw;
    } catch (const std::bad_alloc&) {
        fail(node, "not enough memory");
    } catch (const std::exception& error) {
        fail(node, error.what());
    }
    c.scratch = aligned(c.scratch);
    return c;
}

void run_kernel(const Node& node, RunContext& context) {
    try {
        node.kernel->run(context);
    } catch (const std::bad_alloc&) {
        fail(node, "not enough memory");
    } catch (const std::exception& error) {
        fail(node, error.what());
    }
}

bool Plan::serves(const Tensor* inputs) const {
    for (size_t i = 0; i < signature.size(); i++)
        if (signature[i] != inputs[i].shape) return false;
    return true;
}

Plan::~Plan() {
    idle.clear();
    for (Buffer* buffer : folded) release_buffer(buffer);
}

// Points every static tensor into the arena at `base` (or at its fixed place), and notes which ones change per call.
void Frame::resolve(char* base) {
    arena = base;
    patches.clear();
    const auto bind = [&](Tensor& tensor, const Storage& storage) {
        switch (storage.place) {
            case Place::fixed: tensor.data = storage.data; break;
            case Place::arena: tensor.data = base ? base + storage.offset : nothing; break;
            case Place::input: patches.push_back({&tensor, storage.index, storage.offset}); break;
            case Place::output: patches.push_back({&tensor, int(program->inputs.size()) + storage.index, 0}); break;
            default: break;
        }
    };
    for (size_t v = 0; v < values.size(); v++) {
        if (plan->storage[v].place == Place::dynamic) continue;
        values[v] = plan->tensors[v];
        bind(values[v], plan->storage[v]);
    }
    contexts.resize(plan->steps.size());
    for (size_t s = 0; s < plan->steps.size(); s++) {
        const Step& step = plan->steps[s];
        if (step.dynamic) continue;
        const Node& node = *program->nodes[step.node];
        Tensor* at = slots.data() + step.slot;
        const auto fill = [&](int v) {
            *at = Tensor{};
            if (v >= 0) *at = plan->tensors[v], bind(*at, plan->storage[v]);
            at++;
        };
        for (int v : node.inputs) fill(v);
        for (int v : node.outputs) fill(v);
        const int n_in = int(node.inputs.size());
        contexts[s] = {slots.data() + step.slot, n_in, slots.data() + step.slot + n_in, int(node.outputs.size()),
                       base ? base + step.scratch_offset : nothing, program->pool.get()};
    }
}

Frame::~Frame() {
    if (!own) return;
    program->arena_bytes_ -= plan->arena_bytes;
    release_buffer(own);
}

void Frame::release(int value) {
    if (buffers[value]) release_buffer(buffers[value]), buffers[value] = nullptr;
    if (objects[value]) garbage.push_back(objects[value]), objects[value] = nullptr;
}

void Frame::clear() {
    for (size_t v = 0; v < buffers.size(); v++) release(int(v));
    if (!garbage.empty()) program->host->drop(garbage);
}

Program::Program(int threads, Host* host) : pool(ThreadPool::shared(threads > 0 ? threads : usable_threads())), host(host) {
    cpu_tier();     // an unknown tier is an error of loading, not of the first node
    buffers_wanted(true);
}

Program::~Program() {
    plans_.clear();
    size_t held = packed_bytes();
    nodes.clear();
    for (Arena& arena : arenas_) held += arena.bytes, std::free(arena.data);
    buffers_wanted(false, held);
}

int Program::add_value(DType dtype) {
    dtypes.push_back(dtype);
    constants.emplace_back();
    constant_objects.push_back(nullptr);
    input_of.push_back(-1);
    return int(dtypes.size()) - 1;
}

int Program::add_constant(const Tensor& tensor, void* object) {
    const int v = add_value(tensor.dtype);
    constants[v] = tensor;
    if (tensor && !tensor.data) constants[v].data = nothing;
    constant_objects[v] = object;
    return v;
}

int Program::add_input(InputSpec spec, DType dtype) {
    const int v = add_value(dtype);
    spec.value = v;
    input_of[v] = int(inputs.size());
    inputs.push_back(std::move(spec));
    return v;
}

// The node without what runs it; `info` learns the types and constants of its values.
std::unique_ptr<Node> Program::new_node(NodeInfo& info, const std::vector<int>& in, const std::vector<int>& out) {
    const int n = int(dtypes.size());
    for (int v : in)
        if (v < -1 || v >= n) throw std::out_of_range("a node reads a value that does not exist");
    for (int v : out)
        if (v < -1 || v >= n) throw std::out_of_range("a node writes a value that does not exist");
    for (int v : in) {
        info.inputs.push_back(v < 0 ? DType::none : dtypes[v]);
        info.constants.push_back(v >= 0 && constants[v].data ? &constants[v] : nullptr);
    }
    for (int v : out) info.outputs.push_back(v < 0 ? DType::none : dtypes[v]);
    auto node = std::make_unique<Node>();
    node->label = info.name, node->op = info.op;
    node->inputs = in, node->outputs = out;
    return node;
}

Node& Program::add_node(NodeInfo& info, const std::vector<int>& in, const std::vector<int>& out, bool pure) {
    nodes.push_back(new_node(info, in, out));
    for (const auto* values : {&in, &out})      // objects never reach kernels
        for (int v : *values)
            if (v >= 0 && is_object(dtypes[v])) info.op.clear();
    nodes.back()->pure = pure;
    return *nodes.back();
}

void Program::add_control(NodeInfo info, std::vector<int> in, std::vector<int> out, std::vector<ControlBlock> blocks) {
    auto node = new_node(info, in, out);
    node->control = make_control(info, std::move(blocks));
    node->control->host = host;
    for (int v : out) node->control->wanted.push_back(v >= 0);
    nodes.push_back(std::move(node));
}

void Program::add_output(std::string name, int value) {
    if (value < 0 || value >= int(dtypes.size())) throw std::out_of_range("an output is a value that does not exist");
    outputs.push_back({std::move(name), value});
}

bool Program::fits(const Tensor* tensors) const {
    std::vector<int64_t> symbols;
    for (size_t i = 0; i < inputs.size(); i++) {
        const InputSpec& spec = inputs[i];
        if (spec.any_rank || !tensors[i]) continue;
        const Shape& shape = tensors[i].shape;
        if (size_t(shape.rank) != spec.dims.size()) return false;
        for (int axis = 0; axis < shape.rank; axis++) {
            const int64_t want = spec.dims[axis];
            if (want >= 0 && shape[axis] != want) return false;
            if (want > -2) continue;
            const size_t k = size_t(-2 - want);
            if (symbols.size() <= k) symbols.resize(k + 1, -1);
            if (symbols[k] < 0) symbols[k] = shape[axis];
            if (symbols[k] != shape[axis]) return false;
        }
    }
    return true;
}

std::shared_ptr<Plan> Program::kept_plan(const Tensor* tensors) {
    const size_t n = inputs.size();
    const auto same = [&](const std::vector<Shape>& signature) {
        for (size_t i = 0; i < n; i++)
            if (signature[i] != tensors[i].shape) return false;
        return true;
    };
    std::lock_guard guard(plans_lock_);
    for (size_t k = 0; k < plans_.size(); k++)
        if (plans_[k]->serves(tensors)) {
            if (k) std::rotate(plans_.begin(), plans_.begin() + k, plans_.begin() + k + 1);
            return plans_.front();
        }
    if (!fits(tensors)) return nullptr;
    bool fixed = true;      // only one signature is possible
    for (const InputSpec& spec : inputs) fixed = fixed && !spec.any_rank && std::all_of(spec.dims.begin(), spec.dims.end(), [](int64_t d) { return d >= 0; });
    if (!specialises_ || !(fixed || plans_.empty())) {
        auto met = std::find_if(seen_.begin(), seen_.end(), [&](const Seen& seen) { return same(seen.signature); });
        if (met == seen_.end()) {
            if (seen_.size() == kSeen) seen_.erase(seen_.begin());
            met = seen_.insert(seen_.end(), Seen{{}, 0});
            for (size_t i = 0; i < n; i++) met->signature.push_back(tensors[i].shape);
        }
        if (met->count++ < (plans_.size() < kPlans ? 1 : kOften) || !specialises_) {
            if (!generic_) generic_ = generic_plan(*this);
            return generic_;
        }
        seen_.erase(met);
    }
    auto plan = make_plan(tensors);
    release_idle(0);    // the arena takes the place of the blocks that the generic runs used
    plans_.insert(plans_.begin(), plan);
    if (plans_.size() > kPlans) plans_.pop_back();
    return plan;
}

std::shared_ptr<Plan> Program::plan_for(const Tensor* tensors) {
    auto plan = kept_plan(tensors);
    if (!plan || !plan->asks) return plan;
    ask_rows();
    return kept_plan(tensors);
}

std::shared_ptr<Plan> Program::new_plan(const Tensor* tensors) {
    auto plan = make_plan(tensors);
    if (!plan->asks) return plan;
    ask_rows();
    return make_plan(tensors);
}

std::shared_ptr<Plan> Program::make_plan(const Tensor* tensors) {
    auto whole = special_plan(*this, tensors);
    const Rows known = rows_;
    if (known == Rows::together) return whole;
    const int64_t rows = rows_at_a_time(*this, *whole);
    if (rows == 0 || rows == whole->signature[0][0]) return whole;
    whole->asks = known == Rows::unknown;
    auto parted = whole->asks ? nullptr : plan_in_parts(*this, *whole, rows);
    return parted ? parted : whole;
}

void Program::ask_rows() {
    const bool apart = host->rows_apart();
    rows_ = apart ? Rows::apart : Rows::together;
    std::lock_guard guard(plans_lock_);
    if (apart) std::erase_if(plans_, [](const auto& plan) { return plan->asks.load(); });
    for (const auto& plan : plans_) plan->asks = false;
}

std::unique_ptr<Frame> Program::take_frame(Plan& plan) {
    {
        std::lock_guard guard(plan.lock);
        if (!plan.idle.empty()) {
            auto frame = std::move(plan.idle.back());
            plan.idle.pop_back();
            return frame;
        }
    }
    auto frame = std::make_unique<Frame>();
    frame->program = this, frame->plan = &plan;
    frame->values.resize(dtypes.size());
    frame->buffers.resize(dtypes.size()), frame->objects.resize(dtypes.size());
    frame->slots.resize(plan.n_slots);
    frame->io.resize(inputs.size() + outputs.size());
    if (plan.small && plan.arena_bytes) frame->own = take_buffer(plan.arena_bytes), arena_bytes_ += plan.arena_bytes;
    frame->resolve(frame->own ? static_cast<char*>(frame->own->data) : nullptr);
    return frame;
}

void Program::give_frame(std::unique_ptr<Frame> frame) {
    frame->clear();
    Plan& plan = *frame->plan;
    std::lock_guard guard(plan.lock);
    plan.idle.push_back(std::move(frame));
}

Program::Arena Program::take_arena(size_t bytes) {
    Arena arena;
    {
        std::lock_guard guard(arenas_lock_);
        if (!arenas_.empty()) arena = arenas_.back(), arenas_.pop_back();
    }
    if (arena.bytes >= bytes) return arena;
    std::free(arena.data);
    arena_bytes_ -= arena.bytes;
    arena.data = static_cast<char*>(aligned_memory(bytes));
    arena_bytes_ += bytes;
    return {arena.data, bytes};
}

void Program::run(Frame& frame) {
    struct Hold {   // the arena goes back whatever happens
        Program& program;
        Arena arena;
        ~Hold() {
            if (!arena.data) return;
            std::lock_guard guard(program.arenas_lock_);
            program.arenas_.push_back(arena);
        }
    } hold{*this, frame.plan->arena_bytes && !frame.own ? take_arena(frame.plan->arena_bytes) : Arena{}};
    if (!frame.own && hold.arena.data != frame.arena) frame.resolve(hold.arena.data);
    int at = 0;
    try {
        for (int64_t part = 0; part < frame.plan->parts; part++) {
            for (const Frame::Patch& patch : frame.patches)
                patch.tensor->data = static_cast<char*>(frame.io[patch.io]) + patch.offset + (part ? size_t(part) * frame.plan->strides[patch.io] : 0);
            run_steps(frame, at);
        }
    } catch (const NodeError&) {
        throw;
    } catch (const std::bad_alloc&) {
        fail(*nodes[frame.plan->steps[at].node], "not enough memory");
    } catch (const std::exception& error) {
        fail(*nodes[frame.plan->steps[at].node], error.what());
    }
}

void Program::run_steps(Frame& frame, int& at) {
    const Plan& plan = *frame.plan;
    const int n = int(plan.steps.size());
    const bool timed = profile_.load(std::memory_order_relaxed) != Profile::off;
    for (at = 0; at < n; at++) {
        const Step& step = plan.steps[at];
        Node& node = *nodes[step.node];
        const auto start = timed ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point{};
        if (step.dynamic) run_dynamic(frame, step);
        else node.kernel->run(frame.contexts[at]);
        if (timed) note(frame, step.node, start);
        for (int v : plan.dead[at]) frame.release(v);
    }
}

void Program::note(const Frame& frame, int n, std::chrono::steady_clock::time_point start) {
    const auto ns = [](auto duration) { return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count(); };
    const int64_t time = ns(std::chrono::steady_clock::now() - start);
    Node& node = *nodes[n];
    node.calls++;
    node.nanoseconds += time;
    std::lock_guard guard(profile_lock_);
    node.seen.clear();
    for (const auto* values : {&node.inputs, &node.outputs})
        for (int v : *values) {
            node.seen.push_back(v < 0 ? Tensor{} : frame.values[v]);
            node.seen.back().data = nullptr;
        }
    if (profile_ == Profile::trace && events_.size() < kEvents) events_.push_back({n, ns(start.time_since_epoch()), time});
}

void Program::profile(Profile how) {
    std::lock_guard guard(profile_lock_);
    if (how == Profile::trace) events_.clear();
    profile_ = how;
}

std::vector<Event> Program::events() {
    std::lock_guard guard(profile_lock_);
    return events_;
}

std::vector<Tensor> Program::seen(const Node& node) {
    std::lock_guard guard(profile_lock_);
    return node.seen;
}

size_t Program::packed_bytes() const {
    size_t bytes = 0;
    for (const auto& node : nodes)
        if (node->kernel) bytes += node->kernel->packed_bytes();
    return bytes;
}

// Infers shapes now, finds memory, runs.
void Program::run_dynamic(Frame& frame, const Step& step) {
    const Node& node = *nodes[step.node];
    if (node.control) return run_control(frame, node);
    if (!node.kernel) return host->call(step.node, frame);
    const Plan& plan = *frame.plan;
    const size_t n_in = node.inputs.size(), n_out = node.outputs.size();
    frame.arguments.assign(n_in + n_out, Tensor{});
    Tensor* in = frame.arguments.data();
    Tensor* out = in + n_in;
    for (size_t i = 0; i < n_in; i++)
        if (node.inputs[i] >= 0) in[i] = frame.values[node.inputs[i]];
    const ShapeContext shapes = infer_shapes(*this, node, in, out);
    const auto& dead = plan.dead[&step - plan.steps.data()];

    // A view shares its source's memory where that stays alive: pool memory is counted, the caller's and fixed memory
    // outlive the call. Arena memory and arrays of the host are copied.
    bool only_view = false, copied_view = false;
    for (size_t i = 0; i < n_out; i++) {
        const int v = node.outputs[i];
        if (v < 0) continue;
        if (i == 0 && shapes.alias >= 0) {
            const int source = node.inputs[shapes.alias];
            const Place place = plan.storage[source].place;
            if (frame.buffers[source]) frame.buffers[v] = frame.buffers[source], frame.buffers[v]->refs++;
            if (frame.buffers[source] || place == Place::fixed || place == Place::input || place == Place::output ||
                (place == Place::dynamic && !frame.objects[source])) {
                out[0].data = in[shapes.alias].data;
                only_view = true;
                continue;
            }
            copied_view = true;
        }
        if (i == 0 && shapes.part >= 0) {
            const int source = node.inputs[shapes.part];
            const Place place = plan.storage[source].place;
            if (place == Place::fixed || place == Place::input || (place == Place::dynamic && !frame.buffers[source] && !frame.objects[source])) {
                if (frame.buffers[source]) frame.buffers[v] = frame.buffers[source], frame.buffers[v]->refs++;  // a block's input
                out[0].data = in[shapes.part].as<char>() + shapes.part_at;
                only_view = true;
                continue;
            }
        }
        if (i == 0 && shapes.alias < 0) {
            for (size_t j = 0; j < n_in && !out[0].data; j++) {
                const int s = node.inputs[j];
                if (s < 0 || !frame.buffers[s] || frame.buffers[s]->refs != 1 || !node.kernel->in_place(int(j))) continue;
                const auto elsewhere = [&](size_t k) { return k != j && node.inputs[k] == s && !node.kernel->in_place(int(k)); };
                bool read = false;      // as another input, which must not change under the kernel
                for (size_t k = 0; k < n_in; k++) read = read || elsewhere(k);
                if (read || !in[j].fits(out[0]) || std::find(dead.begin(), dead.end(), s) == dead.end()) continue;
                out[0].data = in[j].data, frame.buffers[v] = frame.buffers[s], frame.buffers[v]->refs++;
            }
            if (out[0].data) continue;
        }
        const size_t bytes = out[i].bytes();
        if (!bytes) { out[i].data = nothing; continue; }
        frame.buffers[v] = take_buffer(bytes);
        out[i].data = frame.buffers[v]->data;
    }
    if (copied_view && out[0].bytes()) std::memcpy(out[0].data, in[shapes.alias].data, out[0].bytes());

    bool others = false;
    for (size_t i = 1; i < n_out; i++) others = others || node.outputs[i] >= 0;
    if (!((only_view || copied_view) && !others)) {
        std::optional<Temporary<char>> scratch;
        if (shapes.scratch) scratch.emplace(shapes.scratch);
        RunContext run{in, int(n_in), out, int(n_out), scratch ? scratch->data() : nothing, pool.get()};
        node.kernel->run(run);
    }
    for (size_t i = 0; i < n_out; i++)
        if (node.outputs[i] >= 0) frame.values[node.outputs[i]] = out[i];
}

void Program::run_control(Frame& frame, const Node& node) {
    std::vector<Held> in(node.inputs.size());
    for (size_t i = 0; i < in.size(); i++) {
        const int v = node.inputs[i];
        if (v < 0) continue;
        in[i] = {frame.values[v], frame.buffers[v], nullptr};
        if (!in[i].tensor) in[i].object = frame.objects[v] ? frame.objects[v] : constant_objects[v];
    }
    Owned out(node.outputs.size(), host);
    node.control->run(in.data(), out);
    for (size_t k = 0; k < out.size(); k++) {
        const int v = node.outputs[k];
        if (v < 0) continue;
        const Held now = out.take(k);
        frame.values[v] = now.tensor, frame.buffers[v] = now.buffer, frame.objects[v] = now.object;
    }
}

}  // namespace hr
