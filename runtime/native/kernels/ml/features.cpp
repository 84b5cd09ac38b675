// Scaler, Normalizer, Binarizer, Imputer: numbers of a table, row by row.
#include <algorithm>
#include <cmath>

#include "kernels/ml/scores.h"
#include "kernels/shape/index.h"
#include "pool.h"

namespace hr {
namespace {

constexpr int64_t kGrain = 8192;    // elements worth a thread's while

// Calls each(row) for every row (the last axis) of x, over threads.
template <class Each>
void each_row(RunContext& c, const Each& each) {
    const Tensor& x = c.in(0);
    const int64_t width = x.shape.rank ? x.shape[-1] : 1;
    if (!x.count()) return;
    c.pool->parallel(x.count() / width, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) each(row, width);
    });
}

// (X - offset) * scale in float32, by column where there are several.
class Scaler : public Kernel {
public:
    explicit Scaler(const NodeInfo& node) : offset_(floats32(node, "offset")), scale_(floats32(node, "scale")) {}
    void shape(ShapeContext& c) const override {
        for (size_t n : {offset_.size(), scale_.size()})
            if (n > 1 && (!c.in(0).shape.rank || int64_t(n) != c.in(0).shape[-1])) throw std::invalid_argument("there are " + std::to_string(n) + " offsets or scales for other columns");
        c.out(0, DType::f32, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        each_row(c, [&](int64_t row, int64_t width) {
            float* y = c.out(0).as<float>() + row * width;
            read_row(c.in(0), row, y);
            if (!offset_.empty())
                for (int64_t i = 0; i < width; i++) y[i] -= offset_[offset_.size() == 1 ? 0 : size_t(i)];
            if (!scale_.empty())
                for (int64_t i = 0; i < width; i++) y[i] *= scale_[scale_.size() == 1 ? 0 : size_t(i)];
        });
    }

private:
    std::vector<float> offset_, scale_;
};

class Normalizer : public Kernel {
public:
    explicit Normalizer(const NodeInfo& node) : norm_(node.s("norm", "MAX")) {}
    void shape(ShapeContext& c) const override { c.out(0, DType::f32, c.in(0).shape); }
    void run(RunContext& c) const override {
        each_row(c, [&](int64_t row, int64_t width) {
            float* y = c.out(0).as<float>() + row * width;
            read_row(c.in(0), row, y);
            float size = norm_ == "MAX" ? -INFINITY : 0;
            for (int64_t i = 0; i < width; i++) {
                if (norm_ == "MAX") size = y[i] > size || y[i] != y[i] ? y[i] : size;
                else size += norm_ == "L1" ? std::fabs(y[i]) : y[i] * y[i];
            }
            if (norm_ == "L2") size = std::sqrt(size);
            for (int64_t i = 0; i < width; i++) y[i] /= size == 0 ? 1 : size;
        });
    }

private:
    std::string norm_;
};

template <class T>
class Binarizer : public Kernel {
public:
    explicit Binarizer(const NodeInfo& node) : threshold_(float(node.f("threshold", 0))) {}
    bool in_place(int) const override { return true; }
    void shape(ShapeContext& c) const override { c.out(0, c.in(0).dtype, c.in(0).shape); }
    void run(RunContext& c) const override {
        c.pool->parallel(c.in(0).count(), kGrain, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) c.out(0).template as<T>()[i] = T(c.in(0).as<T>()[i] > threshold_);
        });
    }

private:
    std::conditional_t<std::is_same_v<T, float>, float, double> threshold_;
};

// Values equal to one value (or NaN) become the column's.
template <class T>
class Imputer : public Kernel {
public:
    explicit Imputer(const NodeInfo& node) {
        if constexpr (std::is_floating_point_v<T>) {
            for (double v : node.floats("imputed_value_floats")) values_.push_back(T(v));
            old_ = T(node.f("replaced_value_float", 0));
        } else {
            for (int64_t v : node.ints("imputed_value_int64s")) values_.push_back(T(v));
            old_ = T(node.i("replaced_value_int64", 0));
        }
    }
    bool in_place(int) const override { return true; }
    void shape(ShapeContext& c) const override {
        const int64_t columns = c.in(0).shape.rank ? c.in(0).shape[-1] : 1;
        if (values_.size() != 1 && int64_t(values_.size()) != columns) throw std::invalid_argument("there are " + std::to_string(values_.size()) + " imputed values; allowed: 1 or " + std::to_string(columns) + ", one a column");
        c.out(0, c.in(0).dtype, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        each_row(c, [&](int64_t row, int64_t width) {
            const T* x = c.in(0).as<T>() + row * width;
            T* y = c.out(0).template as<T>() + row * width;
            for (int64_t i = 0; i < width; i++) y[i] = x[i] == old_ || (old_ != old_ && x[i] != x[i]) ? values_[values_.size() == 1 ? 0 : size_t(i)] : x[i];
        });
    }

private:
    std::vector<T> values_;
    T old_;
};

template <class K>
std::unique_ptr<Kernel> rowwise(const NodeInfo& node) { return is_feature(node.inputs[0]) ? std::make_unique<K>(node) : nullptr; }

HR_KERNEL("ai.onnx.ml.Scaler", rowwise<Scaler>);
HR_KERNEL("ai.onnx.ml.Normalizer", rowwise<Normalizer>);
HR_KERNEL("ai.onnx.ml.Binarizer", (by_type<Binarizer, float, double, int32_t, int64_t>));
HR_KERNEL("ai.onnx.ml.Imputer", (by_type<Imputer, float, double, int32_t, int64_t>));

}  // namespace
}  // namespace hr
