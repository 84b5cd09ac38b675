// Normalizations of float32: layer, RMS, instance, group, Lp over rows; batch normalization by channel.
#include <algorithm>
#include <cmath>

#include "buffer.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/norm/softmax.inc.h"
#include "kernels/reduce/folds.inc.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

constexpr int kTogether = 4;    // rows

// y = (x - shift) * factor, elementwise scaled and moved: scale and bias repeat every `period` elements, or are null.
void apply(const float* x, float* y, int64_t n, float shift, float factor, const float* scale, const float* bias, int64_t period) {
    for (int64_t at = 0; at < n; at += period) {
        const int64_t m = std::min(period, n - at);
        const float* xs = x + at;
        float* ys = y + at;
        if (scale && bias) {
#pragma GCC ivdep
            for (int64_t i = 0; i < m; i++) ys[i] = (xs[i] - shift) * factor * scale[i] + bias[i];
        } else if (scale) {
#pragma GCC ivdep
            for (int64_t i = 0; i < m; i++) ys[i] = (xs[i] - shift) * factor * scale[i];
        } else {
#pragma GCC ivdep
            for (int64_t i = 0; i < m; i++) ys[i] = (xs[i] - shift) * factor;
        }
    }
}

// Sums of f(r, v) over the numbers v of kRows rows of n, `step` apart, in the order of sum_rows(); rows in step, since each waits for its own.
template <int kRows, class F> HR_INLINE void sums_of(const float* x, int64_t step, int64_t n, double (&total)[kRows], const F& f) {
    constexpr int kVecs = kLanesOfSum / kLanes;
    HR_UNROLL for (int r = 0; r < kRows; r++) total[r] = 0;
    for (int64_t at = 0; at < n; at += kBlock) {
        const int64_t end = std::min(at + kBlock, n);
        vf lanes[kRows][kVecs] = {};
        int64_t i = at;
        for (; i + kLanesOfSum <= end; i += kLanesOfSum)
            HR_UNROLL for (int v = 0; v < kVecs; v++) HR_UNROLL for (int r = 0; r < kRows; r++) lanes[r][v] += f(r, load(x + r * step + i + v * kLanes));
        HR_UNROLL for (int v = 0; v < kVecs; v++) {
            const int64_t width = std::min<int64_t>(kLanes, end - i - v * kLanes);
            if (width <= 0) break;
            const vi within = load(kLaneNumbers) < splat(int32_t(width));
            for (int r = 0; r < kRows; r++) lanes[r][v] += select(within, f(r, load_part(x + r * step + i + v * kLanes, width, 0)), vf{});
        }
        HR_UNROLL for (int r = 0; r < kRows; r++) {
            HR_UNROLL for (int half = kVecs / 2; half; half /= 2)
                HR_UNROLL for (int v = 0; v < half; v++) lanes[r][v] += lanes[r][v + half];
            total[r] += sum_of(lanes[r][0]);
        }
    }
}

template <int kRows> HR_INLINE void means_of(const float* x, int64_t step, int64_t n, float (&mean)[kRows]) {
    double total[kRows];
    sums_of(x, step, n, total, [](int, vf v) __attribute__((always_inline)) { return v; });
    HR_UNROLL for (int r = 0; r < kRows; r++) mean[r] = float(total[r]) / float(n);
}

// The mean of (x - mean)², block by block.
template <int kRows> HR_INLINE void variances_of(const float* x, int64_t step, int64_t n, const float (&mean)[kRows], float (&variance)[kRows]) {
    double total[kRows];
    sums_of(x, step, n, total, [&](int r, vf v) __attribute__((always_inline)) { return (v - splat(mean[r])) * (v - splat(mean[r])); });
    HR_UNROLL for (int r = 0; r < kRows; r++) variance[r] = float(total[r] / double(n));
}

