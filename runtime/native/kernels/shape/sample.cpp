// Images read between their elements: GridSample (nearest, linear, cubic; up to three axes) and RoiAlign.
#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.h"
#include "kernels/elementwise/broadcast.h"
#include "pool.h"

namespace hr {
namespace {

enum class Padding { zeros, border, reflection };
enum class Mode { nearest, linear, cubic };
constexpr int kAxes = 3, kTaps = 4, kMost = kTaps * kTaps * kTaps;
constexpr int64_t kBlock = 64;

// Folded back at both borders until it lies inside.
float reflected(float at, float low, float high) {
    const float span = high - low;
    if (span <= 0) return low;
    if (at >= low && at <= high) return at;
    const float distance = at < low ? low - at : at - high, turns = std::floor(distance / span), rest = distance - turns * span;
    return (at < low) == (std::fmod(turns, 2.0f) == 0) ? low + rest : high - rest;
}

float cubic_weight(float d) {
    constexpr float a = -0.75f;
    d = std::fabs(d);
    if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((d - 5) * d + 8) * d * a - 4 * a : 0;
}

// Indices into one axis and their weights.
struct Taps {
    int64_t at[kTaps];
    float weight[kTaps];
    int n;
};

class GridSample : public Kernel {
public:
    explicit GridSample(const NodeInfo& node) : corners_(node.i("align_corners", 0)) {
        const std::string mode = node.s("mode", "linear"), padding = node.s("padding_mode", "zeros");
        mode_ = mode == "nearest" ? Mode::nearest : mode == "cubic" ? Mode::cubic : Mode::linear;
        padding_ = padding == "border" ? Padding::border : padding == "reflection" ? Padding::reflection : Padding::zeros;
    }
    std::string variant() const override { return "grid_sample"; }
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &grid = c.in(1).shape;
        const int axes = x.rank - 2;
        if (axes < 1 || axes > kAxes || grid.rank != x.rank || grid[-1] != axes || grid.d[0] != x.d[0])
            throw std::invalid_argument("X " + text(x) + " and the grid " + text(grid) + " do not fit; a grid is [N, sizes, axes], of at most " + std::to_string(kAxes) + " axes");
        Shape to{x.d[0], x.d[1]};
        for (int i = 1; i < grid.rank - 1; i++) to.push(grid.d[i]);
        if (to.count() && !x.count()) throw std::invalid_argument("X " + text(x) + " is empty");
        c.out(0, DType::f32, to);
    }
    void run(RunContext& c) const override {
        const Shape &x = c.in(0).shape, &to = c.out(0).shape;
        const int axes = x.rank - 2;
        const int64_t plane = x.count(2, x.rank), places = to.count(2, to.rank), channels = x.d[1];
        // Block by block: where a block of places reads, then every channel of it.
        const int64_t blocks = (places + kBlock - 1) / kBlock;
        c.pool->parallel(x.d[0] * blocks, 1, [&](int64_t begin, int64_t end) {
            Temporary<int64_t> offsets(size_t(kBlock * kMost));
            Temporary<float> weights(size_t(kBlock * kMost));
            for (int64_t at = begin; at < end; at++) {
                const int64_t batch = at / blocks, first = at % blocks * kBlock, count = std::min(kBlock, places - first);
                int n = 0;
                for (int64_t i = 0; i < count; i++)
                    n = gather(x, c.in(1).as<float>() + (batch * places + first + i) * axes, &offsets[size_t(i * kMost)], &weights[size_t(i * kMost)]);
                for (int64_t ch = 0; ch < channels; ch++) {
                    const float* from = c.in(0).as<float>() + (batch * channels + ch) * plane;
                    float* to = c.out(0).as<float>() + (batch * channels + ch) * places + first;
                    for (int64_t i = 0; i < count; i++) {
                        const int64_t* o = &offsets[size_t(i * kMost)];
                        const float* w = &weights[size_t(i * kMost)];
                        float sum = from[o[0]] * w[0];
                        if (n == 4) sum = sum + from[o[1]] * w[1] + from[o[2]] * w[2] + from[o[3]] * w[3];      // linear in two axes
                        else
                            for (int k = 1; k < n; k++) sum += from[o[k]] * w[k];
                        to[i] = sum;
                    }
                }
            }
        });
    }

private:
    // The elements behind one place of the grid, and their weights.
    int gather(const Shape& x, const float* grid, int64_t* offsets, float* weights) const {
        const int axes = x.rank - 2;
        int n = 1;
        offsets[0] = 0, weights[0] = 1;
        for (int axis = 0; axis < axes; axis++) {
            const int64_t size = x.d[2 + axis], step = x.count(3 + axis, x.rank);
            const Taps taps = along(grid[axes - 1 - axis], size);
            for (int k = n - 1; k >= 0; k--)
                for (int t = taps.n - 1; t >= 0; t--) {
                    offsets[k * taps.n + t] = offsets[k] + taps.at[t] * step;
                    weights[k * taps.n + t] = weights[k] * taps.weight[t];
                }
            n *= taps.n;
        }
        return n;
    }

