#include "kernels/elementwise/broadcast.h"

#include <algorithm>
#include <cstring>

#include "half.h"
#include "pool.h"

namespace hr {

std::string text(const Shape& shape) {
    std::string out = "[";
    for (int i = 0; i < shape.rank; i++) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

Shape broadcast_shapes(const Shape& a, const Shape& b) {
    const int rank = std::max(a.rank, b.rank);
    Shape out;
    for (int i = 0; i < rank; i++) {
        const int64_t x = i < rank - a.rank ? 1 : a.d[i - rank + a.rank], y = i < rank - b.rank ? 1 : b.d[i - rank + b.rank];
        if (x != y && x != 1 && y != 1) throw std::invalid_argument("shapes " + text(a) + " and " + text(b) + " cannot be broadcast");
        out.push(x == 1 ? y : x);
    }
    return out;
}

namespace {

// Dimensions of a broadcast, neighbours merged where every operand allows it. The last one is the row.
struct Loops {
    int rank = 0;
    int64_t dims[kMaxRank];
    int64_t strides[kMaxOperands][kMaxRank];    // in elements
};

Loops loops_of(const Shape& out, const Tensor* in, int operands) {
    Loops loops;
    for (int axis = 0; axis < out.rank; axis++) {
        if (out.d[axis] == 1) continue;
        int64_t stride[kMaxOperands];
        for (int k = 0; k < operands; k++) {
            const Shape& s = in[k].shape;
            const int own = axis - out.rank + s.rank;
            stride[k] = own < 0 || s.d[own] == 1 ? 0 : s.count(own + 1, s.rank);
        }
        bool merge = loops.rank > 0;
        for (int k = 0; merge && k < operands; k++) merge = loops.strides[k][loops.rank - 1] == stride[k] * out.d[axis];
        if (merge) loops.rank--, loops.dims[loops.rank] *= out.d[axis];
        else loops.dims[loops.rank] = out.d[axis];
        for (int k = 0; k < operands; k++) loops.strides[k][loops.rank] = stride[k];
        loops.rank++;
    }
    if (!loops.rank) {
        loops.dims[0] = 1, loops.rank = 1;
        for (int k = 0; k < operands; k++) loops.strides[k][0] = 0;
    }
    return loops;
}

class ElementwiseKernel : public Kernel {
public:
    explicit ElementwiseKernel(Elementwise what) : what_(std::move(what)) {}

    void shape(ShapeContext& c) const override {
        Shape out = c.in(0).shape;
        for (int i = 1; i < c.n_inputs; i++) out = broadcast_shapes(out, c.in(i).shape);
        if (what_.shaped_like_first && out != c.in(0).shape) throw std::invalid_argument("input 1 " + text(c.in(1).shape) + " does not broadcast to input 0 " + text(c.in(0).shape));
        c.out(0, what_.out == DType::none ? c.in(what_.like).dtype : what_.out, out);
    }

    void run(RunContext& c) const override {
        if (!what_.variadic) return apply(c.inputs, what_.operands, c.out(0), *c.pool);
        Tensor pair[2] = {c.in(0), c.in(0)};
        if (c.n_inputs == 1) {
            if (c.out(0).data != c.in(0).data) std::memcpy(c.out(0).data, c.in(0).data, c.out(0).bytes());
            return;
        }
        for (int i = 1; i < c.n_inputs; i++) {
            pair[1] = c.in(i);
            apply(pair, 2, c.out(0), *c.pool);
            pair[0] = c.out(0);
        }
    }

    // Folding more than two inputs reads them after the output is written.
    bool in_place(int i) const override { return i < (what_.variadic ? 1 : what_.operands) && i >= what_.like; }
    std::string variant() const override { return what_.variant; }
    const Elementwise& what() const { return what_; }

private:
    void apply(const Tensor* in, int operands, Tensor& out, ThreadPool& pool) const {
        const int64_t total = out.count();
        if (!total) return;
        const Loops loops = loops_of(out.shape, in, operands);
        const int last = loops.rank - 1;
        const int64_t n = loops.dims[last], rows = total / n;
        size_t size[kMaxOperands];
        for (int k = 0; k < operands; k++) size[k] = item_size(in[k].dtype);
        const size_t out_size = item_size(out.dtype);
        const auto row_at = [&](int64_t index, int64_t from, int64_t count) {
            Row row{};
            for (int k = 0; k < operands; k++) {
                int64_t offset = from * loops.strides[k][last], rest = index;
                for (int d = last - 1; d >= 0; d--) offset += rest % loops.dims[d] * loops.strides[k][d], rest /= loops.dims[d];
                row.in[k] = static_cast<const char*>(in[k].data) + offset * int64_t(size[k]);
                row.moves[k] = loops.strides[k][last] != 0;
            }
            row.out = static_cast<char*>(out.data) + (index * n + from) * int64_t(out_size);
            row.n = count, row.f = what_.f.data(), row.inner = what_.inner;
            what_.row(row);
        };
        if (rows == 1) return pool.parallel(n, what_.grain, [&](int64_t begin, int64_t end) { row_at(0, begin, end - begin); });
        pool.parallel(rows, std::max<int64_t>(1, what_.grain / n), [&](int64_t begin, int64_t end) {
            for (int64_t index = begin; index < end; index++) row_at(index, 0, n);
        });
    }

    Elementwise what_;
};

constexpr int64_t kChunk = 1024;

template <class Narrow>
Narrow narrow(float x) {
    if constexpr (std::is_same_v<Narrow, Half>) return to_half(x);
    else return to_bfloat16(x);
}

// Operands in float16 or bfloat16 through float32, chunk by chunk; a bool result needs no conversion.
template <class Narrow, bool kBool>
void widened(const Row& row) {
    float wide[kMaxOperands][kChunk], result[kChunk];
    const RowFn inner = reinterpret_cast<RowFn>(const_cast<void*>(row.inner));
    const int operands = row.in[2] ? 3 : (row.in[1] ? 2 : 1);
    for (int64_t at = 0; at < row.n; at += kChunk) {
        Row part = row;
        part.n = std::min(kChunk, row.n - at);
        for (int k = 0; k < operands; k++) {
            const auto* x = static_cast<const Narrow*>(row.in[k]) + (row.moves[k] ? at : 0);
            for (int64_t i = 0; i < (row.moves[k] ? part.n : 1); i++) wide[k][i] = to_float(x[i]);
            part.in[k] = wide[k];
        }
        part.out = kBool ? static_cast<void*>(static_cast<bool*>(row.out) + at) : static_cast<void*>(result);
        inner(part);
        if (!kBool)
            for (int64_t i = 0; i < part.n; i++) static_cast<Narrow*>(row.out)[at + i] = narrow<Narrow>(result[i]);
    }
}

}  // namespace

bool widen_row(DType dtype, DType out, Elementwise& what) {
    if (dtype != DType::f16 && dtype != DType::bf16) return false;
    what.inner = reinterpret_cast<const void*>(what.row);
    const bool truth = out == DType::boolean;
    what.row = dtype == DType::f16 ? (truth ? widened<Half, true> : widened<Half, false>) : (truth ? widened<BFloat16, true> : widened<BFloat16, false>);
    return true;
}

std::unique_ptr<Kernel> make_elementwise(const NodeInfo& node, Elementwise what) {
    if (what.variant.empty()) what.variant = "elementwise";
    return std::make_unique<ElementwiseKernel>(std::move(what));
}

const Elementwise* elementwise_of(const Kernel& kernel) {
    const auto* found = dynamic_cast<const ElementwiseKernel*>(&kernel);
    return found ? &found->what() : nullptr;
}

}  // namespace hr
