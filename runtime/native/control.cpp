#include "control.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "executor.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/strided.h"

namespace hr {

namespace {

Held fresh(const Tensor& like) {
    Held held{like, take_buffer(like.bytes())};
    held.tensor.data = held.buffer->data;
    return held;
}

// Another reference to a value; a copy where nobody counts its memory.
Held share(const Held& from, Host* host) {
    if (from.buffer) from.buffer->refs++;
    if (from.object) host->keep(from.object);
    if (from.buffer || from.object || !from.tensor) return from;
    Held copy = fresh(from.tensor);
    if (from.tensor.bytes()) std::memcpy(copy.tensor.data, from.tensor.data, from.tensor.bytes());
    return copy;
}

void release(Held& held, Host* host) {
    if (held.buffer) release_buffer(held.buffer);
    if (held.object) {
        std::vector<void*> one{held.object};
        host->drop(one);
    }
    held = {};
}

// Value v of a call that has just ended, held beyond it.
Held result(const Program& program, const Frame& frame, int v, const Held* inputs) {
    if (is_object(program.dtypes[v])) return share({{}, nullptr, frame.objects[v] ? frame.objects[v] : program.constant_objects[v]}, program.host);
    const Tensor& tensor = frame.values[v];
    if (program.constants[v].data) return {tensor};     // lives as long as the program
    const Storage& storage = frame.plan->storage[v];
    Held now{tensor, frame.buffers[v], frame.objects[v]};
    if (storage.place == Place::input && !now.buffer) now.buffer = inputs[storage.index].buffer;    // a view of an input
    return share(now, program.host);
}

// One call of a block. `outputs` are empty before; on an error they may hold memory, which their owner releases.
void invoke(Program& program, const Held* inputs, Owned& outputs) {
    const size_t n_in = program.inputs.size(), n_out = program.outputs.size();
    std::vector<Tensor> tensors(n_in);
    for (size_t i = 0; i < n_in; i++)
        if (!is_object(program.dtypes[program.inputs[i].value])) tensors[i] = inputs[i].tensor;
    const std::shared_ptr<Plan> plan = program.plan_for(tensors.data());
    if (!plan) throw std::invalid_argument("the block's inputs do not fit it");
    struct Lease {
        Program& program;
        std::unique_ptr<Frame> frame;
        ~Lease() { program.give_frame(std::move(frame)); }
    } lease{program, program.take_frame(*plan)};
    Frame& frame = *lease.frame;
    for (size_t i = 0; i < n_in; i++) {
        const int v = program.inputs[i].value;
        frame.io[i] = tensors[i].data;
        if (plan->generic) frame.values[v] = tensors[i];
        if (tensors[i] && inputs[i].buffer) frame.buffers[v] = inputs[i].buffer, inputs[i].buffer->refs++;   // views share it
        if (!tensors[i] && inputs[i].object) program.host->keep(inputs[i].object), frame.objects[v] = inputs[i].object;
    }
    for (size_t k = 0; k < n_out; k++) {
        if (!plan->direct[k]) continue;
        outputs[k] = fresh(plan->whole(plan->tensors[program.outputs[k].value]));
        frame.io[n_in + k] = outputs[k].tensor.data;
    }
    program.run(frame);
    for (size_t k = 0; k < n_out; k++)
        if (!plan->direct[k]) outputs[k] = result(program, frame, program.outputs[k].value, inputs);
}

bool truth(const Tensor& condition) {
    if (condition.count() < 1) throw std::invalid_argument("the condition is empty");
    return condition.as<bool>()[0];
}

// Entries of equal shape, one after another in memory that grows.
class Stack {
public:
    Stack(DType dtype, int64_t max_bytes) : entry_{dtype, {}, nullptr}, max_bytes_(size_t(max_bytes)) {}
    ~Stack() { if (buffer_) release_buffer(buffer_); }
    Stack(const Stack&) = delete;

