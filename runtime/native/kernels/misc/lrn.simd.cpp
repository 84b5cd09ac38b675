// LRN of float32: each number by a power of the sum of squares over neighbouring channels.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/elementwise/broadcast.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

constexpr int64_t kBlock = 256;     // places of one channel at a time

class Lrn : public Kernel {
public:
    explicit Lrn(const NodeInfo& node)
        : size_(node.i("size", 1)), factor_(float(node.f("alpha", 1e-4) / double(size_))), beta_(float(node.f("beta", 0.75))), bias_(float(node.f("bias", 1))) {}
    std::string variant() const override { return "lrn"; }
    void shape(ShapeContext& c) const override {
        if (c.in(0).shape.rank < 2) throw std::invalid_argument("X is " + text(c.in(0).shape) + "; allowed: [batch, channels, ...]");
        c.out(0, DType::f32, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int64_t channels = s.d[1], inner = s.count(2, s.rank), blocks = (inner + kBlock - 1) / kBlock, before = (size_ - 1) / 2;
        const float* x = c.in(0).as<float>();
        float* y = c.out(0).as<float>();
        if (!s.count()) return;
        c.pool->parallel(s.d[0] * channels * blocks, std::max<int64_t>(1, 2048 / std::min(inner, kBlock)), [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) {
                const int64_t image = task / (channels * blocks), channel = task / blocks % channels, start = task % blocks * kBlock;
                const int64_t width = std::min(kBlock, inner - start), from = std::max<int64_t>(0, channel - before), to = std::min(channels, channel - before + size_);
                const int64_t place = image * channels * inner + start;
                float sums[kBlock] = {};
                for (int64_t k = from; k < to; k++)
                    for (int64_t i = 0; i < width; i++) sums[i] += x[place + k * inner + i] * x[place + k * inner + i];
                const float* source = x + place + channel * inner;
                float* out = y + place + channel * inner;
                for (int64_t i = 0; i < width; i++) sums[i] = bias_ + factor_ * sums[i];
                if (beta_ == 0.75f) {   // the usual power, by square roots
                    for (int64_t i = 0; i < width; i++) out[i] = source[i] / (std::sqrt(sums[i]) * std::sqrt(std::sqrt(sums[i])));
                } else {
                    for (int64_t i = 0; i < width; i++) out[i] = source[i] / std::pow(sums[i], beta_);
                }
            }
        });
    }

private:
    int64_t size_;
    float factor_, beta_, bias_;
};

std::unique_ptr<Kernel> lrn(const NodeInfo& node) {
    if (node.inputs[0] != DType::f32 || node.i("size", 0) < 1) return nullptr;
    return std::make_unique<Lrn>(node);
}
HR_KERNEL("LRN", lrn);

}  // namespace
}  // namespace hr::HR_TIER