    Taps along(float grid, int64_t size) const {
        const float last = float(size - 1), low = corners_ ? 0 : -0.5f, high = corners_ ? last : float(size) - 0.5f;
        float place = corners_ ? (grid + 1) / 2 * last : ((grid + 1) * float(size) - 1) / 2;
        if (!std::isfinite(place)) place = -1e9f;
        place = std::clamp(place, -1e9f, 1e9f);
        if (mode_ == Mode::nearest) place = std::nearbyint(place);
        if (padding_ == Padding::border && mode_ != Mode::cubic) place = std::clamp(place, 0.0f, last);
        if (padding_ == Padding::reflection) place = reflected(place, low, high);
        const float base = std::floor(place), part = place - base;
        Taps taps;
        taps.n = mode_ == Mode::nearest ? 1 : mode_ == Mode::linear ? 2 : 4;
        for (int t = 0; t < taps.n; t++) {
            const int tap = mode_ == Mode::cubic ? t - 1 : t;
            float at = base + float(tap);
            float weight = mode_ == Mode::nearest ? 1 : mode_ == Mode::linear ? 1 - std::fabs(part - float(tap)) : cubic_weight(part - float(tap));
            if (padding_ == Padding::zeros && (at < 0 || at > last)) weight = 0;
            if (padding_ == Padding::reflection) at = std::trunc(reflected(at, low, high));
            taps.at[t] = int64_t(std::clamp(at, 0.0f, last)), taps.weight[t] = weight;
        }
        return taps;
    }

    bool corners_;
    Mode mode_;
    Padding padding_;
};

// Bilinear samples inside each cell of each region, averaged or the largest.
class RoiAlign : public Kernel {
public:
    explicit RoiAlign(const NodeInfo& node)
        : aligned_(node.s("coordinate_transformation_mode", "half_pixel") == "half_pixel"), max_(node.s("mode", "avg") == "max"),
          height_(node.i("output_height", 1)), width_(node.i("output_width", 1)), ratio_(node.i("sampling_ratio", 0)), scale_(float(node.f("spatial_scale", 1))) {}
    std::string variant() const override { return "roi_align"; }
    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &rois = c.in(1).shape;
        if (x.rank != 4 || rois.rank != 2 || rois.d[1] != 4 || c.in(2).count() != rois.d[0]) throw std::invalid_argument("X " + text(x) + " and rois " + text(rois) + " must be [N, C, H, W] and [regions, 4]");
        c.out(0, DType::f32, {rois.d[0], x.d[1], height_, width_});
    }
    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const int64_t channels = x.d[1], plane = x.d[2] * x.d[3], cells = height_ * width_;
        c.pool->parallel(c.in(1).shape.d[0], 1, [&](int64_t begin, int64_t end) {
            std::vector<Line> ys, xs;
            for (int64_t r = begin; r < end; r++) {
                const float* roi = c.in(1).as<float>() + r * 4;
                const int64_t batch = c.in(2).as<int64_t>()[r];
                if (batch < 0 || batch >= x.d[0]) throw std::out_of_range("a region belongs to entry " + std::to_string(batch) + " of " + std::to_string(x.d[0]));
                const int64_t ny = lines(roi[1], roi[3], height_, x.d[2], ys), nx = lines(roi[0], roi[2], width_, x.d[3], xs);
                for (int64_t ch = 0; ch < channels; ch++) {
                    const float* image = c.in(0).as<float>() + (batch * channels + ch) * plane;
                    float* out = c.out(0).as<float>() + (r * channels + ch) * cells;
                    for (int64_t i = 0; i < cells; i++) out[i] = cell(image, x.d[3], ys.data() + i / width_ * ny, ny, xs.data() + i % width_ * nx, nx);
                }
            }
        });
    }

