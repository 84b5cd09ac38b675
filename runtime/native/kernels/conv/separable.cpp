// headrace.cpu.SeparableConv: a depthwise convolution over two axes and the 1x1 convolution after it, with the 1x1 convolution
// before it where there is one (an inverted residual), channels last, constant weights. The same sums in the same order as those
// of the three nodes: the same bits.
//
// What lies between them is several times as large as what goes in and out, and never leaves L2: a strip of rows of one image at
// a time. Rows of the expanded image lie in a ring, so that each is computed once; a strip's rows after the depthwise step are the
// left side of the last product. Inputs: x, [weight, bias] expand, weight, bias depthwise, weight, bias project, residual.
#include <algorithm>
#include <array>
#include <vector>

#include "kernels/conv/depthwise.h"
#include "pool.h"

namespace hr {

namespace {

constexpr int64_t kStrip = 320 << 10;   // bytes of a strip: a third of L2, beside weights, input and output
constexpr int64_t kLeastRows = 96;      // pixels of a strip that the weights of a product are worth reading for
constexpr int64_t kLeastPart = 4;       // rows of the result for a thread: the rows at the seams are computed twice

// The activation that attributes with a prefix say.
bool read_part(const NodeInfo& node, const std::string& prefix, Activation& out) {
    NodeInfo own;
    for (const auto& [key, value] : node.attrs)
        if (key.rfind(prefix, 0) == 0) own.attrs[key.substr(prefix.size())] = value;
    const bool known = read_activation(own, out);
    for (const std::string& key : *own.asked) node.asked->insert(prefix + key);
    return known;
}

const Tensor* constant(const NodeInfo& node, size_t i) { return i < node.constants.size() ? node.constants[i] : nullptr; }

// Pixels times a matrix [features, channels].
class Pointwise {
public:
    Pointwise(const GemmTable& gemm, const Tensor& w, const Tensor* bias, const Activation& act)
        : gemm_(gemm), c_(gemm.narrow ? pairs_of(w.shape[1]) : w.shape[1]), f_(w.shape[0]) {
        const auto fill = [&] {
            std::vector<float> pairs;
            const float* from = w.as<float>();
            int64_t ldk = 1, ldn = c_;
            if (gemm_.narrow) pairs = paired(from, 1, w.shape[1], w.shape[1], f_), from = pairs.data(), ldk = f_, ldn = 1;
            pack_matrix(gemm_, Ranges(gemm_, 1, c_), from, ldk, ldn, f_, w_.get(), 0, ceil_div(f_, gemm_.nr));
        };
        pack_once(fill, Part<float>{w_, packed_floats(gemm_, 1, c_, f_)});
        if (bias) {
            bias_ = Packed<float>(round_up(f_, gemm_.nr));
            std::copy(bias->as<float>(), bias->as<float>() + f_, bias_.get());
        }
        epilogue_.act = act, epilogue_.ldr = f_, epilogue_.from_bias = true;
    }
    int64_t features() const { return f_; }
    size_t bytes() const { return w_.bytes() + bias_.bytes(); }

    // `x`: pixels side by side, of float32 or, for products of bf16, of that.
    void run(const void* x, int64_t pixels, const Output& y, const Reals& residual) const {
        const MatrixRows rows(static_cast<const float*>(x), c_);
        GemmProblem p{pixels, f_, 1, c_, &rows, w_.get(), y.low ? nullptr : static_cast<float*>(y.data), f_, epilogue_};
        if (y.low) p.low = static_cast<BFloat16*>(y.data);
        p.epilogue.bias = bias_ ? bias_.get() : nullptr, p.epilogue.residual = residual;
        const GemmPlan plan = plan_gemm(gemm_, pixels, f_, c_, 1);
        for (int64_t task = 0; task < plan.tasks(); task++) run_gemm_task(gemm_, p, plan, task);
    }

private:
    const GemmTable& gemm_;
    int64_t c_, f_;
    Packed<float> w_, bias_;
    Epilogue epilogue_;
};

class SeparableConv final : public Kernel {
public:
    SeparableConv(const NodeInfo& node, const Activation& expand, const Activation& depthwise, const Activation& project)
        : low_(node.inputs[0] == DType::bf16), gemm_(low_ ? *bf16_gemm_table() : gemm_table()), conv_(low_ ? *bf16_conv_table() : conv_table()),
          attributes_(node), act_(depthwise), y_(node.outputs[0]) {
        const Tensor& w = *constant(node, 3);
        middle_ = w.shape[0], kernel_ = {w.shape[2], w.shape[3]};
        if (const Tensor* e = constant(node, 1)) expand_.emplace_back(gemm_, *e, constant(node, 2), expand);
        channels_ = expand_.empty() ? middle_ : constant(node, 1)->shape[1];
        ld_ = round_up(middle_, 16);
        const int64_t t = kernel_[0] * kernel_[1];
        weights_ = Packed<float>(t * ld_);
        for (int64_t i = 0; i < t; i++)
            for (int64_t g = 0; g < middle_; g++) weights_[i * ld_ + g] = w.as<float>()[g * t + i];
        if (const Tensor* b = constant(node, 4)) {
            bias_ = Packed<float>(ld_);
            std::copy(b->as<float>(), b->as<float>() + middle_, bias_.get());
        }
        project_.emplace_back(gemm_, *constant(node, 5), constant(node, 6), project);
    }

