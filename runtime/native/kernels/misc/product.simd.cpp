// MatMul and Gemm of float64 and of integers (which wrap): every element is one sum in rising k.
#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/elementwise/broadcast.h"
#include "kernels/gemm/common.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

template <class T>
class Product : public Kernel {
    typedef T Lanes __attribute__((vector_size(64)));
    static constexpr int64_t kLanes = 64 / sizeof(T), kColumns = 2 * kLanes, kRows = 4;

public:
    explicit Product(const NodeInfo& node) : gemm_(node.op == "Gemm"), trans_a_(gemm_ && node.i("transA", 0)), trans_b_(gemm_ && node.i("transB", 0)),
                                             alpha_(gemm_ ? node.f("alpha", 1) : 1), beta_(gemm_ ? node.f("beta", 1) : 1) {
        const Tensor* b = node.constants[1];
        if (!b || b->shape.rank != 2) return;
        const int64_t k = b->shape.d[trans_b_ ? 1 : 0], n = b->shape.d[trans_b_ ? 0 : 1];
        pack_once([&] { pack(b->as<T>(), k, n, packed_.get()); }, Part<T>{packed_, k * round_up(n, kColumns)});
    }
    std::string variant() const override { return "product"; }
    bool reads_data(int i) const override { return !(i == 1 && packed_); }
    size_t packed_bytes() const override { return packed_.bytes(); }

    void shape(ShapeContext& c) const override {
        const Sizes z = sizes(c.in(0).shape, c.in(1).shape);
        if (gemm_ && c.has(2) && broadcast(c.in(2).shape, z.out) != z.out) throw std::invalid_argument("C is " + text(c.in(2).shape) + "; it does not broadcast to " + text(z.out));
        c.out(0, c.in(0).dtype, z.out);
        if (!packed_) c.scratch = size_t(z.k * round_up(z.n, kColumns)) * sizeof(T) + 64;
    }

    void run(RunContext& c) const override {
        const Sizes z = sizes(c.in(0).shape, c.in(1).shape);
        T* y = c.out(0).as<T>();
        if (!z.out.count()) return;
        for (int64_t i = 0; i < z.batch.count(); i++) {
            const T* b = packed_.get();
            if (!packed_) {
                pack(c.in(1).as<T>() + broadcast_index(z.b_batch, z.batch, i) * z.k * z.n, z.k, z.n, static_cast<T*>(c.scratch));
                b = static_cast<const T*>(c.scratch);
            }
            multiply(c.in(0).as<T>() + broadcast_index(z.a_batch, z.batch, i) * z.m * z.k, b, y + i * z.m * z.n, z, *c.pool);
        }
        if (!gemm_) return;
        const int64_t count = z.m * z.n;
        if (alpha_ != 1) for (int64_t i = 0; i < count; i++) y[i] *= T(alpha_);
        if (c.has(2) && beta_ != 0)
            for (int64_t i = 0; i < count; i++) {
                const T added = c.in(2).as<T>()[broadcast_index(c.in(2).shape, z.out, i)];
                y[i] += beta_ == 1 ? added : T(added * T(beta_));
            }
    }

private:
    struct Sizes {
        int64_t m, n, k;
        Shape a_batch, b_batch, batch, out;
    };
    static Shape leading(const Shape& s) {
        Shape out;
        for (int i = 0; i + 2 < s.rank; i++) out.push(s.d[i]);
        return out;
    }
    Sizes sizes(const Shape& a, const Shape& b) const {
        if (!a.rank || !b.rank || (gemm_ && (a.rank != 2 || b.rank != 2))) throw std::invalid_argument("cannot multiply " + text(a) + " by " + text(b));
        const Shape a2 = a.rank == 1 ? Shape{1, a.d[0]} : a, b2 = b.rank == 1 ? Shape{b.d[0], 1} : b;
        Sizes z{a2[trans_a_ ? -1 : -2], b2[trans_b_ ? -2 : -1], a2[trans_a_ ? -2 : -1], leading(a2), leading(b2), {}, {}};
        if (b2[trans_b_ ? -1 : -2] != z.k) throw std::invalid_argument("cannot multiply " + text(a) + " by " + text(b));
        z.batch = z.out = broadcast(z.a_batch, z.b_batch);
        if (a.rank > 1) z.out.push(z.m);
        if (b.rank > 1) z.out.push(z.n);
        // One matrix B for all: the rows of A are rows of one matrix.
        if (z.b_batch.count() == 1 && z.a_batch.count() == z.batch.count()) z.m *= z.batch.count(), z.a_batch = z.b_batch = z.batch = Shape{};
        return z;
    }