// Whether a scale or bias repeats as it lies in memory: one number, or the last dimensions of x.
bool repeats(const Shape& v, const Shape& x) {
    bool fits = v.rank <= x.rank;
    for (int i = 1; fits && i <= v.rank; i++) fits = v[-i] == x[-i];
    return fits || v.count() == 1;
}

// v stretched over the shape of x.
void stretch(const Tensor& v, const Shape& x, float* to, ThreadPool& pool) {
    View view;
    int64_t strides[kMaxRank];
    strides_of(v.shape, sizeof(float), strides);
    for (int i = 0; i < x.rank; i++) {
        const int own = i - x.rank + v.shape.rank;
        view.push(x.d[i], 0, own < 0 || v.shape.d[own] == 1 ? 0 : strides[own]);
    }
    view.pack(sizeof(float));
    copy_strided(to, v.data, view, sizeof(float), pool);
}

// Outputs: Y, Mean?, InvStdDev?. RMS: no mean, no bias.
template <bool kRms>
class LayerNorm : public Kernel {
public:
    explicit LayerNorm(const NodeInfo& node) : axis_(node.i("axis", -1)), epsilon_(float(node.f("epsilon", 1e-5))) {}
    bool in_place(int i) const override { return i == 0; }
    std::string variant() const override { return kRms ? "rms_norm_f32" : "layer_norm_f32"; }
    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        const int axis = resolve_axis(axis_, x.rank);
        for (int i = 1; i < 3; i++)
            if (c.has(i) && broadcast_shapes(c.in(i).shape, x) != x) throw std::invalid_argument((i == 1 ? "Scale " : "B ") + text(c.in(i).shape) + " does not fit " + text(x));
        if (!plain(c.inputs, c.n_inputs)) c.scratch = aligned(size_t(x.count()) * sizeof(float)) * (c.has(2) ? 2 : 1);
        c.out(0, DType::f32, x);
        Shape kept = x;
        for (int i = axis; i < x.rank; i++) kept.d[i] = 1;
        c.out(1, DType::f32, kept);
        c.out(2, DType::f32, kept);
    }
    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int axis = resolve_axis(axis_, s.rank);
        const int64_t n = s.count(axis, s.rank), rows = s.count(0, axis);
        const float *x = c.in(0).as<float>(), *scale = c.in(1).as<float>(), *bias = c.has(2) ? c.in(2).as<float>() : nullptr;
        int64_t period = std::max<int64_t>(1, c.in(1).count());
        if (!n) return;
        if (!plain(c.inputs, c.n_inputs)) {
            float* wide = static_cast<float*>(c.scratch);
            stretch(c.in(1), s, wide, *c.pool), scale = wide;
            if (bias) wide += aligned(size_t(s.count()) * sizeof(float)) / sizeof(float), stretch(c.in(2), s, wide, *c.pool), bias = wide;
            period = s.count();
        }
        float* means = c.n_outputs > 1 ? c.out(1).template as<float>() : nullptr;
        float* inverses = c.n_outputs > 2 ? c.out(2).template as<float>() : nullptr;
        c.pool->parallel(rows, std::max<int64_t>(1, 8192 / n), [&](int64_t begin, int64_t end) {
            const auto several = [&](int64_t row, auto count) {
                constexpr int kRows = count.value;
                float mean[kRows] = {}, variance[kRows];
                if (!kRms) means_of(x + row * n, n, n, mean);
                variances_of(x + row * n, n, n, mean, variance);
                for (int r = 0; r < kRows; r++, row++) {
                    const float inverse = 1.0f / std::sqrt(variance[r] + epsilon_);
                    const int64_t from = row * n % period;      // not 0 where they cover more than what is normalized
                    apply(x + row * n, c.out(0).template as<float>() + row * n, n, mean[r], inverse, scale + from, bias ? bias + from : nullptr, period);
                    if (means) means[row] = mean[r];
                    if (inverses) inverses[row] = inverse;
                }
            };
            int64_t row = begin;
            for (; row + kTogether <= end; row += kTogether) several(row, std::integral_constant<int, kTogether>());
            for (; row < end; row++) several(row, std::integral_constant<int, 1>());
        });
    }

