// MatMul, Gemm and headrace.FusedMatMul in f32: Y = act(alpha * op(A) op(B) + bias + r), with batches that broadcast.
#include <algorithm>

#include "kernels/gemm/common.h"
#include "kernels/gemm/gemm.h"
#include "pool.h"

namespace hr {

namespace {

constexpr int64_t kPackBytes = 8 << 20;     // B matrices packed at a time, when B is no constant
constexpr int64_t kStreamed = 8 << 10;      // sums that wait in L1 while B is read
constexpr int64_t kGroup = 8;               // panels of an unpacked constant that are packed at a time, for some rows
constexpr int64_t kGroupRows = 144;
constexpr int64_t kSmall = 64 << 10;        // products of two numbers: too few to share among threads

// The sizes of one product, and where its matrices lie.
struct Product {
    int64_t m, n, k, batch;
    Shape batch_shape, a_batch, b_batch;
    int64_t a_count, b_count;       // distinct matrices
    int64_t a_at(int64_t i) const { return a_count == batch ? i : a_count == 1 ? 0 : broadcast_index(a_batch, batch_shape, i); }
    int64_t b_at(int64_t i) const { return b_count == batch ? i : b_count == 1 ? 0 : broadcast_index(b_batch, batch_shape, i); }
};

Shape leading(const Shape& s) {
    Shape out;
    for (int i = 0; i + 2 < s.rank; i++) out.push(s.d[i]);
    return out;
}

// How an addend reaches the result: not at all, one row for all rows, the whole, or by broadcasting into scratch first.
enum class Addend { none, row, whole, spread };

Addend addend_kind(const Tensor* t, const Shape& out, float factor) {
    if (!t || !*t) return Addend::none;
    if (factor == 1.0f && t->shape == out) return Addend::whole;
    const int64_t n = out.rank ? out.d[out.rank - 1] : 1;
    if (t->count() == n && t->shape.rank && t->shape.d[t->shape.rank - 1] == n) return Addend::row;
    return Addend::spread;
}

class MatMulKernel final : public Kernel {
public:
    explicit MatMulKernel(const NodeInfo& node) : table_(gemm_table_for(node)) {
        gemm_ = node.op == "Gemm";
        if (gemm_ || node.op != "MatMul") {
            trans_a_ = node.i("transA", 0) != 0;
            trans_b_ = node.i("transB", 0) != 0;
            scale_ = float(node.f("alpha", 1));
        }
        if (gemm_) beta_ = float(node.f("beta", 1));
        const Tensor* b = node.constants.size() > 1 ? node.constants[1] : nullptr;
        stays_ = node.i("few_rows", 0) && b && b->shape.rank == 2 && !trans_a_ && !trans_b_ && table_.stream;
        if (b && b->shape.rank >= 2 && !stays_) {
            const int64_t count = b->shape.count(0, b->shape.rank - 2), rows = b->shape[-2], cols = b->shape[-1];
            const int64_t k = trans_b_ ? cols : rows, n = trans_b_ ? rows : cols, size = packed_floats(table_, 1, units(k), n);
            const auto fill = [&] {
                for (int64_t i = 0; i < count; i++) pack(b->as<float>() + i * k * n, k, n, &packed_[i * size], 0, panels(n));
            };
            pack_once(fill, Part<float>{packed_, count * size});
        }
        for (int i = 2; i < int(node.inputs.size()) && i < 4; i++) {
            const Tensor* c = i < int(node.constants.size()) ? node.constants[i] : nullptr;
            if (!c || !b || b->shape.rank < 2) continue;
            const int64_t n = trans_b_ ? b->shape[-2] : b->shape[-1];
            if (i == 2 && c->count() == n && c->shape.rank && c->shape[-1] == n) {
                bias_ = Packed<float>(round_up(n, table_.nr));
                for (int64_t j = 0; j < n; j++) bias_[j] = c->as<float>()[j] * beta_;
            }
        }
    }

