// SVMClassifier (integer labels) and SVMRegressor: sums of kernel values with support vectors, in float64.
#include <algorithm>
#include <cmath>

#include "kernels/ml/scores.h"
#include "pool.h"

namespace hr {
namespace {

using Doubles = std::vector<double>;

Doubles doubles(const NodeInfo& node, const std::string& key) {
    const std::vector<float> narrow = floats32(node, key);
    return {narrow.begin(), narrow.end()};
}

class Svm : public Kernel {
public:
    Svm(const NodeInfo& node, size_t vectors)
        : vectors_(doubles(node, "support_vectors")), coefficients_(doubles(node, "coefficients")), rho_(doubles(node, "rho")),
          kind_(node.s("kernel_type", "LINEAR")), transform_(*transform_of(node)), n_(vectors) {
        Doubles params = node.floats("kernel_params");
        params.resize(3);
        gamma_ = params[0], shift_ = params[1], degree_ = params[2];
    }
    std::string variant() const override { return "svm"; }

protected:
    int64_t columns() const { return n_ ? int64_t(vectors_.size() / n_) : -1; }

    // The kernel of a row with `count` vectors, one after another in memory.
    void values(const Doubles& x, const Doubles& vectors, size_t count, const std::string& kind, Doubles& to) const {
        to.resize(count);
        const size_t width = x.size();
        for (size_t v = 0; v < count; v++) {
            const double* s = vectors.data() + v * width;
            double sum = 0;
            if (kind == "RBF") {
                for (size_t i = 0; i < width; i++) sum += (x[i] - s[i]) * (x[i] - s[i]);
                to[v] = std::exp(-gamma_ * sum);
                continue;
            }
            for (size_t i = 0; i < width; i++) sum += x[i] * s[i];
            to[v] = kind == "POLY" ? std::pow(gamma_ * sum + shift_, degree_) : kind == "SIGMOID" ? std::tanh(gamma_ * sum + shift_) : sum;
        }
    }
    template <class Each>
    void each_row(RunContext& c, const Each& each) const {
        const Tensor& x = c.in(0);
        c.pool->parallel(rows_of(x.shape), std::max<int64_t>(1, 8192 / int64_t(vectors_.size() + 64)), [&](int64_t begin, int64_t end) {
            Doubles row(size_t(x.shape[-1]));
            for (int64_t r = begin; r < end; r++) read_row(x, r, row.data()), each(r, row);
        });
    }

