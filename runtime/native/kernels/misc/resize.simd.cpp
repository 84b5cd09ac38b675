// Resize: nearest for every element type, linear and cubic for float32, axis by axis as the reference does.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "buffer.h"
#include "kernels/elementwise/broadcast.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

// One resampled axis: output element i is the sum over k of factors[i * taps + k] * x[places[i * taps + k]].
struct Resampling {
    Resampling(int axis, int64_t count, int taps) : axis(axis), taps(taps), places(size_t(count * taps)), factors(size_t(count * taps)) {}
    int axis, taps;
    Temporary<int64_t> places;
    Temporary<float> factors;
};

class Resize : public Kernel {
public:
    explicit Resize(const NodeInfo& node)
        : axes_(node.ints("axes")), coordinates_(node.s("coordinate_transformation_mode", "half_pixel")), mode_(node.s("mode", "nearest")),
          nearest_(node.s("nearest_mode", "round_prefer_floor")), a_(node.f("cubic_coeff_a", -0.75)),
          policy_(node.s("keep_aspect_ratio_policy", "stretch")), antialias_(node.i("antialias", 0)), exclude_outside_(node.i("exclude_outside", 0)) {}

    bool needs_value(int i) const override { return i > 0; }
    std::string variant() const override { return "resize_" + mode_; }

    void shape(ShapeContext& c) const override {
        int64_t counts[kMaxRank];
        double scales[kMaxRank];
        read(c.inputs, c.n_inputs, counts, scales);
        Shape to;
        const Shape& from = c.in(0).shape;
        for (int i = 0; i < from.rank; i++) {
            to.push(counts[i]);
            if (counts[i] && c.in(0).shape.d[i] == 0) throw std::invalid_argument("an empty axis cannot be resampled");
        }
        c.out(0, c.in(0).dtype, to);
        const Steps steps(from, to, scales, item_size(c.in(0).dtype));
        c.scratch = steps.bytes * size_t(std::clamp(steps.n - 1, 0, 2));
    }

    void run(RunContext& c) const override {
        int64_t counts[kMaxRank];
        double scales[kMaxRank];
        read(c.inputs, c.n_inputs, counts, scales);
        if (!c.out(0).count()) return;
        const Steps steps(c.in(0).shape, c.out(0).shape, scales, item_size(c.in(0).dtype));
        if (!steps.n) {
            std::memcpy(c.out(0).data, c.in(0).data, c.out(0).bytes());
            return;
        }
        Shape now = c.in(0).shape;
        const char* from = c.in(0).as<char>();
        char* scratch = static_cast<char*>(c.scratch);
        for (int k = 0; k < steps.n; k++) {
            const int axis = steps.axes[k];
            Resampling step(axis, counts[axis], taps(scales[axis]));
            fill(step, now.d[axis], counts[axis], scales[axis]);
            char* to = k + 1 == steps.n ? c.out(0).as<char>() : scratch + size_t(k % 2) * steps.bytes;
            if (mode_ == "nearest") pick(from, to, now, step, item_size(c.in(0).dtype), *c.pool);
            else blend(reinterpret_cast<const float*>(from), reinterpret_cast<float*>(to), now, step, *c.pool);
            now.d[axis] = counts[axis];
            from = to;
        }
    }

private:
    // The axes in their order; what comes of all but the last lies in scratch, by turns in two places.
    struct Steps {
        int axes[kMaxRank], n = 0;
        size_t bytes = 0;       // of a place
        Steps(const Shape& from, const Shape& to, const double* scales, size_t item) {
            // Where the tensor grows, the last axis goes first: the others then copy or blend whole rows.
            const bool grows = to.count() > from.count();
            for (int k = 0; k < from.rank; k++) {
                const int axis = grows ? from.rank - 1 - k : k;
                if (to.d[axis] != from.d[axis] || scales[axis] != 1) axes[n++] = axis;
            }
            Shape now = from;
            for (int k = 0; k + 1 < n; k++) now.d[axes[k]] = to.d[axes[k]], bytes = std::max(bytes, aligned(size_t(now.count()) * item));
        }
    };