    void shape(ShapeContext& c) const override {
        Shape out;
        const Product p = product(c.in(0).shape, c.in(1).shape, out);
        c.out(0, DType::f32, out);
        Scratch scratch;
        plan(p, c.has(2) ? &c.in(2) : nullptr, c.has(3) ? &c.in(3) : nullptr, out, c.threads, scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        Shape out;
        Product p = product(c.in(0).shape, c.in(1).shape, out);
        if (p.m == 0 || p.n == 0 || p.batch == 0) return;
        Scratch scratch(c.scratch);
        const Tensor* bias = c.has(2) ? &c.in(2) : nullptr;
        const Tensor* residual = c.has(3) ? &c.in(3) : nullptr;
        const Memory mem = plan(p, bias, residual, out, c.pool->threads(), scratch);
        Epilogue e;
        e.scale = scale_, e.act = act_;
        e.bias = row_bias(mem, bias, p.n);
        const float* add = whole(mem, bias, residual, out);
        e.residual = add, e.ldr = p.n;

        const float* a = c.in(0).as<float>();
        if (trans_a_) a = transposed(a, p, mem.a, *c.pool);
        if (mem.low) {
            a = narrowed(a, p, mem.low, *c.pool);
            p.k = units(p.k);
        }
        float* y = c.out(0).as<float>();
        if (stays_ && p.batch == 1) return p.m <= kStreamRows ? run_stream(p, a, c.in(1).as<float>(), y, e, *c.pool) : run_grouped(p, a, c.in(1).as<float>(), y, e, mem, *c.pool);
        if (mem.direct) return run_direct(p, a, c.in(1).as<float>(), y, e, mem.b, *c.pool);
        if (packed_ && p.batch == 1 && p.m <= table_.mr && p.k <= table_.depth && p.m * p.n * p.k <= kSmall) return run_small(p, a, y, e);
        if (packed_) return run_batches(p, a, packed_.get(), 0, p.batch, y, e, *c.pool);
        const float* b = c.in(1).as<float>();
        const int64_t size = packed_floats(table_, 1, p.k, p.n), all = panels(p.n);
        // B is packed in groups that fit the cache; batches of one group are neighbours unless B broadcasts.
        const int64_t step = p.b_count == p.batch ? mem.b_group : p.b_count;
        for (int64_t g = 0; g < p.b_count; g += step) {
            const int64_t count = std::min(step, p.b_count - g);
            c.pool->parallel(count * all, std::max<int64_t>(1, 16384 / (p.k * table_.nr + 1)), [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end;) {
                    const int64_t matrix = i / all, stop = std::min(end, (matrix + 1) * all);
                    pack(b + (g + matrix) * p.k * p.n, p.k, p.n, mem.b + matrix * size, i - matrix * all, stop - matrix * all);
                    i = stop;
                }
            });
            const bool aligned_groups = p.b_count == p.batch;
            run_batches(p, a, mem.b, aligned_groups ? g : 0, aligned_groups ? g + count : p.batch, y, e, *c.pool, aligned_groups ? g : 0);
        }
    }

    bool reads_data(int input) const override { return input != 1 || !packed_; }
    size_t packed_bytes() const override { return packed_.bytes() + bias_.bytes(); }
    std::string variant() const override { return std::string(table_.narrow ? "gemm_bf16_" : stays_ ? "stream_f32_" : "gemm_f32_") + table_.tier; }

    Activation act_;

private:
    struct Memory {
        float *a = nullptr, *low = nullptr, *b = nullptr, *bias = nullptr, *sum = nullptr;
        int64_t b_group = 0, slots = 0;
        bool direct = false;
        Addend bias_kind = Addend::none, residual_kind = Addend::none;
    };

    int64_t panels(int64_t n) const { return ceil_div(n, table_.nr); }

    // What the table counts in: values of k, or pairs of them.
    int64_t units(int64_t k) const { return table_.narrow ? pairs_of(k) : k; }

