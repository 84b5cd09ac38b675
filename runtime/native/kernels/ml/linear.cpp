// LinearClassifier (integer labels) and LinearRegressor. Sums in float64: the same bits for a row in any batch.
#include <algorithm>

#include "kernels/ml/scores.h"
#include "pool.h"

namespace hr {
namespace {

class Linear : public Kernel {
public:
    explicit Linear(const NodeInfo& node)
        : narrow_(node.inputs[0] != DType::f64), coefficients_(node.floats("coefficients")), intercepts_(node.floats("intercepts")), transform_(*transform_of(node)) {
        if (narrow_) {
            for (double& v : coefficients_) v = double(float(v));
            for (double& v : intercepts_) v = double(float(v));
        }
    }
    std::string variant() const override { return "linear"; }

protected:
    // How many sums a row has; throws where the coefficients do not divide.
    int64_t sums(const Shape& x) const {
        check_rows(x, -1);
        const int64_t n = int64_t(coefficients_.size());
        if (!x[-1] || n % x[-1] || (!intercepts_.empty() && int64_t(intercepts_.size()) != 1 && int64_t(intercepts_.size()) != n / x[-1]))
            throw std::invalid_argument("there are " + std::to_string(n) + " coefficients and " + std::to_string(intercepts_.size()) + " intercepts for " + std::to_string(x[-1]) + " columns");
        return n / x[-1];
    }
    // Calls each(row, sums) for every row.
    template <class Each>
    void each_row(RunContext& c, const Each& each) const {
        const Tensor& x = c.in(0);
        const int64_t width = x.shape[-1], n = int64_t(coefficients_.size()) / width;
        c.pool->parallel(rows_of(x.shape), std::max<int64_t>(1, 16384 / int64_t(coefficients_.size() + 1)), [&](int64_t begin, int64_t end) {
            std::vector<double> row(static_cast<size_t>(width));
            std::vector<float> sums(static_cast<size_t>(n));
            for (int64_t r = begin; r < end; r++) {
                read_row(x, r, row.data());
                if (narrow_)
                    for (double& v : row) v = double(float(v));
                for (int64_t t = 0; t < n; t++) {
                    double sum = intercepts_.empty() ? 0 : intercepts_[intercepts_.size() == 1 ? 0 : size_t(t)];
                    for (int64_t i = 0; i < width; i++) sum += row[size_t(i)] * coefficients_[size_t(t * width + i)];
                    sums[size_t(t)] = float(sum);
                }
                each(r, sums);
            }
        });
    }

    bool narrow_;       // numbers are float32
    std::vector<double> coefficients_, intercepts_;
    Transform transform_;
};

class Classifier : public Linear {
public:
    explicit Classifier(const NodeInfo& node) : Linear(node), labels_(node.ints("classlabels_ints")) {}
    void shape(ShapeContext& c) const override {
        const int64_t n = sums(c.in(0).shape);
        if (n != int64_t(labels_.size()) && !(n == 1 && labels_.size() == 2 && transform_ != Transform::probit)) throw std::invalid_argument("there are " + std::to_string(n) + " scores for " + std::to_string(labels_.size()) + " labels");
        c.out(0, DType::i64, {rows_of(c.in(0).shape)});
        c.out(1, DType::f32, {rows_of(c.in(0).shape), int64_t(labels_.size())});
    }
    void run(RunContext& c) const override {
        const int64_t k = int64_t(labels_.size());
        int64_t* labels = c.out(0).as<int64_t>();
        float* scores = c.n_outputs > 1 ? c.out(1).as<float>() : nullptr;
        each_row(c, [&](int64_t row, std::vector<float>& y) {
            size_t best = size_t(std::max_element(y.begin(), y.end()) - y.begin());
            if (y.size() == 1 && k == 2) {      // one score: that of the second class
                best = y[0] > 0;
                y = {transform_ == Transform::none ? 1 - y[0] : -y[0], y[0]};
            }
            if (labels) labels[row] = labels_[best];
            apply(transform_, y.data(), k);
            if (scores) std::copy(y.begin(), y.end(), scores + row * k);
            y.resize(coefficients_.size() / size_t(c.in(0).shape[-1]));
        });
    }

private:
    std::vector<int64_t> labels_;
};

class Regressor : public Linear {
public:
    explicit Regressor(const NodeInfo& node) : Linear(node) {}
    void shape(ShapeContext& c) const override { c.out(0, DType::f32, {rows_of(c.in(0).shape), sums(c.in(0).shape)}); }
    void run(RunContext& c) const override {
        each_row(c, [&](int64_t row, std::vector<float>& y) {
            apply(transform_, y.data(), int64_t(y.size()));
            std::copy(y.begin(), y.end(), c.out(0).as<float>() + row * int64_t(y.size()));
        });
    }
};

template <class K>
std::unique_ptr<Kernel> linear(const NodeInfo& node) {
    const bool labels = node.op.ends_with("Classifier");
    node.known({"targets", "classlabels_strings", "multi_class"});
    if (!is_feature(node.inputs[0]) || !transform_of(node) || (labels && (node.outputs[0] == DType::str || node.ints("classlabels_ints").empty()))) return nullptr;
    return std::make_unique<K>(node);
}
HR_KERNEL("ai.onnx.ml.LinearClassifier", linear<Classifier>);
HR_KERNEL("ai.onnx.ml.LinearRegressor", linear<Regressor>);

}  // namespace
}  // namespace hr
