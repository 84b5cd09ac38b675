// Row functions by template, for one tier: included by the .cpp and .simd.cpp files of this folder only.
// A functor F<T> is made from the node's numbers and maps one element, or two.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/elementwise/broadcast.h"
#include "types.h"

namespace hr::HR_TIER {
namespace {

template <class T, class R, class F>
void unary_row(const Row& row) {
    const F f(row.f);
    const T* x = static_cast<const T*>(row.in[0]);
    R* y = static_cast<R*>(row.out);
    const int64_t n = row.n;    // not read through `row` in a loop: bytes that are written might be its own
    if (!row.moves[0]) {
        const R value = f(x[0]);
        for (int64_t i = 0; i < n; i++) y[i] = value;
        return;
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) y[i] = f(x[i]);
}

template <class T, class R, class F>
void binary_row(const Row& row) {
    const F f(row.f);
    const T *a = static_cast<const T*>(row.in[0]), *b = static_cast<const T*>(row.in[1]);
    R* y = static_cast<R*>(row.out);
    const int64_t n = row.n;
    if (row.moves[0] && row.moves[1]) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) y[i] = f(a[i], b[i]);
    } else if (row.moves[0]) {
        const T second = b[0];
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) y[i] = f(a[i], second);
    } else if (row.moves[1]) {
        const T first = a[0];
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) y[i] = f(first, b[i]);
    } else {
        const R value = f(a[0], b[0]);
        for (int64_t i = 0; i < n; i++) y[i] = value;
    }
}

// A functor without attributes.
struct Plain {
    explicit Plain(const double*) {}
};

template <class T> struct Add : Plain { using Plain::Plain; T operator()(T a, T b) const { return T(a + b); } };
template <class T> struct Sub : Plain { using Plain::Plain; T operator()(T a, T b) const { return T(a - b); } };
template <class T> struct Mul : Plain {
    using Plain::Plain;
    T operator()(T a, T b) const {
        if constexpr (std::is_integral_v<T>) return T(std::make_unsigned_t<T>(a) * uint64_t(std::make_unsigned_t<T>(b)));   // wraps
        else return a * b;
    }
};
template <class T> struct Div : Plain {
    using Plain::Plain;
    T operator()(T a, T b) const {
        if constexpr (std::is_integral_v<T>) {
            if (b == 0) return 0;
            if constexpr (std::is_signed_v<T>)
                if (b == T(-1)) return T(0 - std::make_unsigned_t<T>(a));   // the most negative wraps
            return T(a / b);
        } else {
            return a / b;
        }
    }
};
// NaN where either is NaN, as NumPy's maximum.
template <class T> struct Max : Plain { using Plain::Plain; T operator()(T a, T b) const { return a > b || a != a ? a : b; } };
template <class T> struct Min : Plain { using Plain::Plain; T operator()(T a, T b) const { return a < b || a != a ? a : b; } };
template <class T> struct PRelu : Plain { using Plain::Plain; T operator()(T x, T slope) const { return x < T(0) ? T(x * slope) : x; } };

template <class T> struct Equal : Plain { using Plain::Plain; bool operator()(T a, T b) const { return a == b; } };
template <class T> struct Less : Plain { using Plain::Plain; bool operator()(T a, T b) const { return a < b; } };
template <class T> struct LessOrEqual : Plain { using Plain::Plain; bool operator()(T a, T b) const { return a <= b; } };
template <class T> struct Greater : Plain { using Plain::Plain; bool operator()(T a, T b) const { return a > b; } };
template <class T> struct GreaterOrEqual : Plain { using Plain::Plain; bool operator()(T a, T b) const { return a >= b; } };

template <class T> struct Abs : Plain {
    using Plain::Plain;
    T operator()(T x) const {
        if constexpr (std::is_floating_point_v<T>) return std::fabs(x);
        else return x < T(0) ? T(0 - std::make_unsigned_t<T>(x)) : x;
    }
};
template <class T> struct Neg : Plain {
    using Plain::Plain;
    T operator()(T x) const {
        if constexpr (std::is_floating_point_v<T>) return -x;
        else return T(0 - std::make_unsigned_t<T>(x));
    }
};
template <class T> struct Sign : Plain { using Plain::Plain; T operator()(T x) const { return x != x ? x : T((x > T(0)) - (x < T(0))); } };
template <class T> struct Relu : Plain { using Plain::Plain; T operator()(T x) const { return x > T(0) || x != x ? x : T(0); } };
template <class T> struct Sqrt : Plain { using Plain::Plain; T operator()(T x) const { return std::sqrt(x); } };
template <class T> struct Reciprocal : Plain { using Plain::Plain; T operator()(T x) const { return T(1) / x; } };
template <class T> struct Floor : Plain { using Plain::Plain; T operator()(T x) const { return std::floor(x); } };
template <class T> struct Ceil : Plain { using Plain::Plain; T operator()(T x) const { return std::ceil(x); } };
template <class T> struct Round : Plain { using Plain::Plain; T operator()(T x) const { return std::nearbyint(x); } };
template <class T> struct IsNaN : Plain { using Plain::Plain; bool operator()(T x) const { return x != x; } };
template <class T> struct LeakyRelu {
    T alpha;
    explicit LeakyRelu(const double* f) : alpha(T(f[0])) {}
    T operator()(T x) const { return x < T(0) ? x * alpha : x; }
};
template <class T> struct ThresholdedRelu {
    T alpha;
    explicit ThresholdedRelu(const double* f) : alpha(T(f[0])) {}
    T operator()(T x) const { return x > alpha ? x : T(0); }
};
template <class T> struct HardSigmoid {
    T alpha, beta;
    explicit HardSigmoid(const double* f) : alpha(T(f[0])), beta(T(f[1])) {}
    T operator()(T x) const {
        T y = x * alpha + beta;
        y = y < T(0) ? T(0) : y;
        return y > T(1) ? T(1) : y;
    }
};
template <class T> struct HardSwish {
    HardSigmoid<T> gate;
    explicit HardSwish(const double*) : gate(kNumbers) {}
    T operator()(T x) const { return x * gate(x); }
    static constexpr double kNumbers[2] = {1.0 / 6, 0.5};
};

// The numbers of a node's attributes, in order.
struct Number {
    const char* name;
    double otherwise;
};

inline std::vector<double> numbers(const NodeInfo& node, std::initializer_list<Number> list) {
    std::vector<double> f;
    for (const Number& number : list) f.push_back(node.f(number.name, number.otherwise));
    return f;
}

// The row for the dtype of input 0 among Ts, or nullptr.
template <template <class> class F, class... Ts>
RowFn unary_for(DType dtype) {
    RowFn found = nullptr;
    ((dtype == code_of<Ts> ? void(found = unary_row<Ts, decltype(F<Ts>(nullptr)(Ts())), F<Ts>>) : void()), ...);
    return found;
}
template <template <class> class F, class... Ts>
RowFn binary_for(DType dtype) {
    RowFn found = nullptr;
    ((dtype == code_of<Ts> ? void(found = binary_row<Ts, decltype(F<Ts>(nullptr)(Ts(), Ts())), F<Ts>>) : void()), ...);
    return found;
}

}  // namespace
}  // namespace hr::HR_TIER