    void pack(const float* b, int64_t k, int64_t n, float* out, int64_t panel0, int64_t panel1) const {
        if (table_.narrow) {    // only ahead of time: bf16 products take constant matrices
            const std::vector<float> pairs = paired(b, trans_b_ ? 1 : n, trans_b_ ? k : 1, k, n);
            return pack_matrix(table_, Ranges(table_, 1, pairs_of(k)), pairs.data(), n, 1, n, out, panel0, panel1);
        }
        pack_matrix(table_, Ranges(table_, 1, k), b, trans_b_ ? 1 : n, trans_b_ ? k : 1, n, out, panel0, panel1);
    }

    // NumPy's matmul rule; Gemm is its 2-D case.
    Product product(const Shape& a, const Shape& b, Shape& out) const {
        if (a.rank == 0 || b.rank == 0) throw std::invalid_argument("a matrix product takes no scalars");
        if (gemm_ && (a.rank != 2 || b.rank != 2)) throw std::invalid_argument("Gemm takes matrices, not " + text(a) + " and " + text(b));
        Product p;
        if (b.rank == 2 && a.rank > 1 && !trans_a_) {   // the usual case at once: a small product takes less time than all the shapes below
            p.m = a.count(0, a.rank - 1), p.k = a[-1], p.n = trans_b_ ? b[-2] : b[-1];
            p.batch = p.a_count = p.b_count = 1;
            out = a, out[-1] = p.n;
            if ((trans_b_ ? b[-1] : b[-2]) == p.k) return p;
        }
        const Shape a2 = a.rank == 1 ? Shape{1, a.d[0]} : a, b2 = b.rank == 1 ? Shape{b.d[0], 1} : b;
        p.m = trans_a_ ? a2[-1] : a2[-2], p.k = trans_a_ ? a2[-2] : a2[-1];
        p.n = trans_b_ ? b2[-2] : b2[-1];
        if ((trans_b_ ? b2[-1] : b2[-2]) != p.k)
            throw std::invalid_argument("cannot multiply " + text(a) + (trans_a_ ? " transposed" : "") + " by " + text(b) + (trans_b_ ? " transposed" : ""));
        p.a_batch = leading(a2), p.b_batch = leading(b2);
        p.batch_shape = broadcast(p.a_batch, p.b_batch);
        p.batch = p.batch_shape.count(), p.a_count = p.a_batch.count(), p.b_count = p.b_batch.count();
        out = p.batch_shape;
        if (a.rank > 1) out.push(p.m);
        if (b.rank > 1) out.push(p.n);
        if (p.b_count == 1 && p.a_count == p.batch && !trans_a_ && a.rank > 1) {    // one tall matrix
            p.m *= p.batch, p.batch = p.a_count = 1;
            p.batch_shape = p.a_batch = p.b_batch = Shape{};
        }
        return p;
    }

    Memory plan(const Product& p, const Tensor* bias, const Tensor* residual, const Shape& out, int threads, Scratch& scratch) const {
        Memory mem;
        mem.bias_kind = addend_kind(bias, out, beta_);
        mem.residual_kind = addend_kind(residual, out, 1);
        if (trans_a_) mem.a = scratch.take<float>(p.a_count * p.m * p.k);
        if (table_.narrow) mem.low = scratch.take<float>(p.a_count * p.m * units(p.k));
        if (stays_ && p.batch == 1) {
            if (p.m > kStreamRows) {
                mem.slots = std::min<int64_t>(threads, ceil_div(panels(p.n), kGroup));
                mem.b = scratch.take<float>(mem.slots * group_floats(p));
            }
        } else if (!packed_) {
            const int64_t size = packed_floats(table_, 1, units(p.k), p.n);
            // A few rows: reading B as it lies beats copying it first; only its last, narrow panel is packed.
            mem.direct = !trans_b_ && p.m <= table_.mr && p.batch == p.b_count;
            mem.b_group = p.b_count == p.batch ? std::clamp<int64_t>(kPackBytes / 4 / std::max<int64_t>(size, 1), 1, std::max<int64_t>(p.b_count, 1)) : p.b_count;
            mem.b = scratch.take<float>(mem.direct ? p.batch * p.k * table_.nr : mem.b_group * size);
        }
        if (mem.bias_kind == Addend::row && !bias_) mem.bias = scratch.take<float>(round_up(p.n, table_.nr));
        const bool two = mem.bias_kind == Addend::whole && mem.residual_kind != Addend::none;
        if (mem.bias_kind == Addend::spread || mem.residual_kind == Addend::row || mem.residual_kind == Addend::spread || two)
            mem.sum = scratch.take<float>(out.count());
        return mem;
    }

