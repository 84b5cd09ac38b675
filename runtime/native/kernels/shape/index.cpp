// Operators that pick or place elements by index: Gather, GatherElements, OneHot, NonZero, Trilu, Pad.
#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "buffer.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/index.h"
#include "kernels/shape/strided.h"

namespace hr {
namespace {

class Gather : public Kernel {
public:
    explicit Gather(const NodeInfo& node) : axis_(node.i("axis", 0)) {
        const Tensor* index = node.constants[1];
        if (index && index->count() == 1) pick_ = index->dtype == DType::i32 ? *index->as<int32_t>() : *index->as<int64_t>();
    }
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        const int axis = resolve_axis(axis_, x.rank);
        Shape to;
        for (int i = 0; i < axis; i++) to.push(x.d[i]);
        for (int i = 0; i < index.rank; i++) to.push(index.d[i]);
        for (int i = axis + 1; i < x.rank; i++) to.push(x.d[i]);
        c.out(0, c.in(0).dtype, to);
        const int64_t size = x.d[axis], pick = pick_.value_or(size) + (pick_.value_or(0) < 0 ? size : 0);
        if (x.count(0, axis) != 1 || pick < 0 || pick >= size) return;      // run() says what is wrong
        c.part = 0, c.part_at = size_t(pick * x.count(axis + 1, x.rank)) * item_size(c.in(0).dtype);
        if (c.part_at % kAlign) c.part = -1;
    }
    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const int axis = resolve_axis(axis_, x.rank);
        const int64_t outer = x.count(0, axis), size = x.d[axis], picks = c.in(1).count();
        const int64_t run = x.count(axis + 1, x.rank) * int64_t(item_size(c.in(0).dtype));
        const char* from = c.in(0).as<char>();
        char* to = c.out(0).as<char>();
        c.pool->parallel(outer * picks, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, run)), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                const int64_t k = index_at(c.in(1), at % picks, size);
                std::memcpy(to + at * run, from + (at / picks * size + k) * run, size_t(run));
            }
        });
    }

private:
    int64_t axis_;
    std::optional<int64_t> pick_;   // the one index, where it is a constant
};

template <class T>
class GatherElements : public Kernel {
public:
    explicit GatherElements(const NodeInfo& node) : axis_(node.i("axis", 0)) {}
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        if (x.rank != index.rank) throw std::invalid_argument("the indices " + text(index) + " must have the rank of the data " + text(x));
        const int axis = resolve_axis(axis_, x.rank);
        for (int i = 0; i < x.rank; i++)
            if (i != axis && index.d[i] > x.d[i]) throw std::invalid_argument("the indices " + text(index) + " are larger than the data " + text(x));
        c.out(0, c.in(0).dtype, index);
    }
    void run(RunContext& c) const override {
        const Shape &x = c.in(0).shape, &index = c.in(1).shape;
        const int axis = resolve_axis(axis_, x.rank);
        int64_t strides[kMaxRank];
        strides_of(x, 1, strides);
        const T* from = c.in(0).as<T>();
        T* to = c.out(0).template as<T>();
        const int64_t width = index.rank ? index[-1] : 1, size = x.d[axis], step = strides[axis];
        const int64_t along = axis == index.rank - 1 ? 0 : 1;      // whether the data moves on with the row
        if (!index.count()) return;
        c.pool->parallel(index.count() / width, std::max<int64_t>(1, 8192 / width), [&](int64_t begin, int64_t end) {
            each_index_row(index, strides, axis, begin, end, [&](int64_t first, int64_t count, int64_t offset) {
                const T* source = from + offset;
                for (int64_t i = 0; i < count; i++) to[first + i] = source[i * along + index_at(c.in(1), first + i, size) * step];
            });
        });
    }

private:
    int64_t axis_;
};

