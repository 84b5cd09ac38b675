// com.microsoft.MatMulNBits: weights of 4 or 8 bits that stay so in memory, unpacked in registers.
//
// accuracy_level 4 allows rows of 8-bit integers: each block of a row is quantized, symmetric, and the products are exact.
// Else rows stay float32.
#include <algorithm>
#include <cmath>

#include "kernels/gemm/common.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/tiers.h"
#include "kernels/quant/igemm.h"
#include "kernels/quant/nbits.h"
#include "pool.h"

namespace hr {

HR_TIER_TABLE(NbitsTable, nbits_kernels);

const NbitsTable& nbits_table() { return HR_OF_TIER(nbits_kernels, cpu_tier()); }

namespace {

constexpr int64_t kRowsAtOnce = 96;     // of A: with kDepthAtOnce values of k they lie in L2
constexpr int64_t kDepthAtOnce = 1024;

enum Input { kA, kB, kScales, kZeros, kGroups, kBias };

class NbitsKernel final : public Kernel {
public:
    explicit NbitsKernel(const NodeInfo& node) : table_(nbits_table()) {
        k_ = node.i("K", 0), n_ = node.i("N", 0), block_ = node.i("block_size", 0), bits_ = int(node.i("bits", 4));
        integer_ = node.i("accuracy_level", 0) == 4;
        blocks_ = ceil_div(k_, block_);
        const int64_t dwords = blocks_ * block_ * bits_ / 32, panels = ceil_div(n_, table_.nr);
        panel_b_ = dwords * table_.nr, panel_scale_ = blocks_ * table_.nr;
        const Part<uint32_t> b{b_, panels * panel_b_};
        const Part<float> scale{scale_, panels * panel_scale_};
        if (given(node, kZeros)) pack_once([&] { pack(node); }, b, scale, Part<uint8_t>{zero_, panels * panel_scale_});
        else pack_once([&] { pack(node); }, b, scale);
    }

    void pack(const NodeInfo& node) {
        const int64_t dwords = blocks_ * block_ * bits_ / 32, panels = ceil_div(n_, table_.nr);
        const uint8_t* zeros = given(node, kZeros) ? node.constants[kZeros]->as<uint8_t>() : nullptr;
        const int64_t zero_bytes = ceil_div(blocks_ * bits_, 8);
        for (int64_t p = 0; p < panels; p++) {
            const int64_t n0 = p * table_.nr, width = std::min<int64_t>(table_.nr, n_ - n0);
            gemm_table().transpose32(node.constants[kB]->as<uint32_t>() + n0 * dwords, dwords, width, dwords, b_.get() + p * panel_b_, table_.nr);
            gemm_table().transpose32(node.constants[kScales]->as<float>() + n0 * blocks_, blocks_, width, blocks_, scale_.get() + p * panel_scale_, table_.nr);
            for (int64_t i = 0; zeros && i < width; i++)
                for (int64_t b = 0; b < blocks_; b++) {
                    const uint8_t byte = zeros[(n0 + i) * zero_bytes + b * bits_ / 8];
                    zero_[p * panel_scale_ + b * table_.nr + i] = bits_ == 8 ? byte : b % 2 ? byte >> 4 : byte & 15;
                }
        }
    }

    static bool given(const NodeInfo& node, size_t i) { return i < node.inputs.size() && node.inputs[i] != DType::none; }

    static bool fits(const NodeInfo& node) {
        const int64_t k = node.i("K", 0), n = node.i("N", 0), block = node.i("block_size", 0), bits = node.i("bits", 4);
        if ((bits != 4 && bits != 8) || k < 1 || n < 1 || block < 16 || (block & (block - 1)) || k > INT32_MAX || n > INT32_MAX) return false;
        if (block > 1 << 16 || given(node, kGroups) || (given(node, kBias) && node.inputs[kBias] != DType::f32)) return false;
        const int64_t blocks = ceil_div(k, block);
        const auto constant = [&](size_t i, DType type, int64_t count) {
            return node.inputs[i] == type && node.constants[i] && node.constants[i]->count() == count;
        };
        return node.inputs.size() > kScales && node.inputs[kA] == DType::f32 && constant(kB, DType::u8, n * blocks * block * bits / 8) &&
               constant(kScales, DType::f32, n * blocks) && (!given(node, kZeros) || constant(kZeros, DType::u8, n * ceil_div(blocks * bits, 8)));
    }