    const float* row_bias(const Memory& mem, const Tensor* bias, int64_t n) const {
        if (mem.bias_kind != Addend::row) return nullptr;
        if (bias_) return bias_.get();
        for (int64_t j = 0; j < n; j++) mem.bias[j] = bias->as<float>()[j] * beta_;
        std::fill(mem.bias + n, mem.bias + round_up(n, table_.nr), 0.0f);
        return mem.bias;
    }

    // What is added element by element: the one whole addend as it lies, or the sum of both in scratch.
    const float* whole(const Memory& mem, const Tensor* bias, const Tensor* residual, const Shape& out) const {
        if (!mem.sum) {
            if (mem.bias_kind == Addend::whole) return bias->as<float>();
            return mem.residual_kind == Addend::whole ? residual->as<float>() : nullptr;
        }
        const int64_t count = out.count();
        std::fill(mem.sum, mem.sum + count, 0.0f);
        const auto add = [&](const Tensor& t, float factor) {
            if (broadcast(t.shape, out) != out) throw std::invalid_argument("an addend of shape " + text(t.shape) + " does not fit the product " + text(out));
            for (int64_t i = 0; i < count; i++) mem.sum[i] += t.as<float>()[broadcast_index(t.shape, out, i)] * factor;
        };
        if (mem.bias_kind == Addend::spread || mem.bias_kind == Addend::whole) add(*bias, beta_);
        if (mem.residual_kind != Addend::none) add(*residual, 1);
        return mem.sum;
    }

    const float* transposed(const float* a, const Product& p, float* out, ThreadPool& pool) const {
        const int64_t size = p.m * p.k;
        pool.parallel(p.a_count * ceil_div(p.m, 16), std::max<int64_t>(1, 1024 / std::max<int64_t>(p.k, 1)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const int64_t matrix = i / ceil_div(p.m, 16), m0 = i % ceil_div(p.m, 16) * 16;
                table_.transpose32(a + matrix * size + m0, p.m, p.k, std::min<int64_t>(16, p.m - m0), out + matrix * size + m0 * p.k, p.k);
            }
        });
        return out;
    }

    const float* narrowed(const float* a, const Product& p, float* out, ThreadPool& pool) const {
        const int64_t width = units(p.k);
        pool.parallel(p.a_count * p.m, std::max<int64_t>(1, 16384 / std::max<int64_t>(p.k, 1)), [&](int64_t begin, int64_t end) {
            for (int64_t m = begin; m < end; m++) table_.narrow(a + m * p.k, p.k, out + m * width);
        });
        return out;
    }

    // One tile of rows, one range of k, all columns: nothing to plan.
    void run_small(const Product& p, const float* a, float* y, const Epilogue& e) const {
        const void* rows[64];
        MatrixRows(a, p.k).fill(rows, 0, 0, 1, 0, p.m);
        GemmBlock g{};
        g.rows = rows, g.stride = g.m = p.m, g.segments = 1, g.k = p.k, g.n = p.n, g.first = g.last = true;
        g.b = packed_.get(), g.ldb = table_.nr, g.panel_stride = p.k * table_.nr;
        g.c = y, g.ldc = p.n, g.epilogue = e;
        table_.block(g);
    }