    void reserve(int64_t entries) { expected_ = entries; }
    void add(const Tensor& part, int64_t at) {      // at: its place; places come in rising or in falling order
        if (!buffer_) {
            entry_.shape = part.shape;
            grow(std::max<int64_t>(expected_, 1));
        } else if (part.shape != entry_.shape) {
            throw std::invalid_argument("a scanned value is " + text(part.shape) + " after " + text(entry_.shape) + "; all trips must give the same shape");
        } else if (count_ == room_) {
            grow(2 * room_);
        }
        const size_t bytes = part.bytes();
        if (bytes) std::memcpy(static_cast<char*>(buffer_->data) + size_t(at) * bytes, part.data, bytes);
        count_++;
    }
    // All entries along a new axis of that place; `known`: the shape of an entry where there is none.
    Held finish(int64_t axis, const std::vector<int64_t>& known, ThreadPool& pool) {
        if (!count_)
            for (int64_t dim : known) entry_.shape.push(dim);
        const int place = resolve_axis(axis, entry_.shape.rank + 1);
        Tensor whole{entry_.dtype, {}, nullptr};
        for (int i = 0; i <= entry_.shape.rank; i++) whole.shape.push(i == place ? count_ : entry_.shape.d[i < place ? i : i - 1]);
        if (!count_) return fresh(whole);
        if (place == 0) {
            whole.data = buffer_->data;
            Held held{whole, buffer_};
            buffer_ = nullptr;
            return held;
        }
        Held held = fresh(whole);
        const size_t item = item_size(whole.dtype);
        int64_t strides[kMaxRank];
        strides_of(entry_.shape, item, strides);
        View view;
        for (int i = 0; i <= entry_.shape.rank; i++)
            view.push(whole.shape.d[i], 0, i == place ? int64_t(entry_.bytes()) : strides[i < place ? i : i - 1]);
        view.pack(item);
        copy_strided(held.tensor.data, buffer_->data, view, item, pool);
        return held;
    }

private:
    void grow(int64_t entries) {
        size_t bytes;
        if (__builtin_mul_overflow(size_t(entries), entry_.bytes(), &bytes) || bytes > max_bytes_)
            throw std::length_error("a scanned output would be larger than " + std::to_string(max_bytes_) + " bytes");
        Buffer* larger = take_buffer(bytes);
        if (buffer_) {
            std::memcpy(larger->data, buffer_->data, size_t(count_) * entry_.bytes());
            release_buffer(buffer_);
        }
        buffer_ = larger, room_ = entries;
    }

    Tensor entry_;
    Buffer* buffer_ = nullptr;
    int64_t count_ = 0, room_ = 0, expected_ = 0;
    size_t max_bytes_;
};

class If : public Control {
public:
    void run(const Held* in, Owned& out) const override {
        const ControlBlock& block = blocks[truth(in[0].tensor) ? 0 : 1];
        std::vector<Held> arguments;
        for (int i : block.captured) arguments.push_back(in[i]);
        Owned results(block.program->outputs.size(), host);
        invoke(*block.program, arguments.data(), results);
        for (size_t k = 0; k < out.size(); k++)
            if (wanted[k]) out[k] = results.take(k);
    }
};

// What Loop and Scan share: carried values, scanned outputs, arguments that stay.
class Repeated : public Control {
public:
    Repeated(const NodeInfo& node, ControlBlock block, size_t first, size_t own_inputs, size_t own_outputs)
        : carried_(block.program->inputs.size() - block.captured.size() - own_inputs), first_(first), head_(own_outputs),
          max_bytes_(node.i("max_bytes", INT64_MAX)) {
        const size_t scanned = block.program->outputs.size() - head_ - carried_;
        for (size_t k = 0; k < scanned; k++) {
            dtypes_.push_back(block.program->dtypes[block.program->outputs[head_ + carried_ + k].value]);
            known_.push_back(node.ints("scanned_" + std::to_string(k)));
        }
        blocks = {std::move(block)};
    }

protected:
    struct State {
        Owned carried, results;
        std::vector<Held> arguments;            // of the body: its own, then captured
        std::vector<std::unique_ptr<Stack>> stacks;
    };

