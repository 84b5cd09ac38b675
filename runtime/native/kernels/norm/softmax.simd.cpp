// Softmax and LogSoftmax of float32 along any axis; Softmax of float16 between conversions (half_kernel.cpp).
#include <algorithm>

#include "kernels/norm/softmax.inc.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

// Up to kLanes neighbouring columns of [n, inner] at once.
template <bool kLog, bool kHalf>
void softmax_columns(const float* x, float* y, int64_t n, int64_t inner, int64_t width) {
    const auto get = [&](const float* p) { return width == kLanes ? load(p) : load_part(p, width, 0); };
    const auto put = [&](float* p, vf v) { width == kLanes ? store(p, v) : store_part(p, v, width); };
    vf top = splat(-__builtin_inff());
    for (int64_t i = 0; i < n; i++) top = vmax(top, get(x + i * inner));
    vf total = vf{};
    for (int64_t i = 0; i < n; i++) {
        const vf e = exp_below<kHalf>(get(x + i * inner), top);
        if (!kLog) put(y + i * inner, e);
        total += e;
    }
    const vf last = kLog ? log(total) : splat(1.0f) / (kHalf ? round_to_half(total) : total);
    for (int64_t i = 0; i < n; i++) put(y + i * inner, kLog ? get(x + i * inner) - top - last : get(y + i * inner) * last);
}

template <bool kLog, bool kHalf>
class Softmax : public Kernel {
public:
    explicit Softmax(const NodeInfo& node) : axis_(node.i("axis", -1)) {}
    bool in_place(int i) const override { return i == 0; }
    std::string variant() const override { return std::string("softmax_f32_") + tier_name(); }
    void shape(ShapeContext& c) const override {
        if (c.in(0).shape.rank) resolve_axis(axis_, c.in(0).shape.rank);
        c.out(0, DType::f32, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        const Shape& s = c.in(0).shape;
        const int axis = s.rank ? resolve_axis(axis_, s.rank) : 0;
        const int64_t outer = s.count(0, axis), n = s.rank ? s.d[axis] : 1, inner = s.count(std::min(axis + 1, s.rank), s.rank);
        const float* x = c.in(0).as<float>();
        float* y = c.out(0).as<float>();
        if (!s.count()) return;
        if (inner == 1) {
            c.pool->parallel(outer, std::max<int64_t>(1, 4096 / n), [&](int64_t begin, int64_t end) {
                softmax_rows<kLog, kHalf>(x + begin * n, y + begin * n, end - begin, n);
            });
            return;
        }
        const int64_t groups = (inner + kLanes - 1) / kLanes;
        c.pool->parallel(outer * groups, std::max<int64_t>(1, 512 / n), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                const int64_t column = at % groups * kLanes, offset = at / groups * n * inner + column;
                softmax_columns<kLog, kHalf>(x + offset, y + offset, n, inner, std::min<int64_t>(kLanes, inner - column));
            }
        });
    }

private:
    int64_t axis_;
};

template <bool kLog>
std::unique_ptr<Kernel> softmax(const NodeInfo& node) {
    if (node.inputs[0] != DType::f32) return nullptr;
    if (!kLog && node.narrow == DType::f16) return std::make_unique<Softmax<kLog, true>>(node);
    return std::make_unique<Softmax<kLog, false>>(node);
}
HR_KERNEL("Softmax", softmax<false>);
HR_KERNEL("LogSoftmax", softmax<true>);

}  // namespace
}  // namespace hr::HR_TIER