    // [panel][k][kColumns], zeros beyond the last column.
    void pack(const T* b, int64_t k, int64_t n, T* out) const {
        const int64_t ldk = trans_b_ ? 1 : n, ldn = trans_b_ ? k : 1;
        for (int64_t n0 = 0; n0 < n; n0 += kColumns)
            for (int64_t i = 0; i < k; i++, out += kColumns) {
                const int64_t width = std::min(kColumns, n - n0);
                for (int64_t j = 0; j < width; j++) out[j] = b[i * ldk + (n0 + j) * ldn];
                std::fill(out + width, out + kColumns, T(0));
            }
    }

    void multiply(const T* a, const T* b, T* y, const Sizes& z, ThreadPool& pool) const {
        const int64_t panels = ceil_div(z.n, kColumns), tiles = ceil_div(z.m, kRows);
        pool.parallel(panels * tiles, std::max<int64_t>(1, 65536 / (z.k * kRows * kColumns + 1)), [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) {    // one panel of B for all rows before the next
                const int64_t m0 = task % tiles * kRows, n0 = task / tiles * kColumns;
                tile(a, b + task / tiles * z.k * kColumns, y, z, m0, n0);
            }
        });
    }

    void tile(const T* a, const T* b, T* y, const Sizes& z, int64_t m0, int64_t n0) const {
        const int64_t rows = std::min(kRows, z.m - m0), ldm = trans_a_ ? 1 : z.k, ldk = trans_a_ ? z.m : 1;
        const T* row[kRows];
        for (int64_t i = 0; i < kRows; i++) row[i] = a + (m0 + std::min(i, rows - 1)) * ldm;    // the last row again: not stored
        Lanes sums[kRows][2] = {};
        for (int64_t k = 0; k < z.k; k++, b += kColumns) {
            Lanes b0, b1;
            std::memcpy(&b0, b, 64), std::memcpy(&b1, b + kLanes, 64);
            for (int64_t i = 0; i < kRows; i++) {
                const T x = row[i][k * ldk];
                sums[i][0] += x * b0, sums[i][1] += x * b1;
            }
        }
        const size_t width = size_t(std::min(kColumns, z.n - n0)) * sizeof(T);
        for (int64_t i = 0; i < rows; i++) std::memcpy(y + (m0 + i) * z.n + n0, sums[i], width);
    }

    bool gemm_, trans_a_, trans_b_;
    double alpha_, beta_;
    Packed<T> packed_;
};

std::unique_ptr<Kernel> product(const NodeInfo& node) {
    if (node.inputs.size() < 2 || node.inputs[1] != node.inputs[0] || (node.inputs.size() > 2 && node.inputs[2] != DType::none && node.inputs[2] != node.inputs[0])) return nullptr;
    const bool plain = node.op != "Gemm" || (node.f("alpha", 1) == 1 && node.f("beta", 1) == 1);
    if (node.inputs[0] == DType::f64) return std::make_unique<Product<double>>(node);
    if (!plain) return nullptr;     // the reference scales integers in float64
    switch (node.inputs[0]) {       // wrapping is the same for signed and unsigned
        case DType::i32: case DType::u32: return std::make_unique<Product<uint32_t>>(node);
        case DType::i64: case DType::u64: return std::make_unique<Product<uint64_t>>(node);
        default: return nullptr;
    }
}
HR_KERNEL("MatMul", product);
HR_KERNEL("Gemm", product);

}  // namespace
}  // namespace hr::HR_TIER