// Inputs: indices (any number type), depth, values [off, on].
template <class I, class T>
class OneHot : public Kernel {
public:
    explicit OneHot(const NodeInfo& node) : axis_(node.i("axis", -1)) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        const int64_t depth = *c.in(1).as<int64_t>();
        if (depth < 0) throw std::invalid_argument("depth is " + std::to_string(depth));
        const Shape& x = c.in(0).shape;
        const int axis = resolve_axis(axis_, x.rank + 1);
        Shape to;
        for (int i = 0; i <= x.rank; i++) to.push(i == axis ? depth : x.d[i < axis ? i : i - 1]);
        c.out(0, c.in(2).dtype, to);
    }
    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const int axis = resolve_axis(axis_, x.rank + 1);
        const int64_t depth = c.out(0).shape[axis], inner = x.count(axis, x.rank), count = x.count();
        const T *values = c.in(2).as<T>(), off = values[0], on = values[1];
        T* to = c.out(0).template as<T>();
        std::fill_n(to, c.out(0).count(), off);
        for (int64_t i = 0; i < count; i++) {
            int64_t k = int64_t(c.in(0).as<I>()[i]);
            if (k < 0) k += depth;
            if (k >= 0 && k < depth) to[(i / inner * depth + k) * inner + i % inner] = on;
        }
    }

private:
    int64_t axis_;
};

// The places of all elements that are not zero, [rank, count].
template <class T>
class NonZero : public Kernel {
public:
    bool needs_value(int i) const override { return i == 0; }
    void shape(ShapeContext& c) const override {
        int64_t found = 0;
        for (int64_t i = 0; i < c.in(0).count(); i++) found += c.in(0).as<T>()[i] != T(0);
        c.out(0, DType::i64, {std::max(1, c.in(0).shape.rank), found});     // a number counts as a vector of one
    }
    void run(RunContext& c) const override {
        const Shape x = c.in(0).shape.rank ? c.in(0).shape : Shape{1};
        const int64_t n = c.out(0).shape[1], width = x[-1];
        int64_t* out = c.out(0).template as<int64_t>();
        for (int64_t row = 0, found = 0; found < n; row++) {        // a row: its own place first, without a branch
            const T* from = c.in(0).as<T>() + row * width;
            const int64_t before = found;
            int64_t* last = out + (x.rank - 1) * n;
            for (int64_t i = 0; i < width && found < n; i++) last[found] = i, found += from[i] != T(0);
            int64_t rest = row;
            for (int d = x.rank - 2; d >= 0; d--) std::fill(out + d * n + before, out + d * n + found, rest % x.d[d]), rest /= x.d[d];
        }
    }
};