    // Inputs: X, roi?, scales?, sizes?; an empty tensor is an absent one.
    void read(const Tensor* in, int n, int64_t* counts, double* scales) const {
        const Shape& x = in[0].shape;
        const auto given = [&](int i) { return i < n && in[i] && in[i].count() > 0; };
        if (given(2) == given(3)) throw std::invalid_argument("Resize needs either scales or sizes");
        const int64_t listed = axes_.empty() ? x.rank : int64_t(axes_.size());
        if ((given(2) ? in[2] : in[3]).count() != listed) throw std::invalid_argument("scales or sizes must have " + std::to_string(listed) + " elements");
        for (int i = 0; i < x.rank; i++) counts[i] = x.d[i], scales[i] = 1;
        for (int64_t k = 0; k < listed; k++) {
            const int axis = axes_.empty() ? int(k) : resolve_axis(axes_[size_t(k)], x.rank);
            if (given(2)) {
                scales[axis] = in[2].as<float>()[k];
                counts[axis] = int64_t(std::floor(double(x.d[axis]) * scales[axis]));
            } else {
                counts[axis] = in[3].as<int64_t>()[k];
                scales[axis] = double(counts[axis]) / double(x.d[axis]);
            }
            if (given(3) && policy_ != "stretch") continue;
            if (!(scales[axis] > 0) || counts[axis] < 0 || counts[axis] > (int64_t(1) << 40)) throw std::invalid_argument("scales must be more than 0");
        }
        if (given(3) && policy_ != "stretch") keep_ratio(x, listed, counts, scales);
    }

    // One factor for all axes: the smallest or the largest of those asked for.
    void keep_ratio(const Shape& x, int64_t listed, int64_t* counts, double* scales) const {
        const auto axis_at = [&](int64_t k) { return axes_.empty() ? int(k) : resolve_axis(axes_[size_t(k)], x.rank); };
        double factor = scales[axis_at(0)];
        for (int64_t k = 1; k < listed; k++) factor = policy_ == "not_larger" ? std::min(factor, scales[axis_at(k)]) : std::max(factor, scales[axis_at(k)]);
        for (int64_t k = 0; k < listed; k++) {
            const int axis = axis_at(k);
            scales[axis] = factor, counts[axis] = int64_t(std::floor(factor * double(x.d[axis]) + 0.5));
            if (!(factor > 0) || counts[axis] > (int64_t(1) << 40)) throw std::invalid_argument("scales must be more than 0");
        }
    }

    double place(int64_t i, double size, double count, double scale) const {
        const double x = double(i), length = scale * size;
        if (coordinates_ == "align_corners") return length != 1 ? x * (size - 1) / (length - 1) : 0;
        if (coordinates_ == "asymmetric") return x / scale;
        if (coordinates_ == "pytorch_half_pixel") return length != 1 ? (x + 0.5) / scale - 0.5 : -0.5;
        if (coordinates_ == "half_pixel_symmetric") return size / 2 * (1 - count / length) + (x + 0.5) / scale - 0.5;
        if (coordinates_ == "tf_half_pixel_for_nn") return (x + 0.5) / scale;
        return (x + 0.5) / scale - 0.5;
    }

    // Keys' cubic convolution kernel.
    double cubic(double t) const {
        t = std::fabs(t);
        if (t <= 1) return (a_ + 2) * t * t * t - (a_ + 3) * t * t + 1;
        return t < 2 ? a_ * t * t * t - 5 * a_ * t * t + 8 * a_ * t - 4 * a_ : 0;
    }

    // A shrinking filter is as wide as an output element.
    double shrink(double scale) const { return antialias_ ? std::min(scale, 1.0) : 1.0; }
    int first_tap(double scale) const { return int(std::floor(-(mode_ == "linear" ? 1 : 2) / shrink(scale))) + 1; }
    int taps(double scale) const { return mode_ == "nearest" ? 1 : 2 - 2 * first_tap(scale); }

    void fill(Resampling& r, int64_t size, int64_t count, double scale) const {
        const bool nearest = mode_ == "nearest", linear = mode_ == "linear";
        const int first = first_tap(scale);
        Temporary<double> factors(static_cast<size_t>(r.taps));
        for (int64_t i = 0; i < count; i++) {
            const double at = place(i, double(size), double(count), scale), left = std::ceil(at) - 1, ratio = at - left;
            const auto clamped = [&](double p) { return int64_t(std::clamp(p, 0.0, double(size - 1))); };
            if (nearest) {
                const bool right = nearest_ == "round_prefer_floor" ? ratio > 0.5 : nearest_ == "round_prefer_ceil" ? ratio >= 0.5 : nearest_ == "floor" ? ratio == 1 : true;
                r.places[size_t(i)] = clamped(left + right);
                continue;
            }
            for (int k = 0; k < r.taps; k++) {
                const double distance = (first + k - ratio) * shrink(scale);
                r.places[size_t(i * r.taps + k)] = clamped(left + first + k);
                factors[size_t(k)] = linear ? std::clamp(1 - std::fabs(distance), 0.0, 1.0) : cubic(distance);
            }
            if (antialias_) normalise(factors);
            if (exclude_outside_) {
                for (int k = 0; k < r.taps; k++)
                    if (left + first + k < 0 || left + first + k >= double(size)) factors[size_t(k)] = 0;
                normalise(factors);
            }
            for (int k = 0; k < r.taps; k++) r.factors[size_t(i * r.taps + k)] = float(factors[size_t(k)]);
        }
    }

