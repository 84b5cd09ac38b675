// Where and Clip: choices, for every element type that is not text.
#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/elementwise/broadcast.h"
#include "pool.h"
#include "types.h"

namespace hr::HR_TIER {
namespace {

template <class T>
void where_row(const Row& row) {
    const bool* c = static_cast<const bool*>(row.in[0]);
    const T *x = static_cast<const T*>(row.in[1]), *y = static_cast<const T*>(row.in[2]);
    T* out = static_cast<T*>(row.out);
    const int64_t n = row.n, sc = row.moves[0], sx = row.moves[1], sy = row.moves[2];
    if (!sc) {
        const T* from = c[0] ? x : y;
        const int64_t s = c[0] ? sx : sy;
        for (int64_t i = 0; i < n; i++) out[i] = from[i * s];
    } else if (sx && sy) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            const T mask = T(0) - T(c[i]);     // all ones or none: a choice without a branch
            out[i] = T((x[i] & mask) | (y[i] & ~mask));
        }
    } else {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
            const T mask = T(0) - T(c[i]);
            out[i] = T((x[i * sx] & mask) | (y[i * sy] & ~mask));
        }
    }
}

std::unique_ptr<Kernel> where(const NodeInfo& node) {
    Elementwise what;
    what.operands = 3, what.like = 1, what.variant = "where";
    switch (item_size(node.inputs[1])) {
        case 1: what.row = where_row<uint8_t>; break;
        case 2: what.row = where_row<uint16_t>; break;
        case 4: what.row = where_row<uint32_t>; break;
        case 8: what.row = where_row<uint64_t>; break;
        default: return nullptr;
    }
    return make_elementwise(node, std::move(what));
}
HR_KERNEL("Where", where);

// min(max(x, low), high); NaN stays.
template <class T>
void clip(const T* x, T* y, T low, T high, int64_t begin, int64_t end) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; i++) {
        const T v = x[i] < low ? low : x[i];
        y[i] = v > high ? high : v;
    }
}

template <class T>
class Clip : public Kernel {
public:
    void shape(ShapeContext& c) const override { c.out(0, c.in(0).dtype, c.in(0).shape); }
    bool in_place(int i) const override { return i == 0; }
    std::string variant() const override { return "clip"; }
    void run(RunContext& c) const override {
        const T* x = c.in(0).as<T>();
        T* y = c.out(0).template as<T>();
        T low = std::numeric_limits<T>::lowest(), high = std::numeric_limits<T>::max();
        if constexpr (std::is_floating_point_v<T>) low = -std::numeric_limits<T>::infinity(), high = -low;
        if (c.has(1)) low = c.in(1).as<T>()[0];
        if (c.has(2)) high = c.in(2).as<T>()[0];
        if (low != low || high != high) {       // a bound that is NaN makes everything NaN
            std::fill_n(y, c.out(0).count(), low != low ? low : high);
            return;
        }
        c.pool->parallel(c.out(0).count(), 16384, [&](int64_t begin, int64_t end) { clip(x, y, low, high, begin, end); });
    }
};

template <class... Ts>
std::unique_ptr<Kernel> clip_for(DType dtype) {
    std::unique_ptr<Kernel> found;
    ((dtype == code_of<Ts> ? void(found = std::make_unique<Clip<Ts>>()) : void()), ...);
    return found;
}
std::unique_ptr<Kernel> make_clip(const NodeInfo& node) {
    return clip_for<float, double, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t>(node.inputs[0]);
}
HR_KERNEL("Clip", make_clip);

}  // namespace
}  // namespace hr::HR_TIER
