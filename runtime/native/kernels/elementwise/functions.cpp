// Functions of the C library element by element, and activations of float64: correct before fast.
#include "kernels/elementwise/rows.inc.h"

namespace hr::HR_TIER {
namespace {

std::unique_ptr<Kernel> finish(const NodeInfo& node, RowFn row, std::vector<double> f, int operands) {
    for (DType other : node.inputs)
        if (other != node.inputs[0]) return nullptr;
    if (!row) return nullptr;
    Elementwise what;
    what.operands = operands, what.row = row, what.f = std::move(f), what.grain = 1024;
    if (node.outputs[0] == DType::boolean) what.out = DType::boolean;
    return make_elementwise(node, std::move(what));
}

// One operator over float32 and float64: y = expression of x (and of a, b: its first two numbers).
#define HR_FUNCTION(op, name, expression, ...) \
    template <class T> struct name { \
        T a, b; \
        explicit name(const double* f) : a(f ? T(f[0]) : T()), b(f ? T(f[1]) : T()) {} \
        auto operator()(T x) const { return expression; } \
    }; \
    std::unique_ptr<Kernel> make_##name(const NodeInfo& node) { \
        std::vector<double> f = numbers(node, {__VA_ARGS__}); \
        f.resize(2); \
        return finish(node, unary_for<name, float, double>(node.inputs[0]), std::move(f), 1); \
    } \
    HR_KERNEL(op, make_##name)

HR_FUNCTION("Acos", Acos, std::acos(x));
HR_FUNCTION("Acosh", Acosh, std::acosh(x));
HR_FUNCTION("Asin", Asin, std::asin(x));
HR_FUNCTION("Asinh", Asinh, std::asinh(x));
HR_FUNCTION("Atan", Atan, std::atan(x));
HR_FUNCTION("Atanh", Atanh, std::atanh(x));
HR_FUNCTION("Cosh", Cosh, std::cosh(x));
HR_FUNCTION("Sinh", Sinh, std::sinh(x));
HR_FUNCTION("Tan", Tan, std::tan(x));
HR_FUNCTION("headrace.Erfc", Erfc, std::erfc(x));
HR_FUNCTION("headrace.Exp2", Exp2, std::exp2(x));
HR_FUNCTION("headrace.Expm1", Expm1, std::expm1(x));
HR_FUNCTION("headrace.Log1p", Log1p, std::log1p(x));
HR_FUNCTION("headrace.Log2", Log2, std::log2(x));
HR_FUNCTION("headrace.Log10", Log10, std::log10(x));
HR_FUNCTION("headrace.Rsqrt", Rsqrt, T(1) / std::sqrt(x));
HR_FUNCTION("headrace.Trunc", Trunc, std::trunc(x));
HR_FUNCTION("IsInf", IsInf, std::isinf(x) && (x < T(0) ? a != T(0) : b != T(0)), {"detect_negative", 1}, {"detect_positive", 1});
HR_FUNCTION("Shrink", Shrink, x < -b ? x + a : x > b ? x - a : T(0), {"bias", 0}, {"lambd", 0.5});

// What float32 has vectorised kernels for: a node of float32 finds those first.
template <class T> T sigmoid(T x) {
    const T e = std::exp(-std::fabs(x));
    return x >= 0 ? T(1) / (1 + e) : e / (1 + e);
}
template <class T> T softplus(T x) { return (x > 0 ? x : T(0)) + std::log1p(std::exp(-std::fabs(x))); }
#define HR_DOUBLE(op, name, expression, ...) \
    struct name { \
        double a, b; \
        explicit name(const double* f) : a(f[0]), b(f[1]) {} \
        double operator()(double x) const { return expression; } \
    }; \
    std::unique_ptr<Kernel> make_##name(const NodeInfo& node) { \
        std::vector<double> f = numbers(node, {__VA_ARGS__}); \
        f.resize(2); \
        return finish(node, node.inputs[0] == DType::f64 ? unary_row<double, double, name> : nullptr, std::move(f), 1); \
    } \
    HR_KERNEL(op, make_##name)

HR_DOUBLE("Celu", Celu, x > 0 ? x : a * std::expm1(x / a), {"alpha", 1});
HR_DOUBLE("Elu", Elu, x >= 0 ? x : a * std::expm1(x), {"alpha", 1});
HR_DOUBLE("HardSigmoid", HardSigmoid64, x != x ? x : std::fmin(1, std::fmax(0, x * a + b)), {"alpha", 0.2}, {"beta", 0.5});
HR_DOUBLE("HardSwish", HardSwish64, HardSwish<double>(nullptr)(x));
HR_DOUBLE("Mish", Mish, x * std::tanh(softplus(x)));
HR_DOUBLE("Selu", Selu, b * (x > 0 ? x : a * std::expm1(x)), {"alpha", 1.67326319217681884765625}, {"gamma", 1.05070102214813232421875});
HR_DOUBLE("Softplus", Softplus, softplus(x));
HR_DOUBLE("Softsign", Softsign, x / (1 + std::fabs(x)));
HR_DOUBLE("Swish", Swish, x * sigmoid(a * x), {"alpha", 1});
HR_DOUBLE("ThresholdedRelu", ThresholdedRelu64, x > a ? x : 0, {"alpha", 1});

template <class T> struct Atan2 : Plain { using Plain::Plain; T operator()(T y, T x) const { return std::atan2(y, x); } };
template <class T> struct Hypot : Plain { using Plain::Plain; T operator()(T x, T y) const { return std::hypot(x, y); } };
template <class T> struct Left : Plain { using Plain::Plain; T operator()(T x, T n) const { return n < T(8 * sizeof(T)) ? T(x << n) : T(0); } };
template <class T> struct Right : Plain { using Plain::Plain; T operator()(T x, T n) const { return n < T(8 * sizeof(T)) ? T(x >> n) : T(0); } };
std::unique_ptr<Kernel> atan2(const NodeInfo& node) { return finish(node, binary_for<Atan2, float, double>(node.inputs[0]), {}, 2); }
std::unique_ptr<Kernel> hypot(const NodeInfo& node) { return finish(node, binary_for<Hypot, float, double>(node.inputs[0]), {}, 2); }
std::unique_ptr<Kernel> shift(const NodeInfo& node) {
    const DType t = node.inputs[0];
    return finish(node, node.s("direction", "") == "LEFT" ? binary_for<Left, uint8_t, uint16_t, uint32_t, uint64_t>(t) : binary_for<Right, uint8_t, uint16_t, uint32_t, uint64_t>(t), {}, 2);
}
HR_KERNEL("headrace.Atan2", atan2);
HR_KERNEL("headrace.Hypot", hypot);
HR_KERNEL("BitShift", shift);

}  // namespace
}  // namespace hr::HR_TIER
