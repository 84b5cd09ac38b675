// ArgMax, ArgMin, TopK, CumSum, Hardmax: places and running sums along one axis.
#include <algorithm>
#include <numeric>
#include <type_traits>

#include "buffer.h"
#include "kernel.h"
#include "kernels/shape/strided.h"
#include "pool.h"
#include "types.h"

namespace hr::HR_TIER {
namespace {

struct Along {
    int64_t outer, size, inner;
};

Along along(const Shape& shape, int axis) { return {shape.count(0, axis), shape.d[axis], shape.count(axis + 1, shape.rank)}; }

// NaN counts as the largest for TopK; for ArgMax and ArgMin the first NaN wins, as in NumPy.
template <class T>
class ArgExtreme : public Kernel {
public:
    explicit ArgExtreme(const NodeInfo& node)
        : axis_(node.i("axis", 0)), keep_(node.i("keepdims", 1)), last_(node.i("select_last_index", 0)), max_(node.op == "ArgMax") {}
    void shape(ShapeContext& c) const override {
        const Shape& from = c.in(0).shape;
        const int axis = resolve_axis(axis_, from.rank);
        if (from.d[axis] == 0 && from.count(0, axis) * from.count(axis + 1, from.rank) > 0) throw std::invalid_argument("an empty axis has no extreme");
        Shape to;
        for (int i = 0; i < from.rank; i++) {
            if (i != axis) to.push(from.d[i]);
            else if (keep_) to.push(1);
        }
        c.out(0, DType::i64, to);
    }
    void run(RunContext& c) const override {
        const Along a = along(c.in(0).shape, resolve_axis(axis_, c.in(0).shape.rank));
        if (max_) last_ ? fill<true, true>(c, a) : fill<true, false>(c, a);
        else last_ ? fill<false, true>(c, a) : fill<false, false>(c, a);
    }

private:
    static constexpr int64_t kLanes = 64;
    using Place = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;     // as wide as an element: lanes stay aligned

    template <bool kMax, bool kLast>
    static bool better(T now, T best) {
        const bool beats = kMax ? (kLast ? now >= best : now > best) : (kLast ? now <= best : now < best);
        if constexpr (!std::is_floating_point_v<T>) return beats;
        return best != best ? kLast & (now != now) : (now != now) | beats;
    }

    // Many columns at once, row after row: best and place hold what is known of `lanes` columns.
    template <bool kMax, bool kLast>
    static void scan(const T* x, int64_t step, int64_t rows, int64_t lanes, T* best, Place* place) {
        for (int64_t i = 0; i < lanes; i++) best[i] = x[i], place[i] = 0;
        for (int64_t k = 1; k < rows; k++) {
            const T* row = x + k * step;
#pragma GCC ivdep
            for (int64_t i = 0; i < lanes; i++) {
                const T now = row[i];
                const bool take = better<kMax, kLast>(now, best[i]);
                best[i] = take ? now : best[i];
                place[i] = take ? Place(k) : place[i];
            }
        }
    }

    // A contiguous row as lanes side by side, which then meet: of equal ones the first, or the last.
    template <bool kMax, bool kLast>
    static int64_t along_row(const T* x, int64_t n) {
        T best = x[0];
        int64_t place = 0;
        int64_t from = 1;
        if (n >= 2 * kLanes && n < (int64_t(1) << 31)) {
            T lane_best[kLanes];
            Place lane_place[kLanes];
            scan<kMax, kLast>(x, kLanes, n / kLanes, kLanes, lane_best, lane_place);
            best = lane_best[0], place = int64_t(lane_place[0]) * kLanes;
            for (int64_t i = 1; i < kLanes; i++) {
                const int64_t at = int64_t(lane_place[i]) * kLanes + i;
                const bool equal = lane_best[i] == best || (best != best && lane_best[i] != lane_best[i]);
                if (equal ? (kLast ? at > place : at < place) : better<kMax, kLast>(lane_best[i], best)) best = lane_best[i], place = at;
            }
            from = n / kLanes * kLanes;
        }
        for (int64_t k = from; k < n; k++)
            if (better<kMax, kLast>(x[k], best)) best = x[k], place = k;
        return place;
    }

