// Operators on shapes themselves: Shape, Size, ConstantOfShape, Range.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/strided.h"
#include "types.h"

namespace hr {
namespace {

class ShapeOf : public Kernel {
public:
    explicit ShapeOf(const NodeInfo& node) : start_(node.i("start", 0)), end_(node.i("end", INT64_MAX)) {}
    bool reads_data(int) const override { return false; }
    void shape(ShapeContext& c) const override {
        const auto [from, to] = range(c.in(0).shape.rank);
        c.out(0, DType::i64, {std::max<int64_t>(0, to - from)});
    }
    void run(RunContext& c) const override {
        const Shape& shape = c.in(0).shape;
        const auto [from, to] = range(shape.rank);
        for (int64_t i = from; i < to; i++) c.out(0).as<int64_t>()[i - from] = shape.d[i];
    }

private:
    std::pair<int64_t, int64_t> range(int64_t rank) const {
        const auto bound = [&](int64_t x) { return std::clamp<int64_t>(x < 0 ? x + rank : x, 0, rank); };
        return {bound(start_), bound(end_)};
    }
    int64_t start_, end_;
};

class SizeOf : public Kernel {
public:
    bool reads_data(int) const override { return false; }
    void shape(ShapeContext& c) const override { c.out(0, DType::i64, {}); }
    void run(RunContext& c) const override { *c.out(0).as<int64_t>() = c.in(0).count(); }
};

// The value's bytes repeated.
class ConstantOfShape : public Kernel {
public:
    explicit ConstantOfShape(const NodeInfo& node) : dtype_(node.outputs[0]), value_(node.f("value", 0)), whole_(0) {
        if (node.has("value"))
            if (auto* i = std::get_if<int64_t>(&node.attrs.at("value").value)) whole_ = *i;
    }
    bool needs_value(int i) const override { return i == 0; }
    void shape(ShapeContext& c) const override {
        Shape shape;
        for (int64_t i = 0; i < c.in(0).count(); i++) {
            const int64_t dim = c.in(0).as<int64_t>()[i];
            if (dim < 0) throw std::invalid_argument("a dimension is " + std::to_string(dim));
            shape.push(dim);
        }
        c.out(0, dtype_, shape);
    }
    void run(RunContext& c) const override {
        Tensor& out = c.out(0);
        switch (dtype_) {
            case DType::f32: return fill<float>(out, float(value_));
            case DType::f64: return fill<double>(out, value_);
            case DType::f16: return fill<uint16_t>(out, to_half(float(value_)).bits);
            case DType::bf16: return fill<uint16_t>(out, to_bfloat16(float(value_)).bits);
            case DType::i64: case DType::u64: return fill<int64_t>(out, whole_);
            case DType::i32: case DType::u32: return fill<int32_t>(out, int32_t(whole_));
            case DType::i16: case DType::u16: return fill<int16_t>(out, int16_t(whole_));
            default: return fill<int8_t>(out, int8_t(whole_));
        }
    }

private:
    template <class T>
    static void fill(Tensor& out, T value) { std::fill_n(out.as<T>(), out.count(), value); }
    DType dtype_;
    double value_;
    int64_t whole_;
};

template <class T>
class Range : public Kernel {
public:
    bool needs_value(int) const override { return true; }
    void shape(ShapeContext& c) const override {
        const T start = *c.in(0).as<T>(), limit = *c.in(1).as<T>(), delta = *c.in(2).as<T>();
        if (delta == 0) throw std::invalid_argument("delta is 0");
        const double n = std::ceil((double(limit) - double(start)) / double(delta));
        if (!(n < 9e15)) throw std::invalid_argument("the range has too many elements");
        c.out(0, code_of<T>, {int64_t(std::max(0.0, n))});
    }
    void run(RunContext& c) const override {
        const T start = *c.in(0).as<T>(), delta = *c.in(2).as<T>();
        const int64_t n = c.out(0).count();
        T* out = c.out(0).template as<T>();
        for (int64_t i = 0; i < n; i++) out[i] = T(start + T(i) * delta);
    }
};

std::unique_ptr<Kernel> shape_of(const NodeInfo& node) { return std::make_unique<ShapeOf>(node); }
std::unique_ptr<Kernel> size_of(const NodeInfo&) { return std::make_unique<SizeOf>(); }
std::unique_ptr<Kernel> constant_of_shape(const NodeInfo& node) {
    const size_t size = item_size(node.outputs[0]);
    const bool known = node.outputs[0] <= DType::boolean || node.outputs[0] == DType::f16 || node.outputs[0] == DType::bf16 || size >= 4;
    return known && size <= 8 && node.outputs[0] != DType::c64 ? std::make_unique<ConstantOfShape>(node) : nullptr;
}
std::unique_ptr<Kernel> range(const NodeInfo& node) {
    switch (node.inputs[0]) {
        case DType::i64: return std::make_unique<Range<int64_t>>();
        case DType::i32: return std::make_unique<Range<int32_t>>();
        case DType::f32: return std::make_unique<Range<float>>();
        case DType::f64: return std::make_unique<Range<double>>();
        default: return nullptr;
    }
}

HR_KERNEL("Shape", shape_of);
HR_KERNEL("Size", size_of);
HR_KERNEL("ConstantOfShape", constant_of_shape);
HR_KERNEL("Range", range);

}  // namespace
}  // namespace hr
