// headrace.cpu.WinogradConv: 3x3, stride 1, one group, constant weights, channels last, f32; see winograd.h. Attribute `tile`:
// M. Its input, residual and result may each be bf16 where the CPU has it. The weights are transformed in double when the kernel is
// made, and packed, a matrix for each point; or, with `expand`, in float32 in each run: the kernel then holds no more than them.
//
// Tiles go in blocks whose transformed pixels stay in L2; a block multiplies all points of some features at a time. A result
// depends on its own tile alone, whatever the block.
#include "kernels/conv/winograd.h"

#include <algorithm>
#include <vector>

#include "kernels/conv/window.h"
#include "kernels/gemm/tiers.h"
#include "pool.h"

namespace hr {

HR_TIER_TABLE(WinogradTable, winograd_kernels);
#ifdef HR_HAS_BF16
namespace avx512_bf16 { extern const WinogradTable winograd_kernels; }
#endif

namespace {

// The transforms for a node's element types and precision.
const WinogradTable& table_of(const NodeInfo& node) {
#ifdef HR_HAS_BF16
    if (&conv_table_for(node) == bf16_conv_table()) return avx512_bf16::winograd_kernels;
#endif
    return HR_OF_TIER(winograd_kernels, cpu_tier());
}

constexpr int64_t kPixelBytes = 640 << 10;  // transformed pixels of one block: most of L2, the sums of its features the rest
constexpr int64_t kFeatures = 64;           // features at a time, a multiple of every tier's panels

class WinogradConv final : public Kernel {
public:
    WinogradConv(const NodeInfo& node, const Activation& act, int tile)
        : gemm_(gemm_table()), table_(table_of(node)), attributes_(node), act_(act), y_(node.outputs[0]), m_(tile) {
        const Tensor& w = *node.constants[1];
        f_ = w.shape[0], c_ = w.shape[1];
        expand_ = node.i("expand", 0) != 0;
        if (expand_) pack_once([&] { keep(w.as<float>()); }, Part<float>{packed_, 9 * size()});
        else pack_once([&] { pack(w.as<float>()); }, Part<float>{packed_, points() * size()});
        if (const Tensor* b = node.constants.size() > 2 ? node.constants[2] : nullptr) {
            bias_ = Packed<float>(round_up(f_, gemm_.nr));
            std::copy(b->as<float>(), b->as<float>() + f_, bias_.get());
        }
    }

    void shape(ShapeContext& c) const override {
        const Window w = window(c.in(0).shape, c.in(1).shape);
        c.out(0, y_, Shape{w.n, w.out[1], w.out[2], f_});
        if (c.has(3) && c.in(3).shape != Shape{w.n, w.out[1], w.out[2], f_})
            throw std::invalid_argument("the residual is " + text(c.in(3).shape) + ", the result " + text(Shape{w.n, w.out[1], w.out[2], f_}));
        const Blocks b(*this, w, c.threads);
        c.scratch = b.shared.used() + size_t(b.slots) * slot(b).used();
    }

    void run(RunContext& c) const override {
        const Window w = window(c.in(0).shape, c.in(1).shape);
        if (!w.rows()) return;
        Blocks b(*this, w, c.pool->threads());
        Scratch shared(c.scratch);
        float* zeros = shared.take<float>(c_);
        std::memset(zeros, 0, size_t(c_) * 4);
        const float* weights = packed_.get();
        if (expand_) weights = expand(shared.take<float>(points() * point_step()), *c.pool);
        Epilogue e;
        e.act = act_, e.bias = bias_ ? bias_.get() : nullptr;
        if (c.has(3)) e.residual = reals(c.in(3));
        const size_t bytes = slot(b).used();
        c.pool->parallel(b.slots, 1, [&](int64_t begin, int64_t end) {
            for (int64_t s = begin; s < end; s++) {
                const Memory mem = slot(b, static_cast<char*>(c.scratch) + shared.used() + size_t(s) * bytes);
                for (int64_t i = s; i < b.count; i += b.slots)
                    run_block(w, b, b.tiles * i / b.count, b.tiles * (i + 1) / b.count, reals(c.in(0)), zeros, weights, mem, {c.out(0).data, y_ == DType::bf16}, e);
            }
        });
    }

