// Entries picked by a condition, a list or an order: Compress, ArrayFeatureExtractor, ReverseSequence; and EyeLike.
#include <algorithm>
#include <cstring>

#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/index.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr {
namespace {

// Without an axis the input counts as flat.
class Compress : public Kernel {
public:
    explicit Compress(const NodeInfo& node) : flat_(!node.has("axis")), axis_(node.i("axis", 0)) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        Shape to = flat_ ? Shape{c.in(0).count()} : c.in(0).shape;
        const int axis = resolve_axis(axis_, to.rank);
        const bool* keep = c.in(1).as<bool>();
        const int64_t n = c.in(1).count();
        for (int64_t i = to.d[axis]; i < n; i++)
            if (keep[i]) throw std::out_of_range("the condition picks entry " + std::to_string(i) + " of " + std::to_string(to.d[axis]));
        to.d[axis] = std::count(keep, keep + std::min(n, to.d[axis]), true);
        c.out(0, c.in(0).dtype, to);
    }
    void run(RunContext& c) const override {
        const Shape from = flat_ ? Shape{c.in(0).count()} : c.in(0).shape;
        const int axis = resolve_axis(axis_, from.rank);
        const size_t run = size_t(from.count(axis + 1, from.rank)) * item_size(c.in(0).dtype);
        const int64_t outer = from.count(0, axis), size = from.d[axis], n = std::min(c.in(1).count(), size);
        char* to = c.out(0).as<char>();
        for (int64_t o = 0; o < outer; o++)
            for (int64_t i = 0; i < n; i++)
                if (c.in(1).as<bool>()[i]) std::memcpy(to, c.in(0).as<char>() + size_t(o * size + i) * run, run), to += run;
    }

private:
    bool flat_;
    int64_t axis_;
};

// Entries Y of the last axis of X; a vector gives one row.
template <class T>
class Columns : public Kernel {
public:
    explicit Columns(const NodeInfo&) {}
    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        if (!x.rank) throw std::invalid_argument("the input has no axis");
        Shape to;
        if (x.rank == 1) to.push(1);
        for (int i = 0; i < x.rank - 1; i++) to.push(x.d[i]);
        to.push(c.in(1).count());
        c.out(0, c.in(0).dtype, to);
    }
    void run(RunContext& c) const override {
        const int64_t size = c.in(0).shape[-1], picks = c.in(1).count(), rows = picks ? c.out(0).count() / picks : 0;
        for (int64_t k = 0; k < picks; k++) {
            const int64_t from = c.in(1).as<int64_t>()[k];
            if (from < 0 || from >= size) throw std::out_of_range("Y holds " + std::to_string(from) + "; the last axis of X has " + std::to_string(size) + " entries");
            for (int64_t r = 0; r < rows; r++) c.out(0).template as<T>()[r * picks + k] = c.in(0).as<T>()[r * size + from];
        }
    }
};

class ReverseSequence : public Kernel {
public:
    explicit ReverseSequence(const NodeInfo& node) : batch_(node.i("batch_axis", 1)), time_(node.i("time_axis", 0)) {}
    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        const int batch = resolve_axis(batch_, x.rank), time = resolve_axis(time_, x.rank);
        if (batch > 1 || time > 1 || batch == time) throw std::invalid_argument("batch_axis and time_axis must be 0 and 1");
        if (c.in(1).count() != x.d[batch]) throw std::invalid_argument("sequence_lens must have one number for each entry of the batch");
        c.out(0, c.in(0).dtype, x);
    }
    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const bool time_first = resolve_axis(time_, x.rank) == 0;
        const int64_t steps = x.d[time_first ? 0 : 1], entries = x.d[time_first ? 1 : 0];
        const size_t run = size_t(x.count(2, x.rank)) * item_size(c.in(0).dtype);
        const auto place = [&](int64_t b, int64_t t) { return size_t(time_first ? t * entries + b : b * steps + t) * run; };
        for (int64_t b = 0; b < entries; b++) {
            const int64_t length = c.in(1).as<int64_t>()[b];
            if (length < 0 || length > steps) throw std::out_of_range("a sequence has length " + std::to_string(length) + " of " + std::to_string(steps));
            for (int64_t t = 0; t < steps; t++)
                std::memcpy(c.out(0).as<char>() + place(b, t), c.in(0).as<char>() + place(b, t < length ? length - 1 - t : t), run);
        }
    }

private:
    int64_t batch_, time_;
};

// Ones on diagonal k of a matrix.
template <class T>
class EyeLike : public Kernel {
public:
    explicit EyeLike(const NodeInfo& node) : dtype_(node.outputs[0]), k_(node.i("k", 0)) {}
    bool reads_data(int) const override { return false; }
    void shape(ShapeContext& c) const override {
        if (c.in(0).shape.rank != 2) throw std::invalid_argument("the input must be a matrix, not " + text(c.in(0).shape));
        c.out(0, dtype_, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        const int64_t rows = c.out(0).shape[0], columns = c.out(0).shape[1];
        T* out = c.out(0).template as<T>();
        std::fill_n(out, rows * columns, T(0));
        for (int64_t r = 0; r < rows; r++)
            if (r + k_ >= 0 && r + k_ < columns) out[r * columns + r + k_] = T(1);
    }

private:
    DType dtype_;
    int64_t k_;
};

template <class K>
std::unique_ptr<Kernel> from_node(const NodeInfo& node) { return std::make_unique<K>(node); }
std::unique_ptr<Kernel> columns(const NodeInfo& node) { return by_size<Columns>(item_size(node.inputs[0]), node); }
std::unique_ptr<Kernel> eye_like(const NodeInfo& node) {
    node.known({"dtype"});
    switch (node.outputs[0]) {
        case DType::f32: return from_node<EyeLike<float>>(node);
        case DType::f64: return from_node<EyeLike<double>>(node);
        case DType::i64: case DType::u64: return from_node<EyeLike<int64_t>>(node);
        case DType::i32: case DType::u32: return from_node<EyeLike<int32_t>>(node);
        case DType::i8: case DType::u8: case DType::boolean: return from_node<EyeLike<int8_t>>(node);
        default: return nullptr;
    }
}

HR_KERNEL("Compress", from_node<Compress>);
HR_KERNEL("ai.onnx.ml.ArrayFeatureExtractor", columns);
HR_KERNEL("ReverseSequence", from_node<ReverseSequence>);
HR_KERNEL("EyeLike", eye_like);

}  // namespace
}  // namespace hr
