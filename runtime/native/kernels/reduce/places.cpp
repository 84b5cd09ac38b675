// TopK, CumSum, Hardmax: places and running sums along one axis, an element at a time: wider vectors would not help.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "buffer.h"
#include "kernels/reduce/along.h"
#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

// NaN counts as the largest.
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

std::unique_ptr<Kernel> top_k(const NodeInfo& node) { return node.known({"sorted"}), make<TopK, float, double, HR_INTEGERS>(node); }
std::unique_ptr<Kernel> cum_sum(const NodeInfo& node) { return make<CumSum, float, double, int32_t, int64_t, uint32_t, uint64_t>(node); }
std::unique_ptr<Kernel> hardmax(const NodeInfo& node) { return make<Hardmax, float, double>(node); }

HR_KERNEL("TopK", top_k);
HR_KERNEL("CumSum", cum_sum);
HR_KERNEL("Hardmax", hardmax);

}  // namespace
}  // namespace hr::HR_TIER