    Doubles vectors_, coefficients_, rho_;
    std::string kind_;
    Transform transform_;
    size_t n_;              // support vectors
    double gamma_, shift_, degree_;
};

class Regressor : public Svm {
public:
    explicit Regressor(const NodeInfo& node) : Svm(node, size_t(node.i("n_supports", 0))), one_class_(node.i("one_class", 0)) {}
    void shape(ShapeContext& c) const override {
        check_rows(c.in(0).shape, n_ ? columns() : int64_t(coefficients_.size()));
        c.out(0, DType::f32, {rows_of(c.in(0).shape), 1});
    }
    void run(RunContext& c) const override {
        each_row(c, [&](int64_t row, const Doubles& x) {
            Doubles found = x;
            if (n_) values(x, vectors_, n_, kind_, found);
            double y = 0;
            for (size_t i = 0; i < found.size(); i++) y += found[i] * coefficients_[i];
            y += rho_[0];
            if (one_class_) y = y > 0 ? 1 : -1;
            float* out = c.out(0).as<float>() + row;
            *out = float(y);
            apply(transform_, out, 1);
        });
    }

private:
    bool one_class_;
};

// One probability a class from those of pairs, after Wu, Lin and Weng (2004), as libsvm does.
Doubles coupled(const std::vector<Doubles>& pairs) {
    const size_t k = pairs.size();
    std::vector<Doubles> q(k, Doubles(k));
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++) {
            if (i != j) q[i][j] = -pairs[j][i] * pairs[i][j], q[i][i] += pairs[j][i] * pairs[j][i];
        }
    Doubles p(k, 1.0 / double(k)), qp(k);
    for (size_t round = 0; round < std::max<size_t>(100, k); round++) {
        double total = 0, worst = 0;
        for (size_t i = 0; i < k; i++) {
            qp[i] = 0;
            for (size_t j = 0; j < k; j++) qp[i] += q[i][j] * p[j];
            total += p[i] * qp[i];
        }
        for (size_t i = 0; i < k; i++) worst = std::max(worst, std::fabs(qp[i] - total));
        if (worst < 0.005 / double(k)) break;
        for (size_t t = 0; t < k; t++) {
            const double diff = (total - qp[t]) / q[t][t];
            p[t] += diff;
            total = (total + diff * (diff * q[t][t] + 2 * qp[t])) / ((1 + diff) * (1 + diff));
            for (size_t j = 0; j < k; j++) qp[j] = (qp[j] + diff * q[t][j]) / (1 + diff), p[j] /= 1 + diff;
        }
    }
    return p;
}

class Classifier : public Svm {
public:
    Classifier(const NodeInfo& node, size_t vectors)
        : Svm(node, vectors), labels_(node.ints("classlabels_ints")), sizes_(node.ints("vectors_per_class")), a_(doubles(node, "prob_a")), b_(doubles(node, "prob_b")) {}
    void shape(ShapeContext& c) const override {
        const int64_t k = int64_t(labels_.size()), pairs = k * (k - 1) / 2, rows = rows_of(c.in(0).shape);
        check_rows(c.in(0).shape, sizes_.empty() ? int64_t(coefficients_.size()) / k : columns());
        c.out(0, DType::i64, {rows});
        c.out(1, DType::f32, {rows, sizes_.empty() || !a_.empty() ? k : std::max<int64_t>(pairs, 2)});
    }
    void run(RunContext& c) const override {
        int64_t* labels = c.out(0).as<int64_t>();
        float* scores = c.n_outputs > 1 ? c.out(1).as<float>() : nullptr;
        each_row(c, [&](int64_t row, const Doubles& x) {
            Doubles y, votes;
            if (sizes_.empty()) {
                values(x, coefficients_, labels_.size(), "LINEAR", y);
                for (double& v : y) v += rho_[0];
                votes = y;
            } else {
                pairwise(x, y, votes);
                if (!a_.empty()) y = probabilities(y);
                else if (labels_.size() == 2) y = {-y[0], y[0]};
            }
            if (labels) labels[row] = labels_[size_t(std::max_element(votes.begin(), votes.end()) - votes.begin())];
            if (!scores) return;
            float* out = scores + row * int64_t(y.size());
            std::copy(y.begin(), y.end(), out);
            apply(transform_, out, int64_t(y.size()));
        });
    }

private:
    // One decision for each pair of classes, and the votes that it gives.
    void pairwise(const Doubles& x, Doubles& decisions, Doubles& votes) const {
        Doubles found;
        values(x, vectors_, n_, kind_, found);
        const size_t k = labels_.size();
        votes.assign(k, 0);
        std::vector<size_t> start(k + 1);
        for (size_t i = 0; i < k; i++) start[i + 1] = start[i] + size_t(sizes_[i]);
        for (size_t i = 0; i < k; i++)
            for (size_t j = i + 1; j < k; j++) {
                double score = 0;
                for (size_t v = start[i]; v < start[i + 1]; v++) score += found[v] * coefficients_[(j - 1) * n_ + v];
                for (size_t v = start[j]; v < start[j + 1]; v++) score += found[v] * coefficients_[i * n_ + v];
                score += rho_[decisions.size()];
                votes[score > 0 ? i : j] += 1;
                decisions.push_back(score);
            }
    }
    Doubles probabilities(const Doubles& decisions) const {
        const size_t k = labels_.size();
        std::vector<Doubles> pairs(k, Doubles(k));
        size_t number = 0;
        for (size_t i = 0; i < k; i++)
            for (size_t j = i + 1; j < k; j++, number++) {
                const double p = 1 - 1 / (1 + std::exp(-(decisions[number] * a_[number] + b_[number])));
                pairs[i][j] = std::clamp(p, 1e-7, 1 - 1e-7), pairs[j][i] = 1 - pairs[i][j];
            }
        return coupled(pairs);
    }

    std::vector<int64_t> labels_, sizes_;
    Doubles a_, b_;
};

std::unique_ptr<Kernel> regressor(const NodeInfo& node) {
    const int64_t n = node.i("n_supports", 0), given = int64_t(node.floats("support_vectors").size());
    const int64_t weights = int64_t(node.floats("coefficients").size());
    if (!is_feature(node.inputs[0]) || !transform_of(node) || n < 0 || node.floats("rho").empty() || (n && (given % n || given == 0 || weights != n))) return nullptr;
    return std::make_unique<Regressor>(node);
}

std::unique_ptr<Kernel> classifier(const NodeInfo& node) {
    node.known({"classlabels_strings"});
    const std::vector<int64_t> labels = node.ints("classlabels_ints"), sizes = node.ints("vectors_per_class");
    const size_t k = labels.size(), pairs = k * (k - 1) / 2, weights = node.floats("coefficients").size();
    if (!is_feature(node.inputs[0]) || !transform_of(node) || node.outputs[0] == DType::str || k < 2 || node.floats("rho").empty()) return nullptr;
    if (sizes.empty()) return weights && weights % k == 0 ? std::make_unique<Classifier>(node, 0) : nullptr;
    size_t n = 0;
    for (int64_t size : sizes) {
        if (size < 0 || size > (int64_t(1) << 31)) return nullptr;
        n += size_t(size);
    }
    const size_t a = node.floats("prob_a").size(), b = node.floats("prob_b").size(), given = node.floats("support_vectors").size();
    if (sizes.size() != k || !n || !given || given % n || weights != (k - 1) * n || node.floats("rho").size() != pairs || a != b || (a && a != pairs)) return nullptr;
    return std::make_unique<Classifier>(node, n);
}
HR_KERNEL("ai.onnx.ml.SVMRegressor", regressor);
HR_KERNEL("ai.onnx.ml.SVMClassifier", classifier);

}  // namespace
}  // namespace hr