// Keeps the upper or lower triangle from diagonal k on.
class Trilu : public Kernel {
public:
    explicit Trilu(const NodeInfo& node) : upper_(node.i("upper", 1)) {}
    bool in_place(int i) const override { return i == 0; }
    void shape(ShapeContext& c) const override {
        if (c.in(0).shape.rank < 2) throw std::invalid_argument("the input must have at least two dimensions, not " + text(c.in(0).shape));
        c.out(0, c.in(0).dtype, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const size_t item = item_size(c.in(0).dtype);
        const int64_t rows = x[-2], columns = x[-1], k = c.has(1) ? *c.in(1).as<int64_t>() : 0;
        if (!x.count()) return;
        if (c.out(0).data != c.in(0).data) std::memcpy(c.out(0).data, c.in(0).data, c.out(0).bytes());
        for (int64_t r = 0; r < x.count() / columns; r++) {
            const int64_t edge = std::clamp<int64_t>((r % rows) + k + (upper_ ? 0 : 1), 0, columns);
            char* row = c.out(0).as<char>() + r * columns * int64_t(item);
            if (upper_) std::memset(row, 0, size_t(edge) * item);
            else std::memset(row + edge * int64_t(item), 0, size_t(columns - edge) * item);
        }
    }

private:
    bool upper_;
};

// Inputs: data, pads, value?, axes?. Modes: constant, edge, reflect, wrap.
class Pad : public Kernel {
public:
    explicit Pad(const NodeInfo& node) : mode_(node.s("mode", "constant")) {}
    bool needs_value(int i) const override { return i == 1 || i == 3; }
    void shape(ShapeContext& c) const override {
        const Pads pads = read(c.inputs, c.n_inputs);
        Shape to = c.in(0).shape;
        for (int i = 0; i < to.rank; i++) {
            const int64_t size = to.d[i];
            to.d[i] += pads.before[i] + pads.after[i];
            if (to.d[i] < 0) throw std::invalid_argument("the pads take more than axis " + std::to_string(i) + " has");
            if (mode_ != "constant" && size == 0 && to.d[i] > 0) throw std::invalid_argument("an empty axis has nothing to repeat");
        }
        c.out(0, c.in(0).dtype, to);
    }
    void run(RunContext& c) const override {
        const Pads pads = read(c.inputs, c.n_inputs);
        if (!c.out(0).count()) return;
        if (mode_ == "constant") constant(c, pads);
        else repeated(c, pads);
    }

private:
    struct Pads {
        int64_t before[kMaxRank] = {}, after[kMaxRank] = {};
    };
    static Pads read(const Tensor* in, int n) {
        Pads pads;
        const int64_t count = in[1].count() / 2, *p = in[1].as<int64_t>();
        const bool axes = n > 3 && in[3];
        if (in[1].count() % 2 || (axes ? in[3].count() : int64_t(in[0].shape.rank)) != count) throw std::invalid_argument("pads has " + std::to_string(in[1].count()) + " numbers; two for each axis are needed");
        for (int64_t k = 0; k < count; k++) {
            int64_t axis = k;
            if (axes) axis = in[3].dtype == DType::i32 ? in[3].as<int32_t>()[k] : in[3].as<int64_t>()[k];
            const int own = resolve_axis(axis, in[0].shape.rank);
            pads.before[own] = p[k], pads.after[own] = p[count + k];
        }
        return pads;
    }

    void constant(RunContext& c, const Pads& pads) const {
        const size_t item = item_size(c.in(0).dtype);
        const Shape &from = c.in(0).shape, &to = c.out(0).shape;
        int64_t in_strides[kMaxRank], out_strides[kMaxRank], in_offset = 0, out_offset = 0;
        strides_of(from, item, in_strides), strides_of(to, item, out_strides);
        static const char zero[16] = {};
        View fill;
        fill.push(to.count(), int64_t(item), 0);
        copy_strided(c.out(0).data, c.has(2) ? c.in(2).data : zero, fill, item, *c.pool);
        View view;
        for (int i = 0; i < from.rank; i++) {
            const int64_t skip = std::max<int64_t>(0, -pads.before[i]), drop = std::max<int64_t>(0, -pads.after[i]);
            const int64_t size = from.d[i] - skip - drop;
            if (size <= 0) return;
            view.push(size, out_strides[i], in_strides[i]);
            in_offset += skip * in_strides[i], out_offset += std::max<int64_t>(0, pads.before[i]) * out_strides[i];
        }
        copy_strided(c.out(0).as<char>() + out_offset, c.in(0).as<char>() + in_offset, view, item, *c.pool);
    }

    int64_t source(int64_t at, int64_t size) const {
        if (mode_ == "edge") return std::clamp<int64_t>(at, 0, size - 1);
        if (mode_ == "wrap") return (at % size + size) % size;
        if (size == 1) return 0;
        const int64_t period = 2 * (size - 1), folded = (at % period + period) % period;
        return folded < size ? folded : period - folded;
    }

    static void copy_item(char* to, const char* from, size_t item) {
        switch (item) {
            case 4: std::memcpy(to, from, 4); break;
            case 8: std::memcpy(to, from, 8); break;
            default: std::memcpy(to, from, item);
        }
    }