    template <bool kMax, bool kLast>
    void fill(RunContext& c, const Along& a) const {
        const T* x = c.in(0).as<T>();
        int64_t* y = c.out(0).as<int64_t>();
        if (a.inner == 1) {
            c.pool->parallel(a.outer, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, a.size)), [&](int64_t begin, int64_t end) {
                for (int64_t at = begin; at < end; at++) y[at] = along_row<kMax, kLast>(x + at * a.size, a.size);
            });
            return;
        }
        const int64_t tiles = (a.inner + kLanes - 1) / kLanes;
        c.pool->parallel(a.outer * tiles, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, a.size * kLanes)), [&](int64_t begin, int64_t end) {
            T best[kLanes];
            Place place[kLanes];
            for (int64_t at = begin; at < end; at++) {
                const int64_t o = at / tiles, column = at % tiles * kLanes, lanes = std::min(kLanes, a.inner - column);
                scan<kMax, kLast>(x + o * a.size * a.inner + column, a.inner, a.size, lanes, best, place);
                std::copy_n(place, lanes, y + o * a.inner + column);
            }
        });
    }

    int64_t axis_;
    bool keep_, last_, max_;
};

template <class T>
class TopK : public Kernel {
public:
    explicit TopK(const NodeInfo& node) : axis_(node.i("axis", -1)), largest_(node.i("largest", 1)) {}
    bool needs_value(int i) const override { return i == 1; }
    void shape(ShapeContext& c) const override {
        Shape to = c.in(0).shape;
        const int axis = resolve_axis(axis_, to.rank);
        const int64_t k = *c.in(1).as<int64_t>();
        if (k < 0 || k > to.d[axis]) throw std::invalid_argument("K is " + std::to_string(k) + "; allowed: 0 to " + std::to_string(to.d[axis]) + ", the size of axis " + std::to_string(axis));
        to.d[axis] = k;
        c.out(0, c.in(0).dtype, to);
        c.out(1, DType::i64, to);
    }
    void run(RunContext& c) const override {
        const int axis = resolve_axis(axis_, c.in(0).shape.rank);
        const Along a = along(c.in(0).shape, axis);
        const int64_t k = c.out(0).shape.d[axis];
        const T* x = c.in(0).as<T>();
        T* values = c.out(0).template as<T>();
        int64_t* places = c.n_outputs > 1 ? c.out(1).template as<int64_t>() : nullptr;
        if (k <= kFew && a.size > 4 * k) return few(c, a, k, values, places);
        c.pool->parallel(a.outer * a.inner, std::max<int64_t>(1, 2048 / std::max<int64_t>(1, a.size)), [&](int64_t begin, int64_t end) {
            Temporary<int64_t> order(size_t(a.size));
            for (int64_t at = begin; at < end; at++) {
                const T* row = x + at / a.inner * a.size * a.inner + at % a.inner;
                std::iota(order.begin(), order.end(), 0);
                std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t i, int64_t j) {
                    const T p = row[i * a.inner], q = row[j * a.inner];
                    if (less(p, q)) return !largest_;
                    if (less(q, p)) return largest_;
                    return i < j;
                });
                const int64_t to = at / a.inner * k * a.inner + at % a.inner;
                for (int64_t i = 0; i < k; i++) {
                    if (values) values[to + i * a.inner] = row[order[size_t(i)] * a.inner];
                    if (places) places[to + i * a.inner] = order[size_t(i)];
                }
            }
        });
    }

private:
    static constexpr int64_t kFew = 128;

    // A short sorted list, and one look at each element: few of many get in.
    void few(RunContext& c, const Along& a, int64_t k, T* values, int64_t* places) const {
        if (!k) return;
        c.pool->parallel(a.outer * a.inner, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, a.size)), [&](int64_t begin, int64_t end) {
            T best[kFew];
            int64_t place[kFew];
            for (int64_t at = begin; at < end; at++) {
                const T* row = c.in(0).as<T>() + at / a.inner * a.size * a.inner + at % a.inner;
                largest_ ? pick<true>(row, a.inner, a.size, k, best, place) : pick<false>(row, a.inner, a.size, k, best, place);
                const int64_t to = at / a.inner * k * a.inner + at % a.inner;
                for (int64_t i = 0; i < k; i++) {
                    if (values) values[to + i * a.inner] = best[i];
                    if (places) places[to + i * a.inner] = place[i];
                }
            }
        });
    }
    template <bool kLargest>
    static void pick(const T* row, int64_t step, int64_t n, int64_t k, T* best, int64_t* place) {
        const auto before = [](T a, T b) { return kLargest ? less(b, a) : less(a, b); };
        for (int64_t i = 0, have = 0; i < n; i++) {
            const T now = row[i * step];
            if (have == k && !before(now, best[k - 1])) continue;
            int64_t at = have < k ? have++ : k - 1;
            for (; at > 0 && before(now, best[at - 1]); at--) best[at] = best[at - 1], place[at] = place[at - 1];
            best[at] = now, place[at] = i;
        }
    }
    static bool less(T a, T b) { return a < b || (b != b && a == a); }
    int64_t axis_;
    bool largest_;
};