    // `at`: where the carried values stand among the body's inputs.
    void begin(State& state, const Held* in, size_t at) const {
        state.arguments.resize(program().inputs.size());
        for (size_t j = 0; j < carried_; j++) state.arguments[at + j] = in[first_ + j];
        const size_t captured = state.arguments.size() - blocks[0].captured.size();
        for (size_t j = 0; j < blocks[0].captured.size(); j++) state.arguments[captured + j] = in[blocks[0].captured[j]];
        for (DType dtype : dtypes_) state.stacks.push_back(std::make_unique<Stack>(dtype, max_bytes_));
    }
    // One trip; `at` as above, `place`: where the scanned values go.
    void trip(State& state, size_t at, const std::vector<int64_t>& places) const {
        invoke(program(), state.arguments.data(), state.results);
        for (size_t j = 0; j < carried_; j++) {
            state.carried.put(j, state.results.take(head_ + j));
            state.arguments[at + j] = state.carried[j];
        }
        for (size_t k = 0; k < dtypes_.size(); k++) {
            if (wanted[carried_ + k]) state.stacks[k]->add(state.results[head_ + carried_ + k].tensor, places[k]);
            state.results.put(head_ + carried_ + k, {});
        }
    }
    void end(State& state, size_t at, Owned& out, bool ran, const std::vector<int64_t>& axes) const {
        for (size_t j = 0; j < carried_; j++)
            if (wanted[j]) out[j] = ran ? state.carried.take(j) : share(state.arguments[at + j], host);
        for (size_t k = 0; k < dtypes_.size(); k++)
            if (wanted[carried_ + k]) out[carried_ + k] = state.stacks[k]->finish(axes.empty() ? 0 : axes[k], known_[k], *program().pool);
    }
    Program& program() const { return *blocks[0].program; }
    State state() const { return {Owned(carried_, host), Owned(head_ + carried_ + dtypes_.size(), host), {}, {}}; }

    size_t carried_, first_, head_;             // how many; the node's first; outputs of the body before them
    int64_t max_bytes_;
    std::vector<DType> dtypes_;                 // of the scanned outputs
    std::vector<std::vector<int64_t>> known_;
};

// Node: M, cond, carried..., captured... Body: (trip, cond, carried...) -> (cond, carried..., scanned...).
class Loop : public Repeated {
public:
    Loop(const NodeInfo& node, ControlBlock block) : Repeated(node, std::move(block), 2, 2, 1), max_trips_(node.i("max_trips", INT64_MAX)) {}
    void run(const Held* in, Owned& out) const override {
        const Tensor &limit = in[0].tensor, &start = in[1].tensor;
        const int64_t count = limit && limit.count() ? limit.as<int64_t>()[0] : INT64_MAX;
        bool going = !start || !start.count() || truth(start);
        int64_t trip = 0;
        State s = state();
        begin(s, in, 2);
        s.arguments[0].tensor = {DType::i64, {}, &trip};
        s.arguments[1].tensor = {DType::boolean, {}, &going};
        std::vector<int64_t> places(dtypes_.size());
        for (; going && trip < count; trip++) {
            if (trip == max_trips_) throw std::length_error("the loop did not end after " + std::to_string(trip) + " trips; allowed: " + std::to_string(max_trips_));
            std::fill(places.begin(), places.end(), trip);
            Repeated::trip(s, 2, places);
            going = truth(s.results[0].tensor);
            s.results.put(0, {});
        }
        end(s, 2, out, trip > 0, {});
    }

private:
    int64_t max_trips_;
};

// Node: carried..., scanned inputs..., captured... Body: (carried..., entries...) -> (carried..., scanned...).
class Scan : public Repeated {
public:
    Scan(const NodeInfo& node, ControlBlock block)
        : Repeated(node, std::move(block), 0, size_t(node.i("num_scan_inputs", 0)), 0), scanned_(size_t(node.i("num_scan_inputs", 0))),
          in_axes_(node.ints("scan_input_axes")), in_back_(node.ints("scan_input_directions")),
          out_axes_(node.ints("scan_output_axes")), out_back_(node.ints("scan_output_directions")) {
        in_axes_.resize(scanned_), in_back_.resize(scanned_);
        out_axes_.resize(dtypes_.size()), out_back_.resize(dtypes_.size());
    }
    void run(const Held* in, Owned& out) const override {
        State s = state();
        begin(s, in, 0);
        int64_t length = 0;
        std::vector<int> axes;
        Owned copies(scanned_, host);               // entries of axes other than 0
        for (size_t i = 0; i < scanned_; i++) {
            const Tensor& x = in[carried_ + i].tensor;
            axes.push_back(resolve_axis(in_axes_[i], x.shape.rank));
            const int64_t entries = x.shape.d[axes[i]];
            if (i && entries != length) throw std::invalid_argument("the scanned inputs have " + std::to_string(length) + " and " + std::to_string(entries) + " entries; they must have equally many");
            length = entries;
            Tensor& entry = s.arguments[carried_ + i].tensor;
            entry = {x.dtype, {}, x.data};
            for (int d = 0; d < x.shape.rank; d++)
                if (d != axes[i]) entry.shape.push(x.shape.d[d]);
            if (axes[i]) copies[i] = fresh(entry), entry.data = copies[i].tensor.data;
        }
        for (const auto& stack : s.stacks) stack->reserve(length);
        std::vector<int64_t> places(dtypes_.size());
        for (int64_t step = 0; step < length; step++) {
            for (size_t i = 0; i < scanned_; i++) pick(in[carried_ + i].tensor, axes[i], in_back_[i] ? length - 1 - step : step, s.arguments[carried_ + i].tensor);
            for (size_t k = 0; k < places.size(); k++) places[k] = out_back_[k] ? length - 1 - step : step;
            trip(s, 0, places);
        }
        end(s, 0, out, length > 0, out_axes_);
    }

private:
    // Entry `at` of x along an axis: a pointer into x where entries lie together, else a copy.
    void pick(const Tensor& x, int axis, int64_t at, Tensor& entry) const {
        const size_t item = item_size(x.dtype);
        if (axis == 0) {
            entry.data = static_cast<char*>(x.data) + size_t(at) * entry.bytes();
            return;
        }
        int64_t strides[kMaxRank];
        strides_of(x.shape, item, strides);
        View view;
        for (int d = 0; d < x.shape.rank; d++)
            if (d != axis) view.push(x.shape.d[d], 0, strides[d]);
        view.pack(item);
        copy_strided(entry.data, static_cast<const char*>(x.data) + at * strides[axis], view, item, *program().pool);
    }