private:
    // Whether scale and bias are read where they lie: both repeat, with one period.
    static bool plain(const Tensor* in, int n) {
        const bool bias = n > 2 && in[2];
        return repeats(in[1].shape, in[0].shape) && (!bias || (repeats(in[2].shape, in[0].shape) && in[2].count() == in[1].count()));
    }

    int64_t axis_;
    float epsilon_;
};

// Instance normalization is group normalization with one channel a group.
class GroupNorm : public Kernel {
public:
    explicit GroupNorm(const NodeInfo& node) : groups_(node.i("num_groups", 0)), epsilon_(float(node.f("epsilon", 1e-5))) {}
    bool in_place(int i) const override { return i == 0; }
    std::string variant() const override { return "group_norm_f32"; }
    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        if (x.rank < 2) throw std::invalid_argument("the input must be [N, C, ...], not " + text(x));
        if (groups_ && x.d[1] % groups_) throw std::invalid_argument(std::to_string(groups_) + " groups do not divide " + text(x));
        if (c.in(1).count() != x.d[1] || c.in(2).count() != x.d[1]) throw std::invalid_argument("scale and bias must have one number for each channel of " + text(x));
        c.out(0, DType::f32, x);
    }
    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int64_t area = s.count(2, s.rank), groups = groups_ ? groups_ : s.d[1], channels = groups ? s.d[1] / groups : 0, n = channels * area;
        const float *x = c.in(0).as<float>(), *scale = c.in(1).as<float>(), *bias = c.in(2).as<float>();
        if (!s.count()) return;
        c.pool->parallel(s.d[0] * groups, std::max<int64_t>(1, 8192 / n), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                float mean[1], variance[1];
                means_of(x + at * n, n, n, mean), variances_of(x + at * n, n, n, mean, variance);
                const float inverse = 1.0f / std::sqrt(variance[0] + epsilon_);
                for (int64_t k = 0; k < channels; k++) {
                    const int64_t channel = at % groups * channels + k;
                    const float factor = inverse * scale[channel], b = bias[channel];
                    const float* from = x + at * n + k * area;
                    float* to = c.out(0).as<float>() + at * n + k * area;
#pragma GCC ivdep
                    for (int64_t i = 0; i < area; i++) to[i] = (from[i] - mean[0]) * factor + b;
                }
            }
        });
    }

private:
    int64_t groups_;
    float epsilon_;
};

class BatchNorm : public Kernel {
public:
    explicit BatchNorm(const NodeInfo& node) : epsilon_(float(node.f("epsilon", 1e-5))) {}
    bool in_place(int i) const override { return i == 0; }
    std::string variant() const override { return "batch_norm_f32"; }
    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        if (x.rank < 2) throw std::invalid_argument("the input must be [N, C, ...], not " + text(x));
        for (int i = 1; i < 5; i++)
            if (c.in(i).count() != x.d[1]) throw std::invalid_argument("input " + std::to_string(i) + " must have one number for each channel of " + text(x));
        c.out(0, DType::f32, x);
    }
    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int64_t channels = s.d[1], area = s.count(2, s.rank);
        const float *x = c.in(0).as<float>(), *scale = c.in(1).as<float>(), *bias = c.in(2).as<float>(), *mean = c.in(3).as<float>(), *variance = c.in(4).as<float>();
        float* y = c.out(0).as<float>();
        if (!s.count()) return;
        c.pool->parallel(s.d[0] * channels, std::max<int64_t>(1, 16384 / area), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                const int64_t k = at % channels;
                const float factor = scale[k] / std::sqrt(variance[k] + epsilon_), m = mean[k], b = bias[k];
#pragma GCC ivdep
                for (int64_t i = at * area; i < (at + 1) * area; i++) y[i] = (x[i] - m) * factor + b;
            }
        });
    }