private:
    struct Line {       // two neighbours along one axis
        int64_t low, high;
        float w_low, w_high;
    };
    // Where each cell reads along one axis; answers how many lines a cell has.
    int64_t lines(float from, float to, int64_t cells, int64_t length, std::vector<Line>& out) const {
        const float start = from * scale_ - (aligned_ ? 0.5f : 0), end = to * scale_ - (aligned_ ? 0.5f : 0);
        const float size = aligned_ ? end - start : std::max(end - start, 1.0f), step = size / float(cells);
        if (!(std::fabs(step) < 65536)) throw std::out_of_range("a region is larger than 65536 elements a cell");
        const int64_t n = std::max<int64_t>(0, ratio_ > 0 ? ratio_ : int64_t(std::ceil(step)));
        out.clear();
        for (int64_t cell = 0; cell < cells; cell++)
            for (int64_t k = 0; k < n; k++) {
                const float place = start + (float(cell) * step + (float(k) + 0.5f) * step / float(n));
                const bool inside = place >= -1 && place <= float(length);
                const float at = std::clamp(place, 0.0f, float(length - 1)), part = at - std::floor(at);
                const int64_t low = int64_t(at);
                out.push_back({low, std::min(low + 1, length - 1), inside ? 1 - part : 0, inside ? part : 0});
            }
        return n;
    }
    float cell(const float* image, int64_t width, const Line* ys, int64_t ny, const Line* xs, int64_t nx) const {
        float best = -INFINITY, sum = 0;
        for (int64_t i = 0; i < ny; i++)
            for (int64_t j = 0; j < nx; j++) {
                const float* low = image + ys[i].low * width;
                const float* high = image + ys[i].high * width;
                const float corners[4] = {low[xs[j].low] * (ys[i].w_low * xs[j].w_low), low[xs[j].high] * (ys[i].w_low * xs[j].w_high),
                                          high[xs[j].low] * (ys[i].w_high * xs[j].w_low), high[xs[j].high] * (ys[i].w_high * xs[j].w_high)};
                for (float corner : corners) best = std::max(best, corner), sum += corner;
            }
        return max_ ? best : sum / float(std::max<int64_t>(1, ny) * std::max<int64_t>(1, nx));
    }

    bool aligned_, max_;
    int64_t height_, width_, ratio_;
    float scale_;
};

std::unique_ptr<Kernel> grid_sample(const NodeInfo& node) {
    return node.inputs[0] == DType::f32 && node.inputs[1] == DType::f32 ? std::make_unique<GridSample>(node) : nullptr;
}
std::unique_ptr<Kernel> roi_align(const NodeInfo& node) {
    return node.inputs[0] == DType::f32 && node.i("output_height", 1) > 0 && node.i("output_width", 1) > 0 ? std::make_unique<RoiAlign>(node) : nullptr;
}
HR_KERNEL("GridSample", grid_sample);
HR_KERNEL("RoiAlign", roi_align);

}  // namespace
}  // namespace hr