    // Rows through one table of source offsets per axis.
    void repeated(RunContext& c, const Pads& pads) const {
        const size_t item = item_size(c.in(0).dtype);
        const Shape &from = c.in(0).shape, &to = c.out(0).shape;
        int64_t strides[kMaxRank];
        strides_of(from, item, strides);
        std::vector<std::vector<int64_t>> tables(size_t(to.rank));
        for (int d = 0; d < to.rank; d++)
            for (int64_t i = 0; i < to.d[d]; i++) tables[size_t(d)].push_back(source(i - pads.before[d], from.d[d]) * strides[d]);
        const int64_t row = to.rank ? to[-1] : 1;
        c.pool->parallel(to.count() / row, std::max<int64_t>(1, 8192 / row), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++) {
                int64_t offset = 0, rest = r;
                for (int d = to.rank - 2; d >= 0; d--) offset += tables[size_t(d)][size_t(rest % to.d[d])], rest /= to.d[d];
                char* out = c.out(0).as<char>() + r * row * int64_t(item);
                const char* source = c.in(0).as<char>() + offset;
                const auto edge = [&](int64_t from_i, int64_t to_i) {
                    for (int64_t i = from_i; i < to_i; i++) copy_item(out + i * int64_t(item), source + tables.back()[size_t(i)], item);
                };
                if (!to.rank) {
                    copy_item(out, source, item);
                    continue;
                }
                const int last = to.rank - 1;       // what lies inside is one run
                const int64_t left = std::clamp<int64_t>(pads.before[last], 0, row), right = std::clamp<int64_t>(pads.before[last] + from.d[last], left, row);
                edge(0, left);
                if (right > left) std::memcpy(out + left * int64_t(item), source + tables.back()[size_t(left)], size_t(right - left) * item);
                edge(right, row);
            }
        });
    }

    std::string mode_;
};

template <class K>
std::unique_ptr<Kernel> from_node(const NodeInfo& node) { return std::make_unique<K>(node); }
std::unique_ptr<Kernel> gather(const NodeInfo& node) { return is_index(node.inputs[1]) ? std::make_unique<Gather>(node) : nullptr; }
std::unique_ptr<Kernel> gather_elements(const NodeInfo& node) {
    return is_index(node.inputs[1]) ? by_size<GatherElements>(item_size(node.inputs[0]), node) : nullptr;
}
std::unique_ptr<Kernel> one_hot(const NodeInfo& node) {
    if (node.inputs[1] != DType::i64) return nullptr;
    const bool wide = node.inputs[0] == DType::i64;
    if (!is_index(node.inputs[0])) return nullptr;
    switch (item_size(node.inputs[2])) {
        case 1: return wide ? from_node<OneHot<int64_t, uint8_t>>(node) : from_node<OneHot<int32_t, uint8_t>>(node);
        case 4: return wide ? from_node<OneHot<int64_t, uint32_t>>(node) : from_node<OneHot<int32_t, uint32_t>>(node);
        case 8: return wide ? from_node<OneHot<int64_t, uint64_t>>(node) : from_node<OneHot<int32_t, uint64_t>>(node);
        default: return nullptr;
    }
}
std::unique_ptr<Kernel> non_zero(const NodeInfo& node) {
    switch (node.inputs[0]) {
        case DType::f32: return std::make_unique<NonZero<float>>();
        case DType::f64: return std::make_unique<NonZero<double>>();
        case DType::i64: return std::make_unique<NonZero<int64_t>>();
        case DType::i32: return std::make_unique<NonZero<int32_t>>();
        case DType::u8: case DType::i8: case DType::boolean: return std::make_unique<NonZero<uint8_t>>();
        default: return nullptr;
    }
}

HR_KERNEL("Gather", gather);
HR_KERNEL("GatherElements", gather_elements);
HR_KERNEL("OneHot", one_hot);
HR_KERNEL("NonZero", non_zero);
HR_KERNEL("Trilu", from_node<Trilu>);
HR_KERNEL("Pad", from_node<Pad>);

}  // namespace
}  // namespace hr
