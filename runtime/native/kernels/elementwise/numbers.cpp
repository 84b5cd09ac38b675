// Elementwise kernels of float64, integers and bool.
#include "kernels/elementwise/rows.inc.h"

namespace hr::HR_TIER {
namespace {

#define HR_INTEGERS int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
#define HR_SIGNED int8_t, int16_t, int32_t, int64_t

std::unique_ptr<Kernel> finish(const NodeInfo& node, RowFn row, std::vector<double> f, int operands, bool variadic = false) {
    for (DType other : node.inputs)
        if (other != node.inputs[0]) return nullptr;
    if (!row) return nullptr;
    Elementwise what;
    what.operands = operands, what.row = row, what.f = std::move(f), what.variadic = variadic;
    if (node.outputs[0] == DType::boolean) what.out = DType::boolean;
    what.shaped_like_first = node.op == "PRelu";
    return make_elementwise(node, std::move(what));
}

template <template <class> class F, class... Ts>
std::unique_ptr<Kernel> unary(const NodeInfo& node) {
    return finish(node, unary_for<F, Ts...>(node.inputs[0]), numbers(node, {{"alpha", 1}, {"beta", 0}}), 1);
}
template <template <class> class F, class... Ts>
std::unique_ptr<Kernel> binary(const NodeInfo& node) {
    return finish(node, binary_for<F, Ts...>(node.inputs[0]), {}, 2);
}
template <template <class> class F, class... Ts>
std::unique_ptr<Kernel> folded(const NodeInfo& node) {
    return finish(node, binary_for<F, Ts...>(node.inputs[0]), {}, 2, true);
}

// Of bool, as the bytes 0 and 1 that they are: the compiler makes vectors of those.
template <class F, int operands>
std::unique_ptr<Kernel> logic(const NodeInfo& node) {
    if (node.inputs[0] != DType::boolean) return nullptr;
    return finish(node, operands == 1 ? unary_row<uint8_t, uint8_t, F> : binary_row<uint8_t, uint8_t, F>, {}, operands);
}
struct And : Plain { using Plain::Plain; uint8_t operator()(uint8_t a, uint8_t b = 1) const { return a & b; } };
struct Or : Plain { using Plain::Plain; uint8_t operator()(uint8_t a, uint8_t b = 0) const { return a | b; } };
struct Xor : Plain { using Plain::Plain; uint8_t operator()(uint8_t a, uint8_t b = 1) const { return a ^ b; } };

template <class T> struct BitAnd : Plain { using Plain::Plain; T operator()(T a, T b) const { return T(a & b); } };
template <class T> struct BitOr : Plain { using Plain::Plain; T operator()(T a, T b) const { return T(a | b); } };
template <class T> struct BitXor : Plain { using Plain::Plain; T operator()(T a, T b) const { return T(a ^ b); } };
template <class T> struct BitNot : Plain { using Plain::Plain; T operator()(T x) const { return T(~x); } };
template <class T> struct Pow : Plain { using Plain::Plain; T operator()(T a, T b) const { return std::pow(a, b); } };
template <class T> struct Exp : Plain { using Plain::Plain; T operator()(T x) const { return std::exp(x); } };
template <class T> struct Log : Plain { using Plain::Plain; T operator()(T x) const { return std::log(x); } };
template <class T> struct Tanh : Plain { using Plain::Plain; T operator()(T x) const { return std::tanh(x); } };
template <class T> struct Erf : Plain { using Plain::Plain; T operator()(T x) const { return std::erf(x); } };
template <class T> struct Sin : Plain { using Plain::Plain; T operator()(T x) const { return std::sin(x); } };
template <class T> struct Cos : Plain { using Plain::Plain; T operator()(T x) const { return std::cos(x); } };
template <class T> struct Sigmoid : Plain {
    using Plain::Plain;
    T operator()(T x) const {
        const T e = std::exp(-std::fabs(x));
        return x >= 0 ? 1 / (1 + e) : e / (1 + e);
    }
};
// fmod 0: the sign of the divisor; fmod 1: the sign of the dividend. An integer modulo 0 is 0.
template <class T> T modulo(T a, T b, bool fmod) {
    if constexpr (std::is_floating_point_v<T>) {
        T r = std::fmod(a, b);
        if (!fmod && r != 0 && (r < 0) != (b < 0)) r += b;
        if (!fmod && r == 0) r = std::copysign(T(0), b);
        return r;
    } else {
        if (b == 0 || (std::is_signed_v<T> && b == T(-1))) return 0;
        T r = T(a % b);
        if (!fmod && r != 0 && (r < 0) != (b < 0)) r = T(r + b);
        return r;
    }
}
template <class T> struct Mod : Plain { using Plain::Plain; T operator()(T a, T b) const { return modulo(a, b, false); } };
template <class T> struct FMod : Plain { using Plain::Plain; T operator()(T a, T b) const { return modulo(a, b, true); } };
std::unique_ptr<Kernel> mod(const NodeInfo& node) {
    return node.i("fmod", 0) ? binary<FMod, float, double, HR_INTEGERS>(node) : binary<Mod, float, double, HR_INTEGERS>(node);
}

#define HR_ROW(op, kind, functor, ...) \
    std::unique_ptr<Kernel> HR_CAT(make_, functor)(const NodeInfo& node) { return kind<functor, __VA_ARGS__>(node); } \
    HR_KERNEL(op, HR_CAT(make_, functor))
HR_ROW("Add", binary, Add, double, HR_INTEGERS);
HR_ROW("Sub", binary, Sub, double, HR_INTEGERS);
HR_ROW("Mul", binary, Mul, double, HR_INTEGERS);
HR_ROW("Div", binary, Div, double, HR_INTEGERS);
HR_ROW("Pow", binary, Pow, double);
HR_ROW("PRelu", binary, PRelu, double, int32_t, int64_t, uint32_t, uint64_t);
HR_ROW("Max", folded, Max, double, HR_INTEGERS);
HR_ROW("Min", folded, Min, double, HR_INTEGERS);
HR_ROW("Equal", binary, Equal, double, HR_INTEGERS, bool);
HR_ROW("Less", binary, Less, double, HR_INTEGERS);
HR_ROW("LessOrEqual", binary, LessOrEqual, double, HR_INTEGERS);
HR_ROW("Greater", binary, Greater, double, HR_INTEGERS);
HR_ROW("GreaterOrEqual", binary, GreaterOrEqual, double, HR_INTEGERS);
HR_KERNEL("And", (logic<And, 2>));
HR_KERNEL("Or", (logic<Or, 2>));
HR_KERNEL("Xor", (logic<Xor, 2>));
HR_KERNEL("Not", (logic<Xor, 1>));      // exclusive or with 1
HR_ROW("BitwiseAnd", binary, BitAnd, HR_INTEGERS);
HR_ROW("BitwiseOr", binary, BitOr, HR_INTEGERS);
HR_ROW("BitwiseXor", binary, BitXor, HR_INTEGERS);
HR_ROW("BitwiseNot", unary, BitNot, HR_INTEGERS);
HR_ROW("Abs", unary, Abs, double, HR_INTEGERS);
HR_ROW("Neg", unary, Neg, double, HR_SIGNED);
HR_ROW("Sign", unary, Sign, double, HR_INTEGERS);
HR_ROW("Relu", unary, Relu, double, HR_SIGNED);
HR_ROW("Sqrt", unary, Sqrt, double);
HR_ROW("Reciprocal", unary, Reciprocal, double);
HR_ROW("Floor", unary, Floor, double);
HR_ROW("Ceil", unary, Ceil, double);
HR_ROW("Round", unary, Round, double);
HR_ROW("IsNaN", unary, IsNaN, double);
HR_ROW("LeakyRelu", unary, LeakyRelu, double);
HR_ROW("Exp", unary, Exp, double);
HR_ROW("Log", unary, Log, double);
HR_ROW("Tanh", unary, Tanh, double);
HR_ROW("Erf", unary, Erf, double);
HR_ROW("Sigmoid", unary, Sigmoid, double);
HR_ROW("Sin", unary, Sin, float, double);
HR_ROW("Cos", unary, Cos, float, double);
HR_KERNEL("Mod", mod);

std::unique_ptr<Kernel> sum(const NodeInfo& node) { return folded<Add, double>(node); }
HR_KERNEL("Sum", sum);

}  // namespace
}  // namespace hr::HR_TIER