    void shape(ShapeContext& c) const override {
        const Window w = window(c.in(0).shape);
        const Shape out{w.n, w.out[1], w.out[2], features()};
        if (c.has(7) && c.in(7).shape != out) throw std::invalid_argument("the residual is " + text(c.in(7).shape) + ", the result " + text(out));
        c.out(0, y_, out);
        const Strips s(*this, w, c.threads);
        c.scratch = size_t(s.slots) * memory(w, s).used();
    }

    void run(RunContext& c) const override {
        const Window w = window(c.in(0).shape);
        if (!w.rows()) return;
        const Strips s(*this, w, c.pool->threads());
        const size_t bytes = memory(w, s).used();
        c.pool->parallel(s.slots, 1, [&](int64_t begin, int64_t end) {
            for (int64_t slot = begin; slot < end; slot++) {
                const Memory mem = memory(w, s, static_cast<char*>(c.scratch) + size_t(slot) * bytes);
                std::memset(mem.zeros, 0, size_t(middle_) * 4);
                for (int64_t i = slot; i < w.n * s.parts; i += s.slots) {
                    const int64_t part = i % s.parts;
                    run_rows(w, s, i / s.parts, w.out[1] * part / s.parts, w.out[1] * (part + 1) / s.parts, mem, c);
                }
            }
        });
    }

    bool reads_data(int input) const override { return input == 0 || input == 7; }
    size_t packed_bytes() const override {
        return weights_.bytes() + bias_.bytes() + project_[0].bytes() + (expand_.empty() ? 0 : expand_[0].bytes());
    }
    std::string variant() const override { return std::string(low_ ? "separable_bf16_" : "separable_f32_") + gemm_.tier + (y_ == DType::bf16 ? " -> bf16" : ""); }

private:
    int64_t item() const { return low_ ? 2 : 4; }
    int64_t features() const { return project_[0].features(); }
    Output at(char* p, int64_t i) const { return {p + i * item(), low_}; }

    // How the rows of a result go in strips, an image's strips in parts, parts to slots of scratch memory. No bit depends on it.
    struct Strips {
        int64_t rows, parts, slots, ring;   // ring: rows of the expanded image that are kept
        Strips(const SeparableConv& k, const Window& w, int threads) {
            const int64_t extent = (w.kernel[1] - 1) * w.dilation[1] + 1, high = std::max<int64_t>(1, w.out[1]);
            const auto kept = [&](int64_t r) { return k.expand_.empty() ? 0 : std::min(w.in[1], (r - 1) * w.stride[1] + extent); };
            const auto bytes = [&](int64_t r) { return (kept(r) * w.in[2] + r * w.out[2]) * w.c * k.item(); };
            parts = std::clamp<int64_t>(ceil_div(threads, std::max<int64_t>(1, w.n)), 1, std::max<int64_t>(1, high / kLeastPart));
            const int64_t most = ceil_div(high, parts), least = std::min(most, ceil_div(kLeastRows, std::max<int64_t>(1, w.out[2])));
            for (rows = least; rows < most && bytes(rows + 1) <= kStrip;) rows++;
            rows = ceil_div(most, ceil_div(most, rows));
            ring = kept(rows), slots = std::clamp<int64_t>(w.n * parts, 1, threads);
        }
    };
    struct Memory {
        Scratch scratch;
        char *ring = nullptr, *middle = nullptr;
        float* zeros = nullptr;
        size_t used() const { return scratch.used(); }
    };
    Memory memory(const Window& w, const Strips& s, void* base = nullptr) const {
        Memory m{Scratch(base)};
        m.ring = m.scratch.take<char>(s.ring * w.in[2] * w.c * item());
        m.middle = m.scratch.take<char>(s.rows * w.out[2] * w.c * item());
        m.zeros = m.scratch.take<float>(w.c);
        return m;
    }

    // Of the depthwise step.
    Window window(const Shape& x) const {
        if (x.rank != 4 || x[3] != channels_) throw std::invalid_argument("input " + text(x) + " does not have " + std::to_string(channels_) + " channels last");
        return make_window(attributes_, x[0], middle_, x.d + 1, kernel_.data(), 2);
    }

