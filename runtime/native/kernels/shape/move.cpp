// Operators that move elements by fixed rules: Transpose, Expand, Tile, Slice, Concat, Split, DepthToSpace, SpaceToDepth.
#include <algorithm>
#include <limits>

#include "buffer.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/strided.h"

namespace hr {
namespace {

int64_t integer_at(const Tensor& t, int64_t i) { return t.dtype == DType::i32 ? t.as<int32_t>()[i] : t.as<int64_t>()[i]; }

class Transpose : public Kernel {
public:
    explicit Transpose(const NodeInfo& node) : perm_(node.ints("perm")) {}
    std::string variant() const override { return "transpose"; }
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        if (!perm_.empty() && int(perm_.size()) != from.rank) throw std::invalid_argument("perm has " + std::to_string(perm_.size()) + " axes, the input " + text(from));
        Shape to;
        int moved = -1;     // axes of size 1 may go anywhere: still the same bytes
        bool same = true;
        for (int i = 0; i < from.rank; i++) {
            const int own = axis_of(i, from.rank);
            to.push(from.d[own]);
            if (from.d[own] != 1) same = same && own > moved, moved = own;
        }
        c.out(0, c.in(0).dtype, to);
        if (same) c.alias = 0;
    }
    void run(RunContext& c) const override {
        const size_t item = item_size(c.in(0).dtype);
        int64_t strides[kMaxRank];
        strides_of(c.in(0).shape, item, strides);
        View view;
        const int rank = c.in(0).shape.rank;
        for (int i = 0; i < rank; i++) {
            const int axis = axis_of(i, rank);
            view.push(c.in(0).shape.d[axis], 0, strides[axis]);
        }
        view.pack(item);
        copy_strided(c.out(0).data, c.in(0).data, view, item, *c.pool);
    }

private:
    // The axis of the input that becomes axis i.
    int axis_of(int i, int rank) const { return perm_.empty() ? rank - 1 - i : resolve_axis(perm_[size_t(i)], rank); }
    std::vector<int64_t> perm_;
};

class Expand : public Kernel {
public:
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        Shape wanted;
        for (int64_t i = 0; i < c.in(1).count(); i++) {
            wanted.push(integer_at(c.in(1), i));
            if (wanted[-1] < 0) throw std::invalid_argument("a dimension is " + std::to_string(wanted[-1]));
        }
        const Shape to = broadcast_shapes(c.in(0).shape, wanted);
        c.out(0, c.in(0).dtype, to);
        if (to.count() == c.in(0).count()) c.alias = 0;
    }
    void run(RunContext& c) const override {
        const Shape &from = c.in(0).shape, &to = c.out(0).shape;
        const size_t item = item_size(c.in(0).dtype);
        int64_t strides[kMaxRank];
        strides_of(from, item, strides);
        View view;
        for (int i = 0; i < to.rank; i++) {
            const int own = i - to.rank + from.rank;
            view.push(to.d[i], 0, own < 0 || from.d[own] == 1 ? 0 : strides[own]);
        }
        view.pack(item);
        copy_strided(c.out(0).data, c.in(0).data, view, item, *c.pool);
    }
};

class Tile : public Kernel {
public:
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        if (c.in(1).count() != from.rank) throw std::invalid_argument("repeats has " + std::to_string(c.in(1).count()) + " numbers, the input " + text(from));
        Shape to;
        for (int i = 0; i < from.rank; i++) {
            const int64_t times = integer_at(c.in(1), i);
            int64_t size;
            if (times < 0 || __builtin_mul_overflow(times, from.d[i], &size)) throw std::invalid_argument("repeats holds " + std::to_string(times));
            to.push(size);
        }
        c.out(0, c.in(0).dtype, to);
        if (to == from) c.alias = 0;
    }
    void run(RunContext& c) const override {
        const size_t item = item_size(c.in(0).dtype);
        int64_t strides[kMaxRank];
        strides_of(c.in(0).shape, item, strides);
        View view;
        for (int i = 0; i < c.in(0).shape.rank; i++) {
            view.push(integer_at(c.in(1), i), 0, 0);
            view.push(c.in(0).shape.d[i], 0, strides[i]);
        }
        view.pack(item);
        copy_strided(c.out(0).data, c.in(0).data, view, item, *c.pool);
    }
};

