// Folds by template, for one tier. Sums of floats run over blocks in the element type; block sums add up in float64.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/reduce/reduce.h"
#include "types.h"

namespace hr::HR_TIER {
namespace {

template <class T> struct Id { static T of(T x) { return x; } };
template <class T> struct AbsOf { static T of(T x) { return std::is_floating_point_v<T> ? T(std::fabs(double(x))) : T(x < T(0) ? 0 - x : x); } };
template <> struct AbsOf<float> { static float of(float x) { return __builtin_fabsf(x); } };
template <class T> struct SquareOf { static T of(T x) { return T(x * x); } };

constexpr int64_t kLanesOfSum = 32, kBlock = 1024;
constexpr int64_t kTileColumns = 256;    // as the driver cuts them

template <class T>
using Total = std::conditional_t<std::is_floating_point_v<T>, double, T>;

template <class T, class Pre>
void sum_rows(const void* px, void* py, int64_t n, int64_t r) {
    const T* x = static_cast<const T*>(px);
    T* y = static_cast<T*>(py);
    for (int64_t row = 0; row < n; row++, x += r) {
        Total<T> total = 0;
        for (int64_t at = 0; at < r; at += kBlock) {
            const int64_t end = at + kBlock < r ? at + kBlock : r;
            T lanes[kLanesOfSum] = {};
            int64_t i = at;
            for (; i + kLanesOfSum <= end; i += kLanesOfSum)
                for (int64_t k = 0; k < kLanesOfSum; k++) lanes[k] = T(lanes[k] + Pre::of(x[i + k]));
            for (int64_t k = 0; i < end; i++, k++) lanes[k] = T(lanes[k] + Pre::of(x[i]));
            for (int64_t half = kLanesOfSum / 2; half; half /= 2)
                for (int64_t k = 0; k < half; k++) lanes[k] = T(lanes[k] + lanes[k + half]);
            total += lanes[0];
        }
        y[row] = T(total);
    }
}

template <class T, class Pre>
void sum_columns(const void* px, void* py, int64_t r, int64_t inner, int64_t from, int64_t to) {
    const T* x = static_cast<const T*>(px) + from;
    T* y = static_cast<T*>(py);
    const int64_t n = to - from;
    Total<T> total[kTileColumns] = {};
    for (int64_t at = 0; at < r; at += 64) {
        T block[kTileColumns] = {};
        const int64_t end = at + 64 < r ? at + 64 : r;
        for (int64_t row = at; row < end; row++)
            for (int64_t i = 0; i < n; i++) block[i] = T(block[i] + Pre::of(x[row * inner + i]));
        for (int64_t i = 0; i < n; i++) total[i] += block[i];
    }
    for (int64_t i = 0; i < n; i++) y[from + i] = T(total[i]);
}

template <class T> constexpr T lowest() { return std::is_floating_point_v<T> ? T(-std::numeric_limits<T>::infinity()) : std::numeric_limits<T>::lowest(); }
template <class T> constexpr T highest() { return std::is_floating_point_v<T> ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max(); }
template <class T> struct MaxOf { static constexpr T start = lowest<T>(); static T of(T a, T b) { const T m = a > b ? a : b; return a != a ? a : m; } };
template <class T> struct MinOf { static constexpr T start = highest<T>(); static T of(T a, T b) { const T m = a < b ? a : b; return a != a ? a : m; } };
template <class T> struct ProductOf { static constexpr T start = T(1); static T of(T a, T b) { return T(a * b); } };

template <class T, class Op>
void fold_rows(const void* px, void* py, int64_t n, int64_t r) {
    const T* x = static_cast<const T*>(px);
    T* y = static_cast<T*>(py);
    for (int64_t row = 0; row < n; row++, x += r) {
        T lanes[kLanesOfSum];
        for (T& lane : lanes) lane = Op::start;
        int64_t i = 0;
        for (; i + kLanesOfSum <= r; i += kLanesOfSum)
            for (int64_t k = 0; k < kLanesOfSum; k++) lanes[k] = Op::of(lanes[k], x[i + k]);
        for (int64_t k = 0; i < r; i++, k++) lanes[k] = Op::of(lanes[k], x[i]);
        for (int64_t half = kLanesOfSum / 2; half; half /= 2)
            for (int64_t k = 0; k < half; k++) lanes[k] = Op::of(lanes[k], lanes[k + half]);
        y[row] = lanes[0];
    }
}

template <class T, class Op>
void fold_columns(const void* px, void* py, int64_t r, int64_t inner, int64_t from, int64_t to) {
    const T* x = static_cast<const T*>(px) + from;
    T block[kTileColumns];
    const int64_t n = to - from;
    for (int64_t i = 0; i < n; i++) block[i] = Op::start;
    for (int64_t row = 0; row < r; row++)
        for (int64_t i = 0; i < n; i++) block[i] = Op::of(block[i], x[row * inner + i]);
    for (int64_t i = 0; i < n; i++) static_cast<T*>(py)[from + i] = block[i];
}

// log(sum(exp(x))) by the largest element, so that nothing overflows; itself a fold: it may run over its own results.
template <class T>
T log_sum_exp(const T* x, int64_t r, int64_t step) {
    T top = MaxOf<T>::start;
    for (int64_t i = 0; i < r; i++) top = MaxOf<T>::of(top, x[i * step]);
    if (!std::isfinite(top)) top = 0;
    double total = 0;
    for (int64_t i = 0; i < r; i++) total += std::exp(x[i * step] - top);
    return T(std::log(total)) + top;
}
template <class T>
void lse_rows(const void* px, void* py, int64_t n, int64_t r) {
    for (int64_t row = 0; row < n; row++) static_cast<T*>(py)[row] = log_sum_exp(static_cast<const T*>(px) + row * r, r, 1);
}
template <class T>
void lse_columns(const void* px, void* py, int64_t r, int64_t inner, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) static_cast<T*>(py)[i] = log_sum_exp(static_cast<const T*>(px) + i, r, inner);
}

template <class T>
void finish_mean(void* py, int64_t n, int64_t count) {
    T* y = static_cast<T*>(py);
    for (int64_t i = 0; i < n; i++) {
        if constexpr (std::is_integral_v<T>) y[i] = count ? T(y[i] / T(count)) : T(0);
        else y[i] /= T(count);
    }
}
template <class T>
void finish_root(void* py, int64_t n, int64_t) {
    for (int64_t i = 0; i < n; i++) static_cast<T*>(py)[i] = std::sqrt(static_cast<T*>(py)[i]);
}
template <class T>
void finish_log(void* py, int64_t n, int64_t) {
    for (int64_t i = 0; i < n; i++) static_cast<T*>(py)[i] = std::log(static_cast<T*>(py)[i]);
}

template <class T, class Pre>
Reduction sum_of(void (*finish)(void*, int64_t, int64_t) = nullptr) {
    return {{sum_rows<T, Pre>, sum_columns<T, Pre>}, {sum_rows<T, Id<T>>, sum_columns<T, Id<T>>}, finish, false, ""};
}
template <class T, class Op>
Reduction fold_of() {
    const Fold fold{fold_rows<T, Op>, fold_columns<T, Op>};
    return {fold, fold, nullptr, false, ""};
}

// The reduction that an operator means for elements T.
template <class T>
bool reduction_of(const std::string& op, Reduction& out) {
    if (op == "ReduceSum") out = sum_of<T, Id<T>>();
    else if (op == "ReduceMean" || op == "GlobalAveragePool") out = sum_of<T, Id<T>>(finish_mean<T>);
    else if (op == "ReduceL1") out = sum_of<T, AbsOf<T>>();
    else if (op == "ReduceSumSquare") out = sum_of<T, SquareOf<T>>();
    else if (op == "ReduceMax" || op == "GlobalMaxPool") out = fold_of<T, MaxOf<T>>();
    else if (op == "ReduceMin") out = fold_of<T, MinOf<T>>();
    else if (op == "ReduceProd") out = fold_of<T, ProductOf<T>>();
    else if (std::is_floating_point_v<T> && op == "ReduceL2") out = sum_of<T, SquareOf<T>>(finish_root<T>);
    else if (std::is_floating_point_v<T> && op == "ReduceLogSum") out = sum_of<T, Id<T>>(finish_log<T>);
    else if constexpr (std::is_floating_point_v<T>) {
        if (op != "ReduceLogSumExp") return false;
        const Fold fold{lse_rows<T>, lse_columns<T>};
        out = {fold, fold, nullptr, false, ""};
    } else return false;
    out.spatial = op[0] == 'G';
    return true;
}

template <class... Ts>
std::unique_ptr<Kernel> reduction(const NodeInfo& node, const char* variant) {
    Reduction found;
    bool ok = false;
    ((node.inputs[0] == code_of<Ts> ? void(ok = reduction_of<Ts>(node.op, found)) : void()), ...);
    if (!ok) return nullptr;
    found.variant = variant;
    return make_reduction(node, std::move(found));
}

#define HR_REDUCTIONS(factory) \
    HR_KERNEL("ReduceSum", factory); HR_KERNEL("ReduceMean", factory); HR_KERNEL("ReduceL1", factory); \
    HR_KERNEL("ReduceL2", factory); HR_KERNEL("ReduceSumSquare", factory); HR_KERNEL("ReduceLogSum", factory); HR_KERNEL("ReduceLogSumExp", factory); \
    HR_KERNEL("ReduceMax", factory); HR_KERNEL("ReduceMin", factory); HR_KERNEL("ReduceProd", factory); \
    HR_KERNEL("GlobalAveragePool", factory); HR_KERNEL("GlobalMaxPool", factory)

}  // namespace
}  // namespace hr::HR_TIER
