#include "kernels/ml/scores.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "kernels/elementwise/broadcast.h"

namespace hr {

std::optional<Transform> transform_of(const NodeInfo& node) {
    const std::string name = node.s("post_transform", "NONE");
    if (name == "NONE") return Transform::none;
    if (name == "SOFTMAX") return Transform::softmax;
    if (name == "LOGISTIC") return Transform::logistic;
    if (name == "SOFTMAX_ZERO") return Transform::softmax_zero;
    if (name == "PROBIT") return Transform::probit;
    return std::nullopt;
}

namespace {

// The inverse error function by Winitzki's approximation (2008), which onnxruntime uses too.
double erf_inverse(double x) {
    const double log = std::log((1 - x) * (1 + x)), half = 2 / (std::numbers::pi * 0.147) + 0.5 * log;
    return std::copysign(std::sqrt(-half + std::sqrt(half * half - log / 0.147)), x);
}

}  // namespace

void apply(Transform transform, float* y, int64_t n) {
    if (transform == Transform::logistic) {
        for (int64_t i = 0; i < n; i++) {
            const float e = std::exp(-std::fabs(y[i]));
            y[i] = y[i] >= 0 ? 1 / (1 + e) : e / (1 + e);
        }
    } else if (transform == Transform::probit) {
        for (int64_t i = 0; i < n; i++) y[i] = float(std::numbers::sqrt2 * erf_inverse(2.0 * double(y[i]) - 1));
    } else if (transform != Transform::none && n) {
        const float top = *std::max_element(y, y + n);
        float total = 0;
        for (int64_t i = 0; i < n; i++) {
            y[i] = transform == Transform::softmax_zero && y[i] == 0 ? 0 : std::exp(y[i] - top);
            total += y[i];
        }
        for (int64_t i = 0; i < n; i++) y[i] /= total == 0 ? 1 : total;
    }
}

void check_rows(const Shape& x, int64_t columns) {
    if (x.rank < 1 || x.rank > 2 || (columns >= 0 && x[-1] != columns))
        throw std::invalid_argument("the input is " + text(x) + "; it must be [N, C] or [C]" + (columns < 0 ? "" : " with C = " + std::to_string(columns)));
}

std::vector<float> floats32(const NodeInfo& node, const std::string& key) {
    const std::vector<double> given = node.floats(key);
    return {given.begin(), given.end()};
}

}  // namespace hr
