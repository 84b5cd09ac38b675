// Softmax and LogSoftmax of float32 along any axis.
#include <algorithm>

#include "kernels/elementwise/vector_math.inc.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

HR_INLINE vf load_part(const float* p, int64_t n, float fill) {
    float part[kLanes];
    store(part, splat(fill));
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}
HR_INLINE void store_part(float* p, vf v, int64_t n) {
    float part[kLanes];
    store(part, v);
    std::memcpy(p, part, size_t(n) * 4);
}
HR_INLINE float sum_of(vf v) {
    float part[kLanes];
    store(part, v);
    for (int half = kLanes / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}
HR_INLINE float max_of(vf v) {
    float part[kLanes], top;
    store(part, v);
    top = part[0];
    for (float x : part) top = x > top ? x : top;
    return top;
}
// A NaN anywhere makes the sum NaN, and so every result, whatever the largest element is taken to be. A row of -inf gives
// NaN, as subtracting infinities does.

template <bool kLog>
void softmax_row(const float* x, float* y, int64_t n) {
    const float low = -__builtin_inff();
    vf tops[4] = {splat(low), splat(low), splat(low), splat(low)};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes)
        HR_UNROLL for (int k = 0; k < 4; k++) tops[k] = vmax(tops[k], load(x + i + k * kLanes));
    vf top = vmax(vmax(tops[0], tops[1]), vmax(tops[2], tops[3]));
    for (; i + kLanes <= n; i += kLanes) top = vmax(top, load(x + i));
    if (i < n) top = vmax(top, load_part(x + i, n - i, low));
    const vf shift = splat(max_of(top));
    vf total = vf{};
    for (i = 0; i + kLanes <= n; i += kLanes) {
        const vf e = exp(load(x + i) - shift);
        if (!kLog) store(y + i, e);
        total += e;
    }
    if (i < n) {
        const vf e = exp(load_part(x + i, n - i, low) - shift);
        if (!kLog) store_part(y + i, e, n - i);
        total += e;
    }
    if (kLog) {
        float log_total[kLanes];
        store(log_total, log(splat(sum_of(total))));
        const vf l = splat(log_total[0]);
        for (i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(x + i) - shift - l);
        if (i < n) store_part(y + i, load_part(x + i, n - i, 0) - shift - l, n - i);
    } else {
        const vf scale = splat(1.0f / sum_of(total));
        for (i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) * scale);
        for (; i < n; i++) y[i] *= scale[0];
    }
}

// Up to kLanes neighbouring columns of [n, inner] at once.
template <bool kLog>
void softmax_columns(const float* x, float* y, int64_t n, int64_t inner, int64_t width) {
    const auto get = [&](const float* p) { return width == kLanes ? load(p) : load_part(p, width, 0); };
    const auto put = [&](float* p, vf v) { width == kLanes ? store(p, v) : store_part(p, v, width); };
    vf top = splat(-__builtin_inff());
    for (int64_t i = 0; i < n; i++) top = vmax(top, get(x + i * inner));
    vf total = vf{};
    for (int64_t i = 0; i < n; i++) {
        const vf e = exp(get(x + i * inner) - top);
        if (!kLog) put(y + i * inner, e);
        total += e;
    }
    const vf last = kLog ? log(total) : splat(1.0f) / total;
    for (int64_t i = 0; i < n; i++) put(y + i * inner, kLog ? get(x + i * inner) - top - last : get(y + i * inner) * last);
}

template <bool kLog>
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
                for (int64_t row = begin; row < end; row++) softmax_row<kLog>(x + row * n, y + row * n, n);
            });
            return;
        }
        const int64_t groups = (inner + kLanes - 1) / kLanes;
        c.pool->parallel(outer * groups, std::max<int64_t>(1, 512 / n), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                const int64_t column = at % groups * kLanes, offset = at / groups * n * inner + column;
                softmax_columns<kLog>(x + offset, y + offset, n, inner, std::min<int64_t>(kLanes, inner - column));
            }
        });
    }

private:
    int64_t axis_;
};

template <bool kLog>
std::unique_ptr<Kernel> softmax(const NodeInfo& node) {
    return node.inputs[0] == DType::f32 ? std::make_unique<Softmax<kLog>>(node) : nullptr;
}
HR_KERNEL("Softmax", softmax<false>);
HR_KERNEL("LogSoftmax", softmax<true>);

}  // namespace
}  // namespace hr::HR_TIER
