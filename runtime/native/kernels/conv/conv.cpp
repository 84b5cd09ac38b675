// Conv, headrace.FusedConv (channels first) and headrace.cpu.Conv (channels last) in f32. With products of bf16, and in
// depthwise convolutions where the CPU has bf16, the channels-last input, residual and result may each be bf16 as well.
//
// Channels-last inside: a node with channels first is transposed into scratch and back. A convolution is an indirect GEMM
// over its taps; few input channels merge a row of taps into one long segment over a padded copy; one channel per group
// has a kernel of its own.
#include "kernels/conv/conv.h"

#include <algorithm>
#include <vector>

#include "kernels/conv/depthwise.h"
#include "kernels/gemm/tiers.h"
#include "pool.h"

namespace hr {

HR_TIER_TABLE(ConvTable, conv_kernels);

const ConvTable& conv_table() { return HR_OF_TIER(conv_kernels, cpu_tier()); }

#ifdef HR_HAS_BF16
namespace avx512_bf16 { extern const ConvTable conv_kernels; }
#endif

const ConvTable* bf16_conv_table() {
#ifdef HR_HAS_BF16
    if (cpu_tier() >= kAvx512Bf16) return &avx512_bf16::conv_kernels;
#endif
    return nullptr;
}

bool any_bf16(const NodeInfo& node) {
    const bool residual = node.inputs.size() > 3 && node.inputs[3] == DType::bf16;
    return node.inputs[0] == DType::bf16 || residual || node.outputs[0] == DType::bf16;
}

const ConvTable& conv_table_for(const NodeInfo& node) {
    const ConvTable* low = any_bf16(node) || node.s("precision", "") == "bf16" ? bf16_conv_table() : nullptr;
    return low ? *low : conv_table();
}

bool takes_reals(const NodeInfo& node) {
    const auto fits = [](DType t) { return t == DType::f32 || (t == DType::bf16 && bf16_conv_table()); };
    return fits(node.inputs[0]) && (node.inputs.size() < 4 || node.inputs[3] == DType::none || fits(node.inputs[3])) && fits(node.outputs[0]);
}

namespace {

constexpr int64_t kMergeChannels = 15;  // up to so many channels taps are merged
constexpr int64_t kRowPart = 128;       // pixels of a row of a depthwise convolution that are worked on at once

class ConvKernel final : public Kernel {
public:
    ConvKernel(const NodeInfo& node, const Activation& act)
        : gemm_(table_of(node)), conv_(conv_table_for(node)), attributes_(node), act_(act), group_(node.i("group", 1)),
          x_(node.inputs[0]), y_(node.outputs[0]) {
        last_ = node.op == "headrace.cpu.Conv";
        const auto constant = [&](size_t i) { return i < node.constants.size() ? node.constants[i] : nullptr; };
        if (const Tensor* w = constant(1); w && w->shape.rank >= 3) {
            const auto fill = [&] {
                Packed<float> matrix(in_order(w->shape) ? 0 : inner(w->shape).count());
                pack_weights(*w, matrix.get(), packed_.get());
            };
            pack_once(fill, Part<float>{packed_, weight_floats(w->shape)});
            once_ = depthwise(w->shape) || y_ == DType::bf16 || ranges_of(inner(w->shape)).count() == 1;
            if (const Tensor* b = constant(2)) {
                bias_ = Packed<float>(bias_floats(w->shape));
                spread_bias(*b, w->shape, bias_.get());
            }
        }
    }