// Inputs: data, starts, ends, axes?, steps?.
class Slice : public Kernel {
public:
    bool needs_value(int i) const override { return i > 0; }
    void shape(ShapeContext& c) const override {
        const Cut cut = read(c.inputs, c.n_inputs);
        c.out(0, c.in(0).dtype, cut.shape);
        if (cut.shape == c.in(0).shape && cut.forward) c.alias = 0;
        else if (const int64_t at = cut.run_at(c.in(0).shape); at >= 0) {
            c.part_at = size_t(at) * item_size(c.in(0).dtype);
            if (c.part_at % kAlign == 0) c.part = 0;
        }
    }
    void run(RunContext& c) const override {
        const Cut cut = read(c.inputs, c.n_inputs);
        const size_t item = item_size(c.in(0).dtype);
        int64_t strides[kMaxRank], offset = 0;
        strides_of(c.in(0).shape, item, strides);
        View view;
        for (int i = 0; i < cut.shape.rank; i++) {
            view.push(cut.shape.d[i], 0, strides[i] * cut.steps[i]);
            offset += strides[i] * cut.starts[i];
        }
        view.pack(item);
        if (c.out(0).count()) copy_strided(c.out(0).data, c.in(0).as<char>() + offset, view, item, *c.pool);
    }

private:
    struct Cut {
        Shape shape;
        int64_t starts[kMaxRank] = {}, steps[kMaxRank];
        bool forward = true;

        // The first element, where the cut is a run of elements as they lie: one of every axis before the last that is cut.
        int64_t run_at(const Shape& from) const {
            int64_t at = 0;
            bool cut_after = false;
            for (int i = from.rank - 1; i >= 0; i--) {
                if (cut_after && shape.d[i] != 1) return -1;
                if (shape.d[i] != 1 && steps[i] != 1) return -1;
                at += starts[i] * from.count(i + 1, from.rank);
                cut_after = cut_after || shape.d[i] != from.d[i];
            }
            return shape.count() ? at : -1;
        }
    };
    static Cut read(const Tensor* in, int n) {
        Cut cut;
        const Shape& from = in[0].shape;
        cut.shape = from;
        std::fill_n(cut.steps, kMaxRank, 1);
        const auto has = [&](int i) { return i < n && in[i]; };
        const int64_t count = in[1].count();
        if (in[2].count() != count || (has(3) && in[3].count() != count) || (has(4) && in[4].count() != count))
            throw std::invalid_argument("starts, ends, axes and steps differ in length");
        for (int64_t k = 0; k < count; k++) {
            const int axis = resolve_axis(has(3) ? integer_at(in[3], k) : k, from.rank);
            const int64_t step = has(4) ? integer_at(in[4], k) : 1, size = from.d[axis];
            if (step == 0 || step == std::numeric_limits<int64_t>::min()) throw std::invalid_argument("a step is " + std::to_string(step));
            const auto bound = [&](int64_t x, int64_t low, int64_t high) { return std::clamp(x < 0 ? x + size : x, low, high); };
            const int64_t start = step > 0 ? bound(integer_at(in[1], k), 0, size) : bound(integer_at(in[1], k), -1, size - 1);
            const int64_t end = step > 0 ? bound(integer_at(in[2], k), 0, size) : bound(integer_at(in[2], k), -1, size - 1);
            const int64_t span = step > 0 ? end - start : start - end, stride = step > 0 ? step : -step;
            cut.starts[axis] = start, cut.steps[axis] = step;
            cut.shape.d[axis] = span > 0 ? (span - 1) / stride + 1 : 0;
            cut.forward = cut.forward && step > 0;
        }
        return cut;
    }
};

class Concat : public Kernel {
public:
    explicit Concat(const NodeInfo& node) : axis_(node.i("axis", 0)) {}
    std::string variant() const override { return "concat"; }
    void shape(ShapeContext& c) const override {
        Shape to = c.in(0).shape;
        const int axis = resolve_axis(axis_, to.rank);
        for (int i = 1; i < c.n_inputs; i++) {
            const Shape& from = c.in(i).shape;
            bool fits = from.rank == to.rank;
            for (int d = 0; fits && d < to.rank; d++) fits = d == axis || from.d[d] == to.d[d];
            if (!fits) throw std::invalid_argument("input " + std::to_string(i) + " " + text(from) + " differs from " + text(c.in(0).shape) + " beside axis " + std::to_string(axis));
            to.d[axis] += from.d[axis];
        }
        c.out(0, c.in(0).dtype, to);
    }
    void run(RunContext& c) const override {
        const Shape& to = c.out(0).shape;
        const int axis = resolve_axis(axis_, to.rank);
        const int64_t item = int64_t(item_size(c.out(0).dtype)), row = to.count(axis, to.rank) * item;
        Parts parts(to.count(0, axis), *c.pool);
        char* at = c.out(0).as<char>();
        for (int i = 0; i < c.n_inputs; i++) {
            const int64_t run = c.in(i).shape.count(axis, to.rank) * item;
            parts.push({at, c.in(i).as<char>(), row, run, run});
            at += run;
        }
        parts.copy();
    }

private:
    int64_t axis_;
};