    bool in_place(int input) const override { return input == 3; }   // read just before it is written
    bool reads_data(int input) const override { return input != 1 && !(input == 2 && bias_); }
    size_t packed_bytes() const override { return packed_.bytes() + bias_.bytes(); }
    std::string variant() const override { return "winograd" + std::to_string(m_) + "_f32_" + gemm_.tier + (y_ == DType::bf16 ? " -> bf16" : ""); }

private:
    int64_t size() const { return packed_floats(gemm_, 1, c_, f_); }     // of a matrix
    int64_t point_step() const { return size() + (expand_ ? 2 * gemm_.nr : 0); }     // so that points do not share a set of L1
    int64_t points() const { return (m_ + 2) * (m_ + 2); }
    int64_t pixel_step() const { return round_up(c_, 16) + 16; }    // apart, so that rows do not share a set of L1
    int64_t sum_step() const { return kFeatures + 16; }
    int64_t group() const { return kFeatures / gemm_.nr; }           // panels at a time

    // The tiles of all images, and the blocks in which they are worked on.
    struct Blocks {
        int64_t down, across, tiles, count, most, slots;
        Scratch shared;
        Blocks(const WinogradConv& k, const Window& w, int threads) : down(ceil_div(w.out[1], k.m_)), across(ceil_div(w.out[2], k.m_)), tiles(w.n * down * across) {
            const int64_t fit = std::max<int64_t>(k.gemm_.mr, kPixelBytes / (k.points() * k.pixel_step() * 4) / k.gemm_.mr * k.gemm_.mr);
            count = std::max<int64_t>(1, ceil_div(tiles, fit));
            if (threads > 1) count = std::clamp<int64_t>(round_up(count, threads), 1, std::max<int64_t>(1, ceil_div(tiles, k.gemm_.mr)));
            most = ceil_div(tiles, count), slots = std::min<int64_t>(count, threads);
            shared.take<float>(k.c_);
            if (k.expand_) shared.take<float>(k.points() * k.point_step());
        }
    };
    struct Memory {
        Scratch scratch;
        float *pixels = nullptr, *sums = nullptr;
        size_t used() const { return scratch.used(); }
    };
    Memory slot(const Blocks& b, void* base = nullptr) const {
        Memory m{Scratch(base)};
        m.pixels = m.scratch.take<float>(points() * b.most * pixel_step());
        m.sums = m.scratch.take<float>(points() * b.most * sum_step());
        return m;
    }

    Window window(const Shape& x, const Shape& w) const {
        if (x.rank != 4 || x[3] != c_ || w != Shape{f_, c_, 3, 3})
            throw std::invalid_argument("input " + text(x) + " does not fit the weight " + text(w));
        return make_window(attributes_, x[0], c_, x.d + 1, w.d + 2, 2);
    }

    // As they are, panel by panel of features.
    void keep(const float* w) {
        for (int64_t f = 0; f < f_; f++)
            for (int64_t c = 0; c < c_; c++)
                for (int64_t t = 0; t < 9; t++) packed_[((f / gemm_.nr * c_ + c) * 9 + t) * gemm_.nr + f % gemm_.nr] = w[(f * c_ + c) * 9 + t];
    }

    // The matrices of all points, packed.
    const float* expand(float* out, ThreadPool& pool) const {
        const int64_t panels = ceil_div(f_, gemm_.nr);
        const Ranges ranges(gemm_, 1, c_);
        pool.parallel(panels * ranges.count(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const auto r = ranges[i % ranges.count()];
                const int64_t p = i / ranges.count(), channels = r.k1 - r.k0;
                table_.panel[m_ == 2 ? 0 : 1]({packed_.get() + (p * c_ + r.k0) * 9 * gemm_.nr, channels, gemm_.nr, out + (r.start * panels + p * channels) * gemm_.nr, point_step()});
            }
        });
        return out;
    }

    void pack(const float* w) {
        const int64_t size = this->size(), panels = ceil_div(f_, gemm_.nr);
        const Ranges ranges(gemm_, 1, c_);
        std::vector<float> matrices(size_t(points() * c_ * gemm_.nr));  // of one panel of features
        for (int64_t p = 0; p < panels; p++) {
            const int64_t first = p * gemm_.nr, width = std::min<int64_t>(gemm_.nr, f_ - first);
            table_.weights[m_ == 2 ? 0 : 1]({w + first * c_ * 9, width, c_, matrices.data(), gemm_.nr});
            // Panel p of a matrix of all features, from its own columns.
            for (int64_t i = 0; i < points(); i++)
                pack_matrix(gemm_, ranges, matrices.data() + i * c_ * gemm_.nr - first, gemm_.nr, 1, f_, packed_.get() + i * size, p, p + 1);
        }
    }

