// ConvTranspose (channels first) and headrace.cpu.ConvTranspose (channels last) in f32: one matrix product of the pixels
// with all taps, then each output pixel gathers the products that reach it, in the order of the taps.
#include <algorithm>

#include "kernels/conv/conv.h"
#include "kernels/conv/window.h"
#include "pool.h"

namespace hr {

namespace {

constexpr int64_t kTaps = 1024;

class ConvTransposeKernel final : public Kernel {
public:
    ConvTransposeKernel(const NodeInfo& node, const Activation& act)
        : gemm_(gemm_table()), conv_(conv_table()), attributes_(node), act_(act), group_(node.i("group", 1)), extra_(node.ints("output_padding")),
          wanted_(node.ints("output_shape")) {
        last_ = node.op == "headrace.cpu.ConvTranspose";
        const Tensor* w = node.constants.size() > 1 ? node.constants[1] : nullptr;
        if (w && w->shape.rank >= 3) {
            const auto fill = [&] {
                std::vector<float> matrix(static_cast<size_t>(w->count()));
                pack(*w, matrix.data(), packed_.get());
            };
            pack_once(fill, Part<float>{packed_, weight_floats(w->shape)});
        }
    }

    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        const Window w = window(x, c.in(1).shape);
        const int64_t features = c.in(1).shape[1] * group_;
        Shape out{x[0]};
        if (!last_) out.push(features);
        for (int i = 0; i < x.rank - 2; i++) out.push(w.out[5 - x.rank + i]);
        if (last_) out.push(features);
        c.out(0, DType::f32, out);
        Scratch scratch;
        plan(w, c.in(1).shape, scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Shape& ws = c.in(1).shape;
        const Window w = window(c.in(0).shape, ws);
        if (w.rows() == 0) return;
        Scratch scratch(c.scratch);
        const Memory mem = plan(w, ws, scratch);
        const int64_t features = ws[1] * group_, ld = w.taps() * features;
        const float* weights = packed_.get();
        if (!packed_) pack(c.in(1), mem.matrix, mem.weights), weights = mem.weights;
        const float* bias = c.has(2) ? c.in(2).as<float>() : nullptr;
        if (bias && c.in(2).count() != features) throw std::invalid_argument("the bias is " + text(c.in(2).shape) + " for " + std::to_string(features) + " features");
        for (int64_t n = 0; n < w.n; n++) {
            const float* x = c.in(0).as<float>() + n * w.in_pixels() * w.c;
            if (mem.x) gemm_.transpose32(x, w.in_pixels(), w.c, w.in_pixels(), mem.x, w.c), x = mem.x;
            float* y = mem.y ? mem.y : c.out(0).as<float>() + n * w.pixels() * features;
            products(w, ws, x, weights, mem.columns, *c.pool);
            gather(w, features, ld, mem.columns, bias, y, *c.pool);
            if (mem.y) gemm_.transpose32(y, features, w.pixels(), features, c.out(0).as<float>() + n * w.pixels() * features, w.pixels());
        }
    }

    bool reads_data(int input) const override { return input != 1 || !packed_; }
    size_t packed_bytes() const override { return packed_.bytes(); }
    std::string variant() const override { return std::string("conv_transpose_f32_") + gemm_.tier; }

private:
    struct Memory {
        float *x = nullptr, *y = nullptr, *columns = nullptr, *weights = nullptr, *matrix = nullptr;
    };

    // `in`: sizes of x; `out`: of the result; begin: how much of the full result is cut off in front.
    Window window(const Shape& x, const Shape& w) const {
        if (x.rank != w.rank || x.rank < 3 || x.rank > 5)
            throw std::invalid_argument("the ranks of input " + text(x) + " and weight " + text(w) + " must be equal, 3 to 5");
        const int rank = x.rank - 2;
        const int64_t channels = last_ ? x[-1] : x[1];
        if (group_ < 1 || w[0] != channels || channels % group_)
            throw std::invalid_argument("the weight " + text(w) + " in " + std::to_string(group_) + " groups does not fit " + std::to_string(channels) + " channels");
        const auto fits = [&](size_t n, const char* name) {
            if (n && int(n) != rank) throw std::invalid_argument(std::string(name) + " must hold " + std::to_string(rank) + " integers");
        };
        fits(attributes_.strides.size(), "strides"), fits(attributes_.dilations.size(), "dilations"), fits(extra_.size(), "output_padding");
        if (!wanted_.empty() && int(wanted_.size()) != rank && int(wanted_.size()) != rank + 2) throw std::invalid_argument("output_shape must hold " + std::to_string(rank) + " integers");
        Window g;
        g.n = x[0], g.c = channels;
        for (int i = 0; i < rank; i++) {
            const int at = 3 - rank + i;
            g.in[at] = x.d[(last_ ? 1 : 2) + i], g.kernel[at] = w.d[2 + i];
            g.stride[at] = attributes_.strides.empty() ? 1 : attributes_.strides[i];
            g.dilation[at] = attributes_.dilations.empty() ? 1 : attributes_.dilations[i];
            if (g.stride[at] < 1 || g.dilation[at] < 1 || g.kernel[at] < 1) throw std::invalid_argument("strides, dilations and kernel must be positive");
            const int64_t full = (g.in[at] - 1) * g.stride[at] + (extra_.empty() ? 0 : extra_[i]) + (g.kernel[at] - 1) * g.dilation[at] + 1;
            const bool same = attributes_.auto_pad.rfind("SAME", 0) == 0;
            if (wanted_.empty() && !same) {
                const bool given = !attributes_.pads.empty() && attributes_.auto_pad != "VALID";
                if (given && int(attributes_.pads.size()) != 2 * rank) throw std::invalid_argument("pads must hold " + std::to_string(2 * rank) + " integers");
                g.begin[at] = given ? attributes_.pads[i] : 0, g.end[at] = given ? attributes_.pads[rank + i] : 0;
                g.out[at] = full - g.begin[at] - g.end[at];
            } else {
                g.out[at] = wanted_.empty() ? g.in[at] * g.stride[at] : wanted_[wanted_.size() - size_t(rank) + i];
                const int64_t total = full - g.out[at], low = total > 0 ? total / 2 : 0, high = total > 0 ? total - low : total;
                g.begin[at] = attributes_.auto_pad == "SAME_UPPER" ? low : std::max<int64_t>(0, high);
            }
            if (g.out[at] < 0) throw std::invalid_argument("the output of " + text(x) + " would have a negative size");
        }
        if (g.taps() > kTaps) throw std::invalid_argument("a transposed convolution of more than 1024 taps");
        return g;
    }