    // Rows [o0, o1) of an image's result.
    void run_rows(const Window& w, const Strips& s, int64_t image, int64_t o0, int64_t o1, const Memory& mem, RunContext& c) const {
        const char* x = c.in(0).as<char>() + image * w.in_pixels() * channels_ * item();
        const int64_t row = w.in[2] * w.c * item(), extent = (w.kernel[1] - 1) * w.dilation[1];
        int64_t next = 0;       // the first row that is not in the ring yet
        for (int64_t o = o0; o < o1; o += s.rows) {
            const int64_t end = std::min(o1, o + s.rows);
            if (!expand_.empty()) {
                const int64_t last = std::min(w.in[1], (end - 1) * w.stride[1] - w.begin[1] + extent + 1);
                next = std::max({next, int64_t(0), o * w.stride[1] - w.begin[1]});
                while (next < last) {
                    const int64_t slot = next % s.ring, n = std::min(last - next, s.ring - slot);
                    expand_[0].run(x + next * w.in[2] * channels_ * item(), n * w.in[2], {mem.ring + slot * row, low_}, {});
                    next += n;
                }
            }
            for (int64_t i = o; i < end; i++)
                run_depthwise(w, i, expand_.empty() ? x : mem.ring, expand_.empty() ? w.in[1] : s.ring, mem.zeros, at(mem.middle, (i - o) * w.out[2] * w.c));
            const int64_t first = (image * w.out[1] + o) * w.out[2] * features();
            const Output y = Output{c.out(0).data, y_ == DType::bf16} + first;
            project_[0].run(mem.middle, (end - o) * w.out[2], y, c.has(7) ? reals(c.in(7)) + first : Reals());
        }
    }

    // One row of the depthwise step; row i of its input is row i % `ring` of `rows`.
    void run_depthwise(const Window& w, int64_t o, const char* rows, int64_t ring, const float* zeros, const Output& out) const {
        DepthwiseBlock d{};
        d.c = w.c, d.low = low_, d.w = weights_.get(), d.ldw = ld_, d.out = out, d.ldo = w.c;
        d.epilogue.act = act_, d.epilogue.bias = bias_ ? bias_.get() : nullptr;
        depthwise_row(conv_, w, d, 0, w.out[2], zeros, [&](int64_t tap) -> const char* {
            const int64_t i = o * w.stride[1] - w.begin[1] + tap * w.dilation[1];
            return uint64_t(i) < uint64_t(w.in[1]) ? rows + i % ring * w.in[2] * w.c * item() : nullptr;
        });
    }

    bool low_;
    const GemmTable& gemm_;
    const ConvTable& conv_;
    WindowAttributes attributes_;
    Activation act_;
    DType y_;
    int64_t channels_ = 0, middle_ = 0, ld_ = 0;
    std::array<int64_t, 2> kernel_{};
    std::vector<Pointwise> expand_, project_;   // none or one; one
    Packed<float> weights_, bias_;
};

std::unique_ptr<Kernel> make_separable(const NodeInfo& node) {
    if (node.inputs.size() < 6 || node.inputs.size() > 8) return nullptr;
    const bool low = node.inputs[0] == DType::bf16;
    const auto given = [&](size_t i) { return i < node.inputs.size() && node.inputs[i] != DType::none; };
    const auto real = [&](DType t) { return t == DType::f32 || (low && t == DType::bf16); };
    if ((low && !bf16_conv_table()) || !real(node.inputs[0]) || !real(node.outputs[0]) || (given(7) && !real(node.inputs[7]))) return nullptr;
    for (size_t i = 1; i < 7; i++)
        if (given(i) && (!constant(node, i) || node.inputs[i] != DType::f32)) return nullptr;
    const Tensor *e = constant(node, 1), *d = constant(node, 3), *p = constant(node, 5);
    if (!d || !p || d->shape.rank != 4 || p->shape.rank != 4 || d->shape[1] != 1 || d->shape.count(2, 4) > 64) return nullptr;
    const int64_t middle = d->shape[0];
    const auto pointwise = [&](const Tensor& w, int64_t c) { return w.shape.rank == 4 && w.shape[1] == c && w.shape[2] == 1 && w.shape[3] == 1 && (!low || c % 2 == 0); };
    if (!pointwise(*p, middle) || (e && !pointwise(*e, e->shape[1])) || (e && e->shape[0] != middle)) return nullptr;
    const auto fits = [&](size_t i, int64_t n) { return !given(i) || constant(node, i)->count() == n; };
    if (!fits(2, middle) || !fits(4, middle) || !fits(6, p->shape[0])) return nullptr;
    Activation expand, depthwise, project;
    if (!read_part(node, "expand_", expand) || !read_activation(node, depthwise) || !read_part(node, "project_", project)) return nullptr;
    return std::make_unique<SeparableConv>(node, expand, depthwise, project);
}

HR_KERNEL("headrace.cpu.SeparableConv", make_separable);

}  // namespace

}  // namespace hr
