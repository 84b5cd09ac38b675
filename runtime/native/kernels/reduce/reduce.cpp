#include "kernels/reduce/reduce.h"

#include <algorithm>
#include <vector>

#include "kernels/shape/strided.h"
#include "pool.h"

namespace hr {
namespace {

struct Pass {
    int64_t outer, r, inner;
};

class ReduceKernel : public Kernel {
public:
    ReduceKernel(const NodeInfo& node, Reduction what)
        : what_(std::move(what)), axes_(node.ints("axes")), keep_(node.i("keepdims", 1)), noop_(node.i("noop_with_empty_axes", 0)) {}

    bool needs_value(int i) const override { return i == 1; }
    std::string variant() const override { return what_.variant; }

    void shape(ShapeContext& c) const override {
        bool folded[kMaxRank];
        const Shape& from = c.in(0).shape;
        read(c.inputs, c.n_inputs, folded);
        Shape to;
        for (int i = 0; i < from.rank; i++) {
            if (!folded[i]) to.push(from.d[i]);
            else if (keep_ || what_.spatial) to.push(1);
        }
        c.out(0, c.in(0).dtype, to);
        Pass passes[kMaxRank];
        const int n = plan(from, folded, passes);
        if (n > 1) c.scratch = size_t(passes[0].outer * passes[0].inner) * item_size(c.in(0).dtype) * 2 + 128;
    }

    void run(RunContext& c) const override {
        bool folded[kMaxRank];
        read(c.inputs, c.n_inputs, folded);
        Pass passes[kMaxRank];
        const int n = plan(c.in(0).shape, folded, passes);
        const size_t item = item_size(c.in(0).dtype);
        const void* x = c.in(0).data;
        int64_t count = 1;
        for (int k = 0; k < n; k++) {
            char* half = static_cast<char*>(c.scratch) + (k % 2 ? (size_t(passes[0].outer * passes[0].inner) * item + 63) / 64 * 64 : 0);
            void* y = k == n - 1 ? c.out(0).data : half;
            fold(k ? what_.rest : what_.first, x, y, passes[k], item, *c.pool);
            x = y, count *= passes[k].r;
        }
        if (what_.finish) what_.finish(c.out(0).data, c.out(0).count(), count);
    }

private:
    void read(const Tensor* in, int n, bool* folded) const {
        const int rank = in[0].shape.rank;
        std::fill_n(folded, kMaxRank, false);
        if (what_.spatial) {
            for (int i = 2; i < rank; i++) folded[i] = true;
            return;
        }
        const bool given = n > 1 && in[1];
        const int64_t count = given ? in[1].count() : int64_t(axes_.size());
        if (!count && !noop_) std::fill_n(folded, rank, true);
        for (int64_t k = 0; k < count; k++) folded[resolve_axis(given ? in[1].as<int64_t>()[k] : axes_[size_t(k)], rank)] = true;
    }

    // Passes from the last group of folded axes to the first; at least one (R = 1: only the function of an element).
    static int plan(const Shape& shape, const bool* folded, Pass* passes) {
        int n = 0;
        int64_t inner = 1;
        for (int i = shape.rank - 1; i >= 0;) {
            int64_t r = 1;
            int j = i;
            while (j >= 0 && (folded[j] || shape.d[j] == 1)) r *= shape.d[j--];
            bool any = false;
            for (int k = j + 1; k <= i; k++) any = any || folded[k];
            if (any && (r != 1 || n == 0)) passes[n++] = {shape.count(0, j + 1), r, inner};
            if (j < 0) break;
            inner *= shape.d[j];
            i = j - 1;
        }
        while (n > 1 && passes[n - 1].r == 1) n--;
        if (n == 0) passes[n++] = {shape.count(), 1, 1};
        return n;
    }

    static void fold(const Fold& f, const void* x, void* y, const Pass& p, size_t item, ThreadPool& pool) {
        const auto* from = static_cast<const char*>(x);
        auto* to = static_cast<char*>(y);
        const int64_t s = int64_t(item);
        if (p.inner == 1) {
            pool.parallel(p.outer, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.r)), [&](int64_t begin, int64_t end) {
                f.rows(from + begin * p.r * s, to + begin * s, end - begin, p.r);
            });
        } else {
            constexpr int64_t kColumns = 256;
            const int64_t tiles = (p.inner + kColumns - 1) / kColumns;
            pool.parallel(p.outer * tiles, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.r * std::min(kColumns, p.inner))), [&](int64_t begin, int64_t end) {
                for (int64_t at = begin; at < end; at++) {
                    const int64_t o = at / tiles, column = at % tiles * kColumns;
                    f.columns(from + o * p.r * p.inner * s, to + o * p.inner * s, p.r, p.inner, column, std::min(p.inner, column + kColumns));
                }
            });
        }
    }

    Reduction what_;
    std::vector<int64_t> axes_;
    bool keep_, noop_;
};

}  // namespace

std::unique_ptr<Kernel> make_reduction(const NodeInfo& node, Reduction what) {
    return std::make_unique<ReduceKernel>(node, std::move(what));
}

}  // namespace hr