// Parts by the input `split`, the attribute of the same name, or `num_outputs` of equal size (the last may be smaller).
class Split : public Kernel {
public:
    explicit Split(const NodeInfo& node) : axis_(node.i("axis", 0)), parts_(node.ints("split")), equal_(node.i("num_outputs", int64_t(node.outputs.size()))) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        Shape to = c.in(0).shape;
        const int axis = resolve_axis(axis_, to.rank);
        const int64_t size = to.d[axis], each = (size + equal_ - 1) / equal_;
        const int64_t given = c.has(1) ? c.in(1).count() : int64_t(parts_.size());
        int64_t used = 0;
        for (int i = 0; i < c.n_outputs; i++) {
            if (given && i >= given) throw std::invalid_argument("split has " + std::to_string(given) + " parts, the node more outputs");
            to.d[axis] = c.has(1) ? integer_at(c.in(1), i) : given ? parts_[size_t(i)] : std::min(each, size - used);
            used += to.d[axis];
            if (to.d[axis] < 0) throw std::invalid_argument("a part is " + std::to_string(to.d[axis]));
            c.out(i, c.in(0).dtype, to);
        }
        if (used != size) throw std::invalid_argument("the parts add up to " + std::to_string(used) + ", axis " + std::to_string(axis) + " has " + std::to_string(size));
    }
    void run(RunContext& c) const override {
        const Shape& from = c.in(0).shape;
        const int axis = resolve_axis(axis_, from.rank);
        const int64_t item = int64_t(item_size(c.in(0).dtype)), row = from.count(axis, from.rank) * item;
        Parts parts(from.count(0, axis), *c.pool);
        const char* at = c.in(0).as<char>();
        for (int i = 0; i < c.n_outputs; i++) {
            const int64_t run = c.out(i).shape.count(axis, from.rank) * item;
            if (c.out(i).data) parts.push({c.out(i).as<char>(), at, run, row, run});
            at += run;
        }
        parts.copy();
    }

private:
    int64_t axis_;
    std::vector<int64_t> parts_;
    int64_t equal_;
};

// Blocks of channels become blocks of pixels, or back.
class DepthSpace : public Kernel {
public:
    explicit DepthSpace(const NodeInfo& node) : block_(node.i("blocksize", 0)), to_space_(node.op == "DepthToSpace"), crd_(node.s("mode", "DCR") == "CRD") {
        if (block_ < 1) throw std::invalid_argument("blocksize is " + std::to_string(block_));
    }
    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        if (x.rank != 4) throw std::invalid_argument("the input must be [N, C, H, W], not " + text(x));
        const int64_t b = block_;
        if (to_space_ ? x.d[1] % (b * b) != 0 : x.d[2] % b != 0 || x.d[3] % b != 0) throw std::invalid_argument("blocks of " + std::to_string(b) + " do not divide " + text(x));
        if (to_space_) c.out(0, c.in(0).dtype, {x.d[0], x.d[1] / (b * b), x.d[2] * b, x.d[3] * b});
        else c.out(0, c.in(0).dtype, {x.d[0], x.d[1] * b * b, x.d[2] / b, x.d[3] / b});
    }
    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const size_t item = item_size(c.in(0).dtype);
        const int64_t b = block_, s = int64_t(item), channel = x.d[2] * x.d[3] * s, image = x.d[1] * channel, line = x.d[3] * s;
        View view;
        view.push(x.d[0], 0, image);
        if (to_space_) {    // out [n, c, h, i, w, j] from channel (i, j, c) or (c, i, j)
            const int64_t depth = x.d[1] / (b * b);
            view.push(depth, 0, crd_ ? b * b * channel : channel);
            view.push(x.d[2], 0, line);
            view.push(b, 0, crd_ ? b * channel : b * depth * channel);
            view.push(x.d[3], 0, s);
            view.push(b, 0, crd_ ? channel : depth * channel);
        } else {            // out [n, i, j, c, h, w], or [n, c, i, j, h, w]
            if (crd_) view.push(x.d[1], 0, channel);
            view.push(b, 0, line);
            view.push(b, 0, s);
            if (!crd_) view.push(x.d[1], 0, channel);
            view.push(x.d[2] / b, 0, b * line);
            view.push(x.d[3] / b, 0, b * s);
        }
        view.pack(item);
        copy_strided(c.out(0).data, c.in(0).data, view, item, *c.pool);
    }

private:
    int64_t block_;
    bool to_space_, crd_;
};

template <class K>
std::unique_ptr<Kernel> from_node(const NodeInfo& node) { return std::make_unique<K>(node); }
template <class K>
std::unique_ptr<Kernel> plain(const NodeInfo&) { return std::make_unique<K>(); }
std::unique_ptr<Kernel> slice(const NodeInfo& node) { return node.inputs.size() >= 3 ? std::make_unique<Slice>() : nullptr; }

HR_KERNEL("Transpose", from_node<Transpose>);
HR_KERNEL("Expand", plain<Expand>);
HR_KERNEL("Tile", plain<Tile>);
HR_KERNEL("Slice", slice);
HR_KERNEL("Concat", from_node<Concat>);
HR_KERNEL("Split", from_node<Split>);
HR_KERNEL("DepthToSpace", from_node<DepthSpace>);
HR_KERNEL("SpaceToDepth", from_node<DepthSpace>);

}  // namespace
}  // namespace hr