    static int64_t taps(const Shape& w) { return w.count(2, w.rank); }
    int64_t group_floats(const Shape& w) const { return packed_floats(gemm_, 1, w[0] / group_, taps(w) * w[1]); }
    int64_t weight_floats(const Shape& w) const { return group_ * group_floats(w); }

    Memory plan(const Window& w, const Shape& ws, Scratch& s) const {
        Memory mem;
        const int64_t features = ws[1] * group_;
        if (!last_ && w.c > 1 && w.in_pixels() > 1) mem.x = s.take<float>(w.c * w.in_pixels());
        if (!last_ && features > 1 && w.pixels() > 1) mem.y = s.take<float>(w.pixels() * features);
        mem.columns = s.take<float>(w.in_pixels() * w.taps() * features);
        if (!packed_) mem.weights = s.take<float>(weight_floats(ws)), mem.matrix = s.take<float>(ws.count());
        return mem;
    }

    // [c, features / group, *kernel] -> for each group the matrix [c / group, taps * features / group] in panels.
    void pack(const Tensor& w, float* matrix, float* out) const {
        const int64_t t = taps(w.shape), f = w.shape[1], c = w.shape[0] / group_;
        for (int64_t i = 0; i < w.shape[0]; i++)
            for (int64_t j = 0; j < f; j++)
                for (int64_t k = 0; k < t; k++) matrix[(i * t + k) * f + j] = w.as<float>()[(i * f + j) * t + k];
        for (int64_t g = 0; g < group_; g++)
            pack_matrix(gemm_, Ranges(gemm_, 1, c), matrix + g * c * t * f, t * f, 1, t * f, out + g * group_floats(w.shape), 0, ceil_div(t * f, gemm_.nr));
    }

    // columns[pixel][group][tap][feature of the group]
    void products(const Window& w, const Shape& ws, const float* x, const float* weights, float* columns, ThreadPool& pool) const {
        const int64_t c = w.c / group_, n = w.taps() * ws[1];
        for (int64_t g = 0; g < group_; g++) {
            const MatrixRows rows(x + g * c, w.c);
            run_gemm(gemm_, GemmProblem{w.in_pixels(), n, 1, c, &rows, weights + g * group_floats(ws), columns + g * n, group_ * n, {}}, pool);
        }
    }

    void gather(const Window& w, int64_t features, int64_t ld, const float* columns, const float* bias, float* y, ThreadPool& pool) const {
        const int64_t f = features / group_, t = w.taps();
        pool.parallel(w.pixels(), std::max<int64_t>(1, 4096 / features), [&](int64_t begin, int64_t end) {
            const void* rows[kTaps];
            for (int64_t m = begin; m < end; m++) {
                const int64_t o[3] = {m / (w.out[2] * w.out[1]), m / w.out[2] % w.out[1], m % w.out[2]};
                int64_t n = 0;
                for (int64_t k = 0; k < t; k++) {
                    const int64_t tap[3] = {k / (w.kernel[1] * w.kernel[2]), k / w.kernel[2] % w.kernel[1], k % w.kernel[2]};
                    int64_t pixel = 0;
                    bool hit = true;
                    for (int i = 0; i < 3 && hit; i++) {
                        const int64_t at = o[i] + w.begin[i] - tap[i] * w.dilation[i];
                        hit = at >= 0 && at % w.stride[i] == 0 && at / w.stride[i] < w.in[i];
                        pixel = pixel * w.in[i] + at / w.stride[i];
                    }
                    if (hit) rows[n++] = columns + pixel * ld + k * f;
                }
                for (int64_t g = 0; g < group_; g++) {
                    if (g)
                        for (int64_t i = 0; i < n; i++) rows[i] = static_cast<const float*>(rows[i]) + t * f;
                    conv_.gather(rows, n, f, bias ? bias + g * f : nullptr, act_, y + m * features + g * f);
                }
            }
        });
    }

    const GemmTable& gemm_;
    const ConvTable& conv_;
    WindowAttributes attributes_;
    Activation act_;
    int64_t group_;
    std::vector<int64_t> extra_, wanted_;
    bool last_ = false;
    Packed<float> packed_;
};

std::unique_ptr<Kernel> make_transpose(const NodeInfo& node) {
    if (node.inputs.size() < 2 || node.inputs[0] != DType::f32 || node.inputs[1] != DType::f32) return nullptr;
    Activation act;
    if (!read_activation(node, act)) return nullptr;
    return std::make_unique<ConvTransposeKernel>(node, act);
}

HR_KERNEL("ConvTranspose", make_transpose);
HR_KERNEL("headrace.cpu.ConvTranspose", make_transpose);

}  // namespace

}  // namespace hr
