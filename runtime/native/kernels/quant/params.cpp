#include "kernels/quant/params.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hr {

void ParamsRule::read_activation(const NodeInfo& node) {
    activation = node.s("activation", "");
    has_lo = activation == "Relu" || (activation == "Clip" && node.has("clip_min"));
    has_hi = activation == "Clip" && node.has("clip_max");
    lo = activation == "Clip" ? float(node.f("clip_min", 0)) : 0.0f;
    hi = float(node.f("clip_max", 0));
}

std::vector<int> ParamsRule::inputs() const {
    return {slots.x_scale, slots.x_zero, slots.w_scale, slots.w_zero, slots.y_scale, slots.y_zero, slots.bias, slots.r_scale, slots.r_zero, slots.real_bias};
}

void ParamsRule::fill_columns(Params& p, float* scale, float* bias, int32_t* col, int32_t* zero, const Tensor* x_scale, const Tensor* x_zero,
                              const Tensor* w_scale, const Tensor* w_zero, const Tensor* y_scale, const Tensor* y_zero, const Tensor* int_bias,
                              const Tensor* r_scale, const Tensor* r_zero, const Tensor* real_bias, const int32_t* col_sums) const {
    const auto size = [&](const Tensor* t) { return t ? t->count() : 0; };
    const auto fits = [&](const Tensor* t, const char* name) {
        const int64_t count = size(t);
        if (t && count != 1 && count != groups * n)
            throw std::invalid_argument(std::string(name) + " has " + std::to_string(count) + " values; allowed: 1 or " + std::to_string(groups * n));
    };
    fits(w_scale, "the weight's scale"), fits(w_zero, "the weight's zero point");
    if (int_bias && size(int_bias) != groups * n) throw std::invalid_argument("the bias is " + text(int_bias->shape) + " for " + std::to_string(groups * n) + " columns");
    if (real_bias && size(real_bias) != groups * n && size(real_bias) != 1)
        throw std::invalid_argument("the bias is " + text(real_bias->shape) + " for " + std::to_string(groups * n) + " columns");
    if (size(x_scale) > 1) throw std::invalid_argument("a scale for each row is not supported here");

    IntEpilogue& e = p.epilogue;
    e = IntEpilogue{};
    e.out = out;
    const bool bytes = table->item == 1;    // A as unsigned bytes, zero point still inside
    p.x_raw_zero = size(x_zero) == 1 ? int_at(x_zero, 0) : 0;
    p.x_zero = bytes ? p.x_raw_zero + (x_signed ? 128 : 0) : 0;
    const int32_t w_shift = !w_signed && shifted_weights ? 128 : 0;
    const float xs = x_scale ? x_scale->as<float>()[0] : 1.0f, ys = y_scale ? y_scale->as<float>()[0] : 1.0f;
    // Array by array, in loops without a choice inside: a dynamic product does this in every call.
    bool any_zero = false;
    std::fill_n(bias, groups * ld, 0.0f);
    std::fill_n(col, groups * ld, 0);
    for (int64_t g = 0; n && g < groups; g++) {
        const int64_t first = g * ld, from = g * n;
        float* s = scale + first;
        if (size(w_scale) > 1) std::copy_n(w_scale->as<float>() + from, n, s);
        else std::fill_n(s, n, w_scale ? w_scale->as<float>()[0] : 1.0f);
        if (x_scale)
            for (int64_t j = 0; j < n; j++) s[j] = xs * s[j];
        if (y_scale)
            for (int64_t j = 0; j < n; j++) s[j] /= ys;
        std::fill_n(s + n, ld - n, 0.0f);
        std::fill_n(zero + first, ld, 0);
        if (w_zero || w_shift)
            for (int64_t j = 0; j < n; j++) {
                zero[first + j] = int_at(w_zero, size(w_zero) == 1 ? 0 : from + j) - w_shift;
                any_zero |= zero[first + j] != 0;
            }
        if (int_bias) std::copy_n(int_bias->as<int32_t>() + from, n, col + first);
        if (size(real_bias) > 1) std::copy_n(real_bias->as<float>() + from, n, bias + first);
        else if (real_bias) std::fill_n(bias + first, n, real_bias->as<float>()[0]);
        for (int64_t j = 0; j < n; j++) col[first + j] -= p.x_zero * col_sums[first + j];
    }
    e.col = col;
    e.scale = scale;
    e.bias = real_bias || out == IntOut::f32 ? bias : nullptr;
    e.w_zero = any_zero ? zero : nullptr;
    const float inf = std::numeric_limits<float>::infinity();
    const float low = has_lo ? lo / ys : -inf, high = has_hi ? hi / ys : inf;
    e.act.lo = low, e.act.hi = high;
    if (out == IntOut::u8 || out == IntOut::i8) {
        e.zero = int_at(y_zero, 0);
        const float least = float((out == IntOut::i8 ? -128 : 0) - e.zero), most = float((out == IntOut::i8 ? 127 : 255) - e.zero);
        e.lo = std::min(std::max(low, least), most);
        e.hi = std::max(std::min(high, most), least);
        e.saturates = e.lo == least && e.hi == most;
        for (int64_t i = 0; i < groups * ld; i++) e.saturates &= std::abs(scale[i]) <= 0.5f;    // times a sum: 2^30
    }
    if (r_scale) {
        e.r_scale = r_scale->as<float>()[0];
        if (y_scale) e.r_scale /= ys;
        e.r_zero = int_at(r_zero, 0);
        e.r_signed = r_zero && r_zero->dtype == DType::i8;
        e.saturates &= std::abs(e.r_scale) <= 1 << 20;
    }
}

}  // namespace hr