    void shape(ShapeContext& c) const override {
        Shape out = c.in(kA).shape;
        if (out.rank == 0 || out[-1] != k_) throw std::invalid_argument("A is " + text(out) + "; allowed: [..., " + std::to_string(k_) + "]");
        if (c.has(kBias) && c.in(kBias).count() != n_) throw std::invalid_argument("the bias is " + text(c.in(kBias).shape) + "; allowed: [" + std::to_string(n_) + "]");
        out[-1] = n_;
        c.out(0, DType::f32, out);
        Scratch scratch;
        plan(rows_of(c.in(kA).shape), scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const int64_t m = rows_of(c.in(kA).shape);
        Scratch scratch(c.scratch);
        const Memory mem = plan(m, scratch);
        const float* bias = c.has(kBias) ? c.in(kBias).as<float>() : nullptr;
        for (int64_t m0 = 0; m0 < m; m0 += kRowsAtOnce) {
            const int64_t rows = std::min(kRowsAtOnce, m - m0);
            const float* a = c.in(kA).as<float>() + m0 * k_;
            if (mem.a)
                c.pool->parallel(rows, std::max<int64_t>(1, 16384 / k_), [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; i++) prepare(a + i * k_, i, mem);
                });
            NbitsBlock g{};
            g.m = rows, g.block = block_, g.a = mem.a ? static_cast<const void*>(mem.a) : a, g.lda = mem.a ? depth() * item() : k_ * 4;
            g.a_scale = mem.scale, g.a_sum = mem.sum, g.ld_scale = blocks_;
            g.panel_b = panel_b_, g.panel_scale = panel_scale_, g.ldc = n_;
            const int64_t panels = ceil_div(n_, table_.nr), pairs = ceil_div(panels, 2), work = rows * depth() * table_.nr * 2;
            c.pool->parallel(pairs, std::max<int64_t>(1, (integer_ ? 128 << 10 : 32 << 10) / work), [&](int64_t begin, int64_t end) {
                columns(g, begin * 2 * table_.nr, std::min(n_, end * 2 * table_.nr), c.out(0).as<float>() + m0 * n_, bias);
            });
        }
    }

    bool reads_data(int input) const override { return input == kA || input == kBias; }
    size_t packed_bytes() const override { return b_.bytes() + scale_.bytes() + zero_.bytes(); }
    std::string variant() const override {
        return "gemm_int" + std::to_string(bits_) + (integer_ ? "_int8_" : "_f32_") + table_.tier;
    }

private:
    struct Memory {
        char* a = nullptr;              // rows prepared
        float* scale = nullptr;
        int32_t* sum = nullptr;
    };

    int64_t rows_of(const Shape& a) const { return a.count(0, a.rank - 1); }
    int64_t depth() const { return blocks_ * block_; }
    int64_t item() const { return integer_ ? 1 : 4; }

    Memory plan(int64_t m, Scratch& scratch) const {
        Memory mem;
        const int64_t rows = std::min(m, kRowsAtOnce);
        if (integer_ || depth() != k_) mem.a = scratch.take<char>(rows * depth() * item());
        if (integer_) mem.scale = scratch.take<float>(rows * blocks_), mem.sum = scratch.take<int32_t>(rows * blocks_);
        return mem;
    }

    // Row i as the tiles read it, zeros up to a whole block.
    void prepare(const float* x, int64_t i, const Memory& mem) const {
        if (!integer_) {
            float* to = reinterpret_cast<float*>(mem.a) + i * depth();
            std::copy_n(x, k_, to);
            std::fill(to + k_, to + depth(), 0.0f);
            return;
        }
        const IntTable& ints = int_table();
        const int32_t no_zero = 0;
        int8_t levels[1 << 16];
        for (int64_t b = 0; b < blocks_; b++) {
            const float* from = x + b * block_;
            const int64_t width = std::min(block_, k_ - b * block_);
            float lo = 0, hi = 0;
            ints.min_max(from, width, &lo, &hi);
            float scale = (hi > -lo ? hi : -lo) / 127.0f;   // NaN where a value is
            if (scale == 0) scale = 1;
            ints.quantize(from, width, &scale, &no_zero, false, true, levels);
            std::fill(levels + width, levels + block_, int8_t(0));
            int8_t* to = reinterpret_cast<int8_t*>(mem.a) + i * depth() + b * block_;
            int32_t sum = 0;
            for (int64_t k = 0; k < block_; k++) sum += levels[k], to[nbits_order(bits_, k)] = levels[k];
            mem.scale[i * blocks_ + b] = scale, mem.sum[i * blocks_ + b] = sum;
        }
    }

    // Columns [n0, n1), n0 the first of a panel; where rows are many, one range of k after the other.
    void columns(NbitsBlock g, int64_t n0, int64_t n1, float* c, const float* bias) const {
        const int64_t some = g.m > table_.mr ? std::max<int64_t>(1, kDepthAtOnce / block_) : blocks_, panel = n0 / table_.nr;
        const char* a = static_cast<const char*>(g.a);
        g.n = n1 - n0, g.c = c + n0;
        for (int64_t b0 = 0; b0 < blocks_; b0 += some) {
            g.blocks = std::min(some, blocks_ - b0), g.first = b0 == 0;
            g.a = a + b0 * block_ * item();
            if (integer_) g.a_scale += b0 ? some : 0, g.a_sum += b0 ? some : 0;
            g.b = b_.get() + panel * panel_b_ + b0 * block_ * bits_ / 32 * table_.nr;
            g.scale = scale_.get() + panel * panel_scale_ + b0 * table_.nr;
            g.zero = zero_ ? zero_.get() + panel * panel_scale_ + b0 * table_.nr : nullptr;
            g.bias = bias && b0 + some >= blocks_ ? bias + n0 : nullptr;
            (integer_ ? table_.integer : table_.real)(bits_, g);
        }
    }

    const NbitsTable& table_;
    int64_t k_, n_, block_, blocks_, panel_b_, panel_scale_;
    int bits_;
    bool integer_;
    Packed<uint32_t> b_;
    Packed<float> scale_;
    Packed<uint8_t> zero_;
};

std::unique_ptr<Kernel> make_nbits(const NodeInfo& node) {
    return NbitsKernel::fits(node) ? std::make_unique<NbitsKernel>(node) : nullptr;
}

HR_KERNEL("com.microsoft.MatMulNBits", make_nbits);

}  // namespace

}  // namespace hr