    static void normalise(Temporary<double>& factors) {
        double total = 0;
        for (double factor : factors) total += factor;
        for (double& factor : factors) factor /= total;
    }

    template <class T>
    static void pick_elements(const char* from, char* to, const Resampling& r, bool doubled) {
        if (doubled) {      // the usual upsampling: each element twice
            const T* x = reinterpret_cast<const T*>(from);
            T* y = reinterpret_cast<T*>(to);
            for (size_t i = 0; i < r.places.size() / 2; i++) y[2 * i] = x[i], y[2 * i + 1] = x[i];
            return;
        }
        for (size_t i = 0; i < r.places.size(); i++) std::memcpy(to + i * sizeof(T), from + size_t(r.places[i]) * sizeof(T), sizeof(T));
    }

    static void pick(const char* from, char* to, const Shape& now, const Resampling& r, size_t item, ThreadPool& pool) {
        const int64_t outer = now.count(0, r.axis), size = now.d[r.axis], count = int64_t(r.places.size());
        const int64_t run = now.count(r.axis + 1, now.rank) * int64_t(item);
        bool doubled = count == 2 * size;
        for (int64_t i = 0; doubled && i < count; i++) doubled = r.places[size_t(i)] == i / 2;
        pool.parallel(outer, std::max<int64_t>(1, 32768 / (count * run)), [&](int64_t begin, int64_t end) {
            for (int64_t o = begin; o < end; o++) {
                const char* f = from + o * size * run;
                char* t = to + o * count * run;
                if (run == 4) pick_elements<uint32_t>(f, t, r, doubled);
                else if (run == 1) pick_elements<uint8_t>(f, t, r, doubled);
                else
                    for (int64_t i = 0; i < count; i++) std::memcpy(t + i * run, f + r.places[size_t(i)] * run, size_t(run));
            }
        });
    }

    static void blend(const float* from, float* to, const Shape& now, const Resampling& r, ThreadPool& pool) {
        const int64_t outer = now.count(0, r.axis), size = now.d[r.axis], inner = now.count(r.axis + 1, now.rank);
        const int64_t count = int64_t(r.places.size()) / r.taps;
        if (inner == 1) {
            pool.parallel(outer, std::max<int64_t>(1, 8192 / count), [&](int64_t begin, int64_t end) {
                for (int64_t o = begin; o < end; o++)
                    for (int64_t i = 0; i < count; i++) {
                        float total = 0;
                        for (int k = 0; k < r.taps; k++) total += from[o * size + r.places[size_t(i * r.taps + k)]] * r.factors[size_t(i * r.taps + k)];
                        to[o * count + i] = total;
                    }
            });
            return;
        }
        pool.parallel(outer * count, std::max<int64_t>(1, 16384 / inner), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                const float* plane = from + at / count * size * inner;
                float* row = to + at * inner;
                const size_t table = size_t(at % count * r.taps);
                std::fill_n(row, inner, 0.0f);
                for (int k = 0; k < r.taps; k++) {
                    const float *source = plane + r.places[table + size_t(k)] * inner, factor = r.factors[table + size_t(k)];
#pragma GCC ivdep
                    for (int64_t i = 0; i < inner; i++) row[i] += source[i] * factor;
                }
            }
        });
    }

    std::vector<int64_t> axes_;
    std::string coordinates_, mode_, nearest_;
    double a_;
    std::string policy_;
    bool antialias_, exclude_outside_;
};

std::unique_ptr<Kernel> resize(const NodeInfo& node) {
    if (node.s("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize" || (node.s("mode", "nearest") != "nearest" && node.inputs[0] != DType::f32)) return nullptr;
    node.known({"extrapolation_value"});    // of tf_crop_and_resize alone
    return std::make_unique<Resize>(node);
}
HR_KERNEL("Resize", resize);

}  // namespace
}  // namespace hr::HR_TIER