    size_t scanned_;
    std::vector<int64_t> in_axes_, in_back_, out_axes_, out_back_;
};

void need(bool fits, const NodeInfo& node) {
    if (!fits) throw std::invalid_argument(node.name + ": its blocks do not fit it");
}

}  // namespace

Owned::~Owned() {
    for (Held& held : items_) release(held, host_);
}

Held Owned::take(size_t i) {
    const Held held = items_[i];
    items_[i] = {};
    return held;
}

void Owned::put(size_t i, Held value) {
    release(items_[i], host_);
    items_[i] = value;
}

std::unique_ptr<Control> make_control(const NodeInfo& node, std::vector<ControlBlock> blocks) {
    const size_t n_in = node.inputs.size(), n_out = node.outputs.size();
    for (const ControlBlock& block : blocks)
        for (int i : block.captured) need(i >= 0 && size_t(i) < n_in, node);
    const auto own = [&](size_t b) { return blocks[b].program->inputs.size() - blocks[b].captured.size(); };
    std::unique_ptr<Control> control;
    if (node.op == "If") {
        need(blocks.size() == 2 && n_in >= 1, node);
        for (size_t b = 0; b < 2; b++) need(own(b) == 0 && blocks[b].program->outputs.size() == n_out, node);
        control = std::make_unique<If>();
        control->blocks = std::move(blocks);
    } else if (node.op == "Loop") {
        need(blocks.size() == 1 && own(0) >= 2 && n_in >= own(0) && blocks[0].program->outputs.size() == n_out + 1 && n_out >= own(0) - 2, node);
        control = std::make_unique<Loop>(node, std::move(blocks[0]));
    } else {
        const size_t scanned = size_t(node.i("num_scan_inputs", 0));
        need(node.op == "Scan" && blocks.size() == 1 && own(0) >= scanned && n_in >= own(0) && blocks[0].program->outputs.size() == n_out && n_out >= own(0) - scanned, node);
        control = std::make_unique<Scan>(node, std::move(blocks[0]));
    }
    return control;
}

}  // namespace hr