    void run_block(const Window& w, const Blocks& b, int64_t tile0, int64_t tile1, const Reals& x, const float* zeros, const float* weights, const Memory& mem, Output y,
                   const Epilogue& e) const {
        const int64_t n = m_ + 2, tiles = tile1 - tile0, panels = ceil_div(f_, gemm_.nr);
        const int which = m_ == 2 ? 0 : 1;
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t tile = tile0 + t, image = tile / (b.down * b.across);
            const int64_t i1 = tile / b.across % b.down * m_ - w.begin[1], i2 = tile % b.across * m_ - w.begin[2];
            const void* pixels[36];
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++) {
                    const bool inside = uint64_t(i1 + i) < uint64_t(w.in[1]) && uint64_t(i2 + j) < uint64_t(w.in[2]);
                    pixels[i * n + j] = inside ? (x + ((image * w.in[1] + i1 + i) * w.in[2] + i2 + j) * c_).data : zeros;
                }
            table_.input[which]({pixels, x.low, c_, mem.pixels + t * pixel_step(), tiles * pixel_step()});
        }
        for (int64_t p = 0; p < panels; p += group()) {
            const int64_t f0 = p * gemm_.nr, f1 = std::min(f_, f0 + kFeatures);
            for (int64_t i = 0; i < points(); i++) {
                const MatrixRows rows(mem.pixels + i * tiles * pixel_step(), pixel_step());
                // Column f0 of all features is column f0 here: `c` is moved back, the plan names the group of panels.
                const GemmProblem g{tiles, f_, 1, c_, &rows, weights + i * point_step(), mem.sums + i * tiles * sum_step() - f0, sum_step(), {}};
                run_gemm_task(gemm_, g, {tiles, 1, group(), ceil_div(panels, group())}, p / group());
            }
            for (int64_t t = 0; t < tiles; t++) {
                const int64_t tile = tile0 + t, image = tile / (b.down * b.across);
                const int64_t o1 = tile / b.across % b.down * m_, o2 = tile % b.across * m_;
                int64_t at[16];
                for (int64_t i = 0; i < m_; i++)
                    for (int64_t j = 0; j < m_; j++) {
                        const bool inside = o1 + i < w.out[1] && o2 + j < w.out[2];
                        at[i * m_ + j] = inside ? ((image * w.out[1] + o1 + i) * w.out[2] + o2 + j) * f_ + f0 : -1;
                    }
                WinogradOutput out{mem.sums + t * sum_step(), tiles * sum_step(), f1 - f0, y, at, e};
                if (e.bias) out.epilogue.bias += f0;
                table_.output[which](out);
            }
        }
    }

    const GemmTable& gemm_;
    const WinogradTable& table_;
    WindowAttributes attributes_;
    Activation act_;
    DType y_;
    int64_t m_, f_ = 0, c_ = 0;
    bool expand_ = false;
    Packed<float> packed_, bias_;
};

std::unique_ptr<Kernel> make_winograd(const NodeInfo& node) {
    const auto constant = [&](size_t i) { return i < node.constants.size() ? node.constants[i] : nullptr; };
    const auto given = [&](size_t i) { return i < node.inputs.size() && node.inputs[i] != DType::none; };
    const Tensor *w = constant(1), *b = constant(2);
    const int64_t tile = node.i("tile", 4);
    Activation act;
    if (node.inputs.empty() || !takes_reals(node) || !w || w->dtype != DType::f32 || w->shape.rank != 4 || w->shape[2] != 3 || w->shape[3] != 3 ||
        (given(2) && (!b || b->count() != w->shape[0])) || (tile != 2 && tile != 4) || node.i("group", 1) != 1 || !read_activation(node, act))
        return nullptr;
    for (const char* key : {"strides", "dilations"})
        for (int64_t x : node.ints(key))
            if (x != 1) return nullptr;
    return std::make_unique<WinogradConv>(node, act, int(tile));
}

HR_KERNEL("headrace.cpu.WinogradConv", make_winograd);

}  // namespace

}  // namespace hr