template <class T>
class CumSum : public Kernel {
public:
    explicit CumSum(const NodeInfo& node) : exclusive_(node.i("exclusive", 0)), reverse_(node.i("reverse", 0)) {}
    void shape(ShapeContext& c) const override { c.out(0, c.in(0).dtype, c.in(0).shape); }
    void run(RunContext& c) const override {
        const Tensor& given = c.in(1);
        const Along a = along(c.in(0).shape, resolve_axis(given.dtype == DType::i32 ? *given.as<int32_t>() : *given.as<int64_t>(), c.in(0).shape.rank));
        const int64_t step = reverse_ ? -a.inner : a.inner, first = reverse_ ? (a.size - 1) * a.inner : 0;
        c.pool->parallel(a.outer * a.inner, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, a.size)), [&](int64_t begin, int64_t end) {
            for (int64_t at = begin; at < end; at++) {
                const int64_t base = at / a.inner * a.size * a.inner + at % a.inner + first;
                const T* x = c.in(0).as<T>() + base;
                T* y = c.out(0).template as<T>() + base;
                T total = 0;
                for (int64_t k = 0; k < a.size; k++) {
                    const T now = x[k * step];
                    const T next = T(total + now);
                    y[k * step] = exclusive_ ? total : next;
                    total = next;
                }
            }
        });
    }

private:
    bool exclusive_, reverse_;
};

// 1 at the first largest element along an axis, 0 elsewhere.
template <class T>
class Hardmax : public Kernel {
public:
    explicit Hardmax(const NodeInfo& node) : axis_(node.i("axis", -1)) {}
    void shape(ShapeContext& c) const override { c.out(0, c.in(0).dtype, c.in(0).shape); }
    void run(RunContext& c) const override {
        const Along a = along(c.in(0).shape, resolve_axis(axis_, c.in(0).shape.rank));
        T* y = c.out(0).template as<T>();
        std::fill_n(y, c.out(0).count(), T(0));
        if (!a.size) return;
        for (int64_t at = 0; at < a.outer * a.inner; at++) {
            const int64_t base = at / a.inner * a.size * a.inner + at % a.inner;
            const T* x = c.in(0).as<T>() + base;
            int64_t best = 0;
            for (int64_t k = 1; k < a.size; k++)
                if (x[k * a.inner] > x[best * a.inner] || (x[k * a.inner] != x[k * a.inner] && x[best * a.inner] == x[best * a.inner])) best = k;
            y[base + best * a.inner] = T(1);
        }
    }

private:
    int64_t axis_;
};

template <template <class> class K, class... Ts>
std::unique_ptr<Kernel> make(const NodeInfo& node) {
    std::unique_ptr<Kernel> found;
    ((node.inputs[0] == code_of<Ts> ? void(found = std::make_unique<K<Ts>>(node)) : void()), ...);
    return found;
}
#define HR_INTEGERS int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
std::unique_ptr<Kernel> arg_extreme(const NodeInfo& node) { return make<ArgExtreme, float, double, HR_INTEGERS>(node); }
std::unique_ptr<Kernel> top_k(const NodeInfo& node) { return node.known({"sorted"}), make<TopK, float, double, HR_INTEGERS>(node); }
std::unique_ptr<Kernel> cum_sum(const NodeInfo& node) { return make<CumSum, float, double, int32_t, int64_t, uint32_t, uint64_t>(node); }

std::unique_ptr<Kernel> hardmax(const NodeInfo& node) { return make<Hardmax, float, double>(node); }

HR_KERNEL("ArgMax", arg_extreme);
HR_KERNEL("ArgMin", arg_extreme);
HR_KERNEL("TopK", top_k);
HR_KERNEL("CumSum", cum_sum);
HR_KERNEL("Hardmax", hardmax);

}  // namespace
}  // namespace hr::HR_TIER