    void run_batches(const Product& p, const float* a, const float* b, int64_t batch0, int64_t batch1, float* y, const Epilogue& e,
                     ThreadPool& pool, int64_t b_first = 0) const {
        const int64_t size = packed_floats(table_, 1, p.k, p.n), matrix = p.m * p.n, batches = batch1 - batch0;
        const int threads = batches >= 4 * pool.threads() ? 1 : pool.threads();
        const GemmPlan plan = plan_gemm(table_, p.m, p.n, p.k, threads);
        const int64_t tasks = plan.tasks() * batches;
        const double each = double(p.m) * double(p.n) * double(p.k) / double(plan.tasks());
        pool.parallel(tasks, std::max<int64_t>(1, int64_t(16384 / (each + 1))), [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) {
                const int64_t i = batch0 + task / plan.tasks();
                const MatrixRows rows(a + p.a_at(i) * p.m * p.k, p.k);
                GemmProblem g{p.m, p.n, 1, p.k, &rows, b + (p.b_at(i) - b_first) * size, y + i * matrix, p.n, e};
                if (e.residual) g.epilogue.residual += i * matrix;
                run_gemm_task(table_, g, plan, task % plan.tasks());
            }
        });
    }

    // Few rows, B read in place: whole panels straight, the narrow one through scratch.
    void run_direct(const Product& p, const float* a, const float* b, float* y, const Epilogue& e, float* edge, ThreadPool& pool) const {
        const int64_t all = panels(p.n), group = 4, groups = ceil_div(all, group);
        const int64_t grain = std::max<int64_t>(1, 32768 / (p.m * p.k * table_.nr * group + 1));
        pool.parallel(p.batch * groups, grain, [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) {
                const int64_t i = task / groups, panel0 = task % groups * group, panel1 = std::min(all, panel0 + group);
                const float* bi = b + p.b_at(i) * p.k * p.n;
                const void* rows[64];
                MatrixRows(a + p.a_at(i) * p.m * p.k, p.k).fill(rows, 0, 0, 1, 0, p.m);
                GemmBlock g{};
                g.rows = rows, g.stride = g.m = p.m, g.segments = 1, g.k = p.k, g.ldc = p.n, g.first = g.last = true;
                g.epilogue = e;
                const int64_t whole_columns = std::min(p.n / table_.nr, panel1) * table_.nr;
                const auto block = [&](const float* from, int64_t ldb, int64_t n0, int64_t n1) {
                    if (n0 >= n1) return;
                    g.b = from, g.ldb = ldb, g.panel_stride = table_.nr, g.n = n1 - n0, g.c = y + i * p.m * p.n + n0;
                    g.epilogue.bias = e.bias ? e.bias + n0 : nullptr;
                    g.epilogue.residual = e.residual ? e.residual + i * p.m * p.n + n0 : nullptr;
                    table_.block(g);
                };
                block(bi + panel0 * table_.nr, p.n, panel0 * table_.nr, whole_columns);
                if (panel1 * table_.nr > p.n) {
                    const int64_t n0 = p.n / table_.nr * table_.nr;
                    float* to = edge + i * p.k * table_.nr;
                    table_.pack(bi + n0, p.n, 1, p.k, p.n - n0, to, 0, 0, 1);
                    block(to, table_.nr, n0, p.n);
                }
            }
        });
    }

    // The epilogue of sums that lie in C: a product of no more factors.
    void finish(const Product& p, int64_t n0, int64_t n1, float* y, const Epilogue& e) const {
        if (!e.bias && !e.residual && e.scale == 1.0f && e.act.kind == Act::none && e.act.lo == Activation().lo && e.act.hi == Activation().hi) return;
        for (int64_t m = 0; m < p.m; m++) {
            const void* row = y;
            GemmBlock g{};
            g.rows = &row, g.stride = g.m = 1, g.segments = 1, g.ldb = table_.nr, g.n = n1 - n0, g.c = y + m * p.n + n0, g.ldc = p.n, g.last = true;
            g.epilogue = e;
            if (e.bias) g.epilogue.bias += n0;
            if (e.residual) g.epilogue.residual += m * e.ldr + n0;
            table_.block(g);
        }
    }

    // B read once, for all rows.
    void run_stream(const Product& p, const float* a, const float* b, float* y, const Epilogue& e, ThreadPool& pool) const {
        const int64_t columns = std::min(kStreamed / p.m / 64 * 64, round_up(ceil_div(p.n, pool.threads()), 64));
        pool.parallel(ceil_div(p.n, columns), 1, [&](int64_t begin, int64_t end) {
            for (int64_t n0 = begin * columns; n0 < std::min(p.n, end * columns); n0 += columns) {
                const int64_t n1 = std::min(p.n, n0 + columns);
                table_.stream({a, p.k, p.m, p.k, b + n0, p.n, n1 - n0, y + n0, p.n});
                finish(p, n0, n1, y, e);
            }
        });
    }

    int64_t group_floats(const Product& p) const { return kGroup * table_.nr * Ranges(table_, 1, p.k).piece; }

    // More rows: some panels for one range of k at a time are packed where L2 keeps them, for all rows.
    void run_grouped(const Product& p, const float* a, const float* b, float* y, const Epilogue& e, const Memory& mem, ThreadPool& pool) const {
        const int64_t width = kGroup * table_.nr, groups = ceil_div(p.n, width);
        const Ranges ranges(table_, 1, p.k);
        pool.parallel(mem.slots, 1, [&](int64_t begin, int64_t end) {
            for (int64_t slot = begin; slot < end; slot++)
                for (int64_t i = slot; i < groups; i += mem.slots)
                    for (int64_t r = 0; r < ranges.count(); r++)
                        run_group(p, a, b, y, e, mem.b + slot * group_floats(p), i * width, ranges[r], r + 1 == ranges.count());
        });
    }
    void run_group(const Product& p, const float* a, const float* b, float* y, const Epilogue& e, float* packed, int64_t n0, const Ranges::Range& range, bool last) const {
        const void* rows[kGroupRows];
        GemmBlock g{};
        g.rows = rows, g.segments = 1, g.offset = range.k0, g.k = range.k1 - range.k0, g.first = range.k0 == 0, g.last = last;
        g.b = packed, g.ldb = table_.nr, g.panel_stride = g.k * table_.nr, g.n = std::min(p.n - n0, kGroup * table_.nr), g.ldc = p.n;
        table_.pack(b + range.k0 * p.n + n0, p.n, 1, g.k, g.n, packed, g.panel_stride, 0, panels(g.n));
        for (int64_t m0 = 0; m0 < p.m; m0 += kGroupRows) {
            g.stride = g.m = std::min(kGroupRows, p.m - m0), g.c = y + m0 * p.n + n0;
            MatrixRows(a + m0 * p.k, p.k).fill(rows, 0, 0, 1, 0, g.m);
            g.epilogue = e;
            if (e.bias) g.epilogue.bias += n0;
            if (e.residual) g.epilogue.residual += m0 * e.ldr + n0;
            table_.block(g);
        }
    }

    const GemmTable& table_;
    bool gemm_ = false, trans_a_ = false, trans_b_ = false;
    float scale_ = 1, beta_ = 1;
    bool stays_ = false;    // a constant B is read from where it lies
    Packed<float> packed_, bias_;
};

std::unique_ptr<Kernel> make_matmul(const NodeInfo& node) {
    if (node.inputs.size() < 2 || node.inputs[0] != DType::f32 || node.inputs[1] != DType::f32) return nullptr;
    Activation act;
    if (node.op.rfind("headrace.", 0) == 0 && !read_activation(node, act)) return nullptr;
    if (node.op == "headrace.cpu.MatMul" && (!node.constants[1] || node.constants[1]->shape.rank < 2)) return nullptr;
    auto kernel = std::make_unique<MatMulKernel>(node);
    kernel->act_ = act;
    return kernel;
}

HR_KERNEL("MatMul", make_matmul);
HR_KERNEL("Gemm", make_matmul);
HR_KERNEL("headrace.FusedMatMul", make_matmul);
HR_KERNEL("headrace.cpu.MatMul", make_matmul);    // FusedMatMul of low precision

}  // namespace

}  // namespace hr
