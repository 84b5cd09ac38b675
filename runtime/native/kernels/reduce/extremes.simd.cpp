// ArgMax, ArgMin: places of extremes along one axis.
#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "kernels/reduce/along.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

// The first NaN wins, as in NumPy.
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

// The types that models ask for; the others have the baseline's loops in every tier.
#if HR_TIER_RANK == 0
std::unique_ptr<Kernel> arg_extreme(const NodeInfo& node) { return make<ArgExtreme, float, double, HR_INTEGERS>(node); }
#else
std::unique_ptr<Kernel> arg_extreme(const NodeInfo& node) { return make<ArgExtreme, float, double, int8_t, uint8_t>(node); }
#endif

HR_KERNEL("ArgMax", arg_extreme);
HR_KERNEL("ArgMin", arg_extreme);

}  // namespace
}  // namespace hr::HR_TIER