private:
    float epsilon_;
};

// x / |x| along an axis; a norm of 0 leaves zeros.
class LpNorm : public Kernel {
public:
    explicit LpNorm(const NodeInfo& node) : axis_(node.i("axis", -1)), p_(node.i("p", 2)) {}
    std::string variant() const override { return "lp_norm_f32"; }
    void shape(ShapeContext& c) const override {
        resolve_axis(axis_, c.in(0).shape.rank);
        c.out(0, DType::f32, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int axis = resolve_axis(axis_, s.rank);
        const int64_t n = s.d[axis], inner = s.count(axis + 1, s.rank);
        const float* x = c.in(0).as<float>();
        float* y = c.out(0).as<float>();
        c.pool->parallel(s.count(0, axis), std::max<int64_t>(1, 8192 / std::max<int64_t>(1, n * inner)), [&](int64_t begin, int64_t end) {
            Temporary<float> norms(static_cast<size_t>(inner));
            for (int64_t o = begin; o < end; o++) {
                const float* from = x + o * n * inner;
                const auto rows = p_ == 1 ? sum_rows<float, AbsOf<float>> : sum_rows<float, SquareOf<float>>;
                const auto columns = p_ == 1 ? sum_columns<float, AbsOf<float>> : sum_columns<float, SquareOf<float>>;
                if (inner == 1) rows(from, norms.data(), 1, n);
                else
                    for (int64_t at = 0; at < inner; at += kTileColumns) columns(from, norms.data(), n, inner, at, std::min(inner, at + kTileColumns));
                for (float& norm : norms) {
                    if (p_ == 2) norm = std::sqrt(norm);
                    if (norm == 0) norm = 1;
                }
                float* to = y + o * n * inner;
                if (inner == 1) {
                    for (int64_t i = 0; i < n; i++) to[i] = from[i] / norms[0];
                    continue;
                }
                for (int64_t i = 0; i < n; i++)
                    for (int64_t k = 0; k < inner; k++) to[i * inner + k] = from[i * inner + k] / norms[size_t(k)];
            }
        });
    }

private:
    int64_t axis_, p_;
};

bool all_f32(const NodeInfo& node) {
    return std::all_of(node.inputs.begin(), node.inputs.end(), [](DType t) { return t == DType::f32 || t == DType::none; });
}
std::unique_ptr<Kernel> layer_norm(const NodeInfo& node) {
    return all_f32(node) && node.i("stash_type", 1) == 1 ? std::make_unique<LayerNorm<false>>(node) : nullptr;
}
std::unique_ptr<Kernel> rms_norm(const NodeInfo& node) {
    return all_f32(node) && node.outputs[0] == DType::f32 && node.i("stash_type", 1) == 1 ? std::make_unique<LayerNorm<true>>(node) : nullptr;
}
std::unique_ptr<Kernel> group_norm(const NodeInfo& node) { return all_f32(node) && node.i("stash_type", 1) == 1 ? std::make_unique<GroupNorm>(node) : nullptr; }
std::unique_ptr<Kernel> batch_norm(const NodeInfo& node) {
    for (size_t i = 1; i < node.outputs.size(); i++)
        if (node.outputs[i] != DType::none) return nullptr;
    node.known({"momentum"});
    return all_f32(node) && !node.i("training_mode", 0) ? std::make_unique<BatchNorm>(node) : nullptr;
}
std::unique_ptr<Kernel> lp_norm(const NodeInfo& node) { return all_f32(node) ? std::make_unique<LpNorm>(node) : nullptr; }

HR_KERNEL("LayerNormalization", layer_norm);
HR_KERNEL("RMSNormalization", rms_norm);
HR_KERNEL("InstanceNormalization", group_norm);
HR_KERNEL("GroupNormalization", group_norm);
HR_KERNEL("BatchNormalization", batch_norm);
HR_KERNEL("LpNormalization", lp_norm);

}  // namespace
}  // namespace hr::HR_TIER