    void shape(ShapeContext& c) const override {
        const Window w = window(c.in(0).shape, c.in(1).shape);
        c.out(0, y_, output_shape(c.in(0).shape, w, c.in(1).shape[0]));
        Scratch scratch;
        plan(w, c.in(1).shape, c.has(2), c.has(3), scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Shape& ws = c.in(1).shape;
        const Window w = window(c.in(0).shape, ws);
        const int64_t features = ws[0];
        if (w.rows() == 0 || features == 0) return;
        Scratch scratch(c.scratch);
        const Memory mem = plan(w, ws, c.has(2), c.has(3), scratch);
        Epilogue e;
        e.act = act_;
        const float* weights = packed_.get();
        if (!packed_) pack_weights(c.in(1), mem.matrix, mem.weights), weights = mem.weights;
        if (c.has(2)) {
            e.bias = bias_ ? bias_.get() : mem.bias, e.from_bias = true;
            if (!bias_) spread_bias(c.in(2), ws, mem.bias);
        }
        Reals x = reals(c.in(0));
        if (mem.x) to_last(c.in(0).as<float>(), w.n, w.c, w.in_pixels(), mem.x, *c.pool), x = mem.x;
        if (c.has(3)) {
            if (c.in(3).shape != c.out(0).shape) throw std::invalid_argument("the residual is " + text(c.in(3).shape) + ", the result " + text(c.out(0).shape));
            e.residual = reals(c.in(3)), e.ldr = features;
            if (mem.r) to_last(c.in(3).as<float>(), w.n, features, w.pixels(), mem.r, *c.pool), e.residual = mem.r;
        }
        const Output y{mem.y ? mem.y : c.out(0).data, y_ == DType::bf16};
        std::memset(mem.zeros, 0, size_t(w.c) * 4);
        const Window v = inner(w, ws);
        if (mem.image) copy_padded(v, x, ws[1], mem.image, *c.pool);
        else if (mem.low) narrow(static_cast<const float*>(x.data), w.n * w.in_pixels(), ws[1], mem.low, *c.pool), x = mem.low;
        if (depthwise(ws)) run_depthwise(w, x, weights, y, e, mem.zeros, *c.pool);
        else run_gemms(v, inner(ws), static_cast<const float*>(x.data), weights, y, e, mem, *c.pool);
        if (mem.y) to_first(mem.y, w.n, features, w.pixels(), c.out(0).as<float>(), *c.pool);
    }

    bool reads_data(int input) const override { return !(input == 1 && packed_) && !(input == 2 && bias_); }
    // Over the residual, each element of which is read just before the result is written; not where C holds sums in between.
    bool in_place(int input) const override { return input == 3 && once_; }
    size_t packed_bytes() const override { return packed_.bytes() + bias_.bytes(); }
    std::string variant() const override { return std::string(gemm_.narrow ? "conv_bf16_" : "conv_f32_") + gemm_.tier + (y_ == DType::bf16 ? " -> bf16" : ""); }

private:
    struct Memory {
        float *x = nullptr, *low = nullptr, *r = nullptr, *y = nullptr, *image = nullptr, *weights = nullptr, *matrix = nullptr, *bias = nullptr, *zeros = nullptr;
    };

    // bf16 products where the weight is constant and each group has whole pairs of channels.
    static const GemmTable& table_of(const NodeInfo& node) {
        const Tensor* w = node.constants.size() > 1 ? node.constants[1] : nullptr;
        if (!w || w->shape.rank < 3 || (node.i("group", 1) > 1 && w->shape[1] % 2)) return gemm_table();
        return gemm_table_for(node);
    }
    // Shapes as the products see them: with bf16, pairs of channels.
    Shape inner(Shape w) const {
        if (gemm_.narrow) w[1] = pairs_of(w[1]);
        return w;
    }
    Window inner(Window w, const Shape& ws) const {
        if (gemm_.narrow) w.c = group_ * pairs_of(ws[1]);
        return w;
    }

    bool depthwise(const Shape& w) const { return group_ > 1 && w[1] == 1 && w[0] == group_; }
    static int64_t taps(const Shape& w) { return w.count(2, w.rank); }
    bool merges(const Window& w) const { return group_ == 1 && w.c <= kMergeChannels && w.kernel[2] > 1 && can_merge(w); }
    // Segments and their length: all taps of c channels, or rows of merged taps. The packed order of k is the same.
    int64_t segments(const Window& w) const { return merges(w) ? w.taps() / w.kernel[2] : w.taps(); }

    int64_t weight_floats(const Shape& w) const {
        if (depthwise(w)) return taps(w) * round_up(w[0], 16);
        return group_ * packed_floats(gemm_, 1, taps(w) * inner(w)[1], w[0] / group_);
    }
    int64_t bias_floats(const Shape& w) const { return depthwise(w) ? round_up(w[0], 16) : group_ * round_up(w[0] / group_, gemm_.nr); }

    Window window(const Shape& x, const Shape& w) const {
        if (x.rank != w.rank || x.rank < 3 || x.rank > 5)
            throw std::invalid_argument("the ranks of input " + text(x) + " and weight " + text(w) + " must be equal, 3 to 5");
        const int64_t channels = last_ ? x[-1] : x[1];
        if (group_ < 1 || w[1] * group_ != channels || w[0] % group_)
            throw std::invalid_argument("the weight " + text(w) + " in " + std::to_string(group_) + " groups does not fit " + std::to_string(channels) + " channels");
        for (size_t i = 0; i < attributes_.kernel.size(); i++)
            if (int(attributes_.kernel.size()) != w.rank - 2 || attributes_.kernel[i] != w[int(i) + 2])
                throw std::invalid_argument("kernel_shape differs from the weight " + text(w));
        return make_window(attributes_, x[0], channels, x.d + (last_ ? 1 : 2), w.d + 2, x.rank - 2);
    }

    Shape output_shape(const Shape& x, const Window& w, int64_t features) const {
        Shape out{x[0]};
        if (!last_) out.push(features);
        for (int i = 0; i < x.rank - 2; i++) out.push(w.out[5 - x.rank + i]);
        if (last_) out.push(features);
        return out;
    }

    Memory plan(const Window& w, const Shape& ws, bool bias, bool residual, Scratch& s) const {
        Memory mem;
        if (!last_ && w.c > 1 && w.in_pixels() > 1) mem.x = s.take<float>(w.n * w.c * w.in_pixels());
        if (!last_ && ws[0] > 1 && w.pixels() > 1) {
            mem.y = s.take<float>(w.rows() * ws[0]);
            if (residual) mem.r = s.take<float>(w.rows() * ws[0]);
        }
        const Window v = inner(w, ws);
        if (merges(v)) mem.image = s.take<float>(w.n * padded(w).in_pixels() * v.c);
        else if (gemm_.narrow && x_ == DType::f32) mem.low = s.take<float>(w.n * w.in_pixels() * v.c);
        if (!packed_) mem.weights = s.take<float>(weight_floats(ws)), mem.matrix = s.take<float>(ws.count());
        if (bias && !bias_) mem.bias = s.take<float>(bias_floats(ws));
        mem.zeros = s.take<float>(w.c);
        return mem;
    }

    // One tap: [features, c] as it is.
    bool in_order(const Shape& w) const { return taps(w) == 1 && !gemm_.narrow; }

    // [features, c, *kernel] -> for each group the matrix [taps * c, features] in panels; depthwise: [taps, channels].
    void pack_weights(const Tensor& w, float* matrix, float* out) const {   // matrix: not needed where they are in_order
        const Shape shape = inner(w.shape);
        const int64_t t = taps(shape), c = shape[1], n = shape[0] / group_;
        const float* from = w.as<float>();
        if (depthwise(w.shape)) {
            const int64_t ld = round_up(w.shape[0], 16);
            for (int64_t i = 0; i < t; i++)
                for (int64_t g = 0; g < ld; g++) out[i * ld + g] = g < group_ ? from[g * t + i] : 0.0f;
            return;
        }
        for (int64_t g = 0; g < group_; g++) {
            // [n, channels, taps] to [n, taps, c]
            for (int64_t j = 0; gemm_.narrow && j < n; j++) {
                const std::vector<float> pairs = paired(from + (g * n + j) * w.shape[1] * t, t, 1, w.shape[1], t);
                for (int64_t i = 0; i < c; i++)
                    for (int64_t k = 0; k < t; k++) std::memcpy(&matrix[((g * n + j) * t + k) * c + i], &pairs[size_t(i * t + k)], 4);
            }
            const float* source = matrix;
            if (in_order(w.shape)) source = from;
            else
                for (int64_t j = 0; !gemm_.narrow && j < n; j++)
                    for (int64_t i = 0; i < c; i++)
                        for (int64_t k = 0; k < t; k++) matrix[((g * n + j) * t + k) * c + i] = from[((g * n + j) * c + i) * t + k];
            // The ranges must be those of the GEMM that reads the panels, which depend on how taps are merged.
            const Ranges ranges = ranges_of(shape);
            pack_matrix(gemm_, ranges, source + g * n * t * c, 1, t * c, n, out + g * packed_floats(gemm_, 1, t * c, n), 0, ceil_div(n, gemm_.nr));
        }
    }

    Ranges ranges_of(const Shape& w) const {
        Window like;
        like.c = w[1] * group_;
        for (int i = 2; i < w.rank; i++) like.kernel[5 - w.rank + i - 2] = w[i];
        if (!attributes_.dilations.empty()) like.dilation[2] = attributes_.dilations.back();
        for (int i = 0; i < int(attributes_.pads.size()) / 2; i++) like.begin[5 - w.rank + i] = attributes_.pads[i];
        if (attributes_.auto_pad != "NOTSET") like.begin[0] = like.begin[1] = like.begin[2] = 0;
        const int64_t s = segments(like);
        return Ranges(gemm_, s, taps(w) * w[1] / s);
    }

    void spread_bias(const Tensor& b, const Shape& w, float* out) const {
        if (b.count() != w[0]) throw std::invalid_argument("the bias is " + text(b.shape) + " for " + std::to_string(w[0]) + " features");
        const int64_t groups = depthwise(w) ? 1 : group_, n = w[0] / groups, ld = bias_floats(w) / groups;
        for (int64_t g = 0; g < groups; g++)
            for (int64_t j = 0; j < ld; j++) out[g * ld + j] = j < n ? b.as<float>()[g * n + j] : 0.0f;
    }

    // Channels first to channels last and back, image by image.
    void to_last(const float* x, int64_t n, int64_t c, int64_t pixels, float* out, ThreadPool& pool) const {
        const int64_t step = 64, blocks = ceil_div(pixels, step);
        pool.parallel(n * blocks, std::max<int64_t>(1, 512 / c), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t image = i / blocks, p = i % blocks * step;
                gemm_.transpose32(x + image * c * pixels + p, pixels, c, std::min(step, pixels - p), out + (image * pixels + p) * c, c);
            }
        });
    }
    void to_first(const float* y, int64_t n, int64_t c, int64_t pixels, float* out, ThreadPool& pool) const {
        const int64_t step = 16, blocks = ceil_div(c, step);
        pool.parallel(n * blocks, std::max<int64_t>(1, 2048 / pixels), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t image = i / blocks, f = i % blocks * step;
                gemm_.transpose32(y + image * c * pixels + f, c, pixels, std::min(step, c - f), out + (image * c + f) * pixels, pixels);
            }
        });
    }

    // Pixels of whole pairs. Where channels are odd every pixel ends with half a pair: all values are rounded in a row, then
    // moved apart.
    void narrow(const float* x, int64_t pixels, int64_t channels, float* out, ThreadPool& pool) const {
        const int64_t all = group_ * channels, step = std::max<int64_t>(1, 4096 / all);
        pool.parallel(ceil_div(pixels, step), 2, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin * step; i < std::min(pixels, end * step); i += step)
                narrow_some(x + i * all, std::min(step, pixels - i), all, out + i * pairs_of(all));
        });
    }
    void narrow_some(const float* x, int64_t pixels, int64_t channels, float* out) const {
        if (channels % 2 == 0) return gemm_.narrow(x, pixels * channels, out);
        for (int64_t step = std::max<int64_t>(1, 4096 / channels), i = 0; i < pixels; i += step)
            narrow_odd(x + i * channels, std::min(step, pixels - i), channels, out + i * pairs_of(channels));
    }
    void narrow_odd(const float* x, int64_t pixels, int64_t channels, float* out) const {
        if (channels > 4095) {
            for (int64_t i = 0; i < pixels; i++) gemm_.narrow(x + i * channels, channels, out + i * pairs_of(channels));
            return;
        }
        float row[2048 + 1];    // values as pairs, and one that a wide load looks at
        row[pairs_of(pixels * channels)] = 0;
        gemm_.narrow(x, pixels * channels, row);
        const char* from = reinterpret_cast<const char*>(row);
        for (int64_t i = 0; i < pixels; i++, from += channels * 2, out += pairs_of(channels)) {
            if (channels == 3) {
                uint64_t pixel;
                std::memcpy(&pixel, from, 8);
                pixel &= 0xffffffffffff;    // little-endian, as every CPU that has these products
                std::memcpy(out, &pixel, 8);
            } else {
                out[channels / 2] = 0;
                std::memcpy(out, from, size_t(channels) * 2);
            }
        }
    }

    // The image with its padding around it, zero; rounded to pairs where `x`, of so many channels, is float32 and the products are not.
    void copy_padded(const Window& w, const Reals& x, int64_t channels, float* out, ThreadPool& pool) const {
        const Window p = padded(w);
        const bool rounds = gemm_.narrow && !x.low;
        const float* from = static_cast<const float*>(x.data);
        const int64_t row = p.in[2] * w.c, left = std::min(w.begin[2], p.in[2]) * w.c;
        const int64_t width = std::clamp<int64_t>(p.in[2] - w.begin[2], 0, w.in[2]) * w.c;
        pool.parallel(w.n * p.in[0] * p.in[1], std::max<int64_t>(1, 8192 / row), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t i1 = i % p.in[1] - w.begin[1], i0 = i / p.in[1] % p.in[0] - w.begin[0], image = i / (p.in[1] * p.in[0]);
                float* to = out + i * row;
                if (uint64_t(i0) >= uint64_t(w.in[0]) || uint64_t(i1) >= uint64_t(w.in[1])) {
                    std::memset(to, 0, size_t(row) * 4);
                    continue;
                }
                std::memset(to, 0, size_t(left) * 4);
                const int64_t pixel = ((image * w.in[0] + i0) * w.in[1] + i1) * w.in[2];
                if (rounds) narrow_some(from + pixel * channels, width / w.c, channels, to + left);
                else std::memcpy(to + left, from + pixel * w.c, size_t(width) * 4);
                std::memset(to + left + width, 0, size_t(row - left - width) * 4);
            }
        });
    }

    void run_gemms(const Window& w, const Shape& ws, const float* x, const float* weights, const Output& y, const Epilogue& e,
                   const Memory& mem, ThreadPool& pool) const {
        const int64_t c = ws[1], n = ws[0] / group_, depth = w.taps() * c, s = segments(w);
        const int64_t size = packed_floats(gemm_, 1, depth, n), bias = round_up(n, gemm_.nr);
        Window walked = w;
        if (mem.image) {
            walked = merged(padded(w));
            x = mem.image;
        }
        const GemmPlan plan = plan_gemm(gemm_, w.rows(), n, depth, group_ >= 4 * pool.threads() ? 1 : pool.threads());
        const double each = double(w.rows()) * double(n) * double(depth) / double(plan.tasks());
        pool.parallel(group_ * plan.tasks(), std::max<int64_t>(1, int64_t(16384 / (each + 1))), [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) {
                const int64_t g = task / plan.tasks();
                const WindowRows window_rows(walked, x + g * c, w.c * 4, mem.zeros);
                const MatrixRows matrix_rows(x + g * c, w.c);
                const Rows* rows = w.pointwise() ? static_cast<const Rows*>(&matrix_rows) : &window_rows;
                GemmProblem p{w.rows(), n, s, depth / s, rows, weights + g * size, nullptr, ws[0], e};
                const Output to = y + g * n;
                if (to.low) p.low = static_cast<BFloat16*>(to.data);
                else p.c = static_cast<float*>(to.data);
                if (e.bias) p.epilogue.bias += g * bias;
                if (e.residual) p.epilogue.residual += g * n;
                run_gemm_task(gemm_, p, plan, task % plan.tasks());
            }
        });
    }

    // Rows of the result, long ones in parts.
    void run_depthwise(const Window& w, const Reals& x, const float* weights, const Output& y, const Epilogue& e, const float* zeros,
                       ThreadPool& pool) const {
        if (w.taps() > kDepthwiseTaps) throw std::invalid_argument("a depthwise window of more than 4096 taps");
        const int64_t parts = ceil_div(w.out[2], kRowPart), each = w.c * ceil_div(w.out[2], parts) * w.taps();
        pool.parallel(w.n * w.out[0] * w.out[1] * parts, std::max<int64_t>(1, 16384 / each), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t row = i / parts, m0 = w.out[2] * (i % parts) / parts, m1 = w.out[2] * (i % parts + 1) / parts, at = (row * w.out[2] + m0) * w.c;
                const int64_t image = row / (w.out[0] * w.out[1]), o0 = row / w.out[1] % w.out[0], o1 = row % w.out[1];
                DepthwiseBlock d{};
                d.c = w.c, d.low = x.low, d.w = weights, d.ldw = round_up(w.c, 16), d.out = y + at, d.ldo = w.c, d.epilogue = e;
                if (e.residual) d.epilogue.residual += at;
                depthwise_row(conv_, w, d, m0, m1, zeros, [&](int64_t tap) -> const char* {
                    const int64_t i0 = o0 * w.stride[0] - w.begin[0] + tap / w.kernel[1] * w.dilation[0];
                    const int64_t i1 = o1 * w.stride[1] - w.begin[1] + tap % w.kernel[1] * w.dilation[1];
                    if (uint64_t(i0) >= uint64_t(w.in[0]) || uint64_t(i1) >= uint64_t(w.in[1])) return nullptr;
                    return static_cast<const char*>((x + ((image * w.in[0] + i0) * w.in[1] + i1) * w.in[2] * w.c).data);
                });
            }
        });
    }

    const GemmTable& gemm_;
    const ConvTable& conv_;
    WindowAttributes attributes_;
    Activation act_;
    int64_t group_;
    DType x_, y_;
    bool last_ = false, once_ = false;
    Packed<float> packed_, bias_;
};

std::unique_ptr<Kernel> make_conv(const NodeInfo& node) {
    if (node.inputs.size() < 2 || node.inputs[1] != DType::f32 || !takes_reals(node)) return nullptr;
    Activation act;
    if (node.op != "Conv" && !read_activation(node, act)) return nullptr;
    node.known({"precision"});      // allows something, which depthwise convolutions have no use for
    if (any_bf16(node)) {
        const Tensor* w = node.constants[1];
        if (node.op != "headrace.cpu.Conv" || !w || w->shape.rank < 3) return nullptr;
        const bool depthwise = w->shape[1] == 1 && w->shape[0] == node.i("group", 1) && w->shape[0] > 1;
        const bool pairs = w->shape[1] % 2 == 0, products = &gemm_table_for(node) == bf16_gemm_table();
        if (!depthwise && !(products && (pairs || (node.i("group", 1) == 1 && node.inputs[0] == DType::f32)))) return nullptr;
    }
    return std::make_unique<ConvKernel>(node, act);
}

HR_KERNEL("Conv", make_conv);
HR_KERNEL("headrace.FusedConv", make_conv);
HR_KERNEL("headrace.cpu.Conv", make_conv);

}  // namespace

}  // namespace hr
