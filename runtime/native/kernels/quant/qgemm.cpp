// Integer products: headrace.QGemm, QLinearMatMul, MatMulInteger, headrace.MatMulIntegerToFloat, headrace.DynamicMatMul, and
// headrace.cpu.QGemm, those with float results and what comes after: x, x_scale, x_zp, w, w_scale, w_zp, bias (of integers or
// floats)?, added [m, n]?, then an activation, factor [n]?, y_scale?, y_zp?, or three outputs, the levels that DynamicQuantizeLinear
// makes of all that; headrace.cpu.DynamicMatMul: x, w, w_scale, bias?, added.
#include <algorithm>
#include <mutex>

#include "kernels/quant/params.h"
#include "kernels/quant/rows.h"
#include "pool.h"

namespace hr {

namespace {

// The range of all results of a product, from those of its tasks: no order changes it.
class Range {
public:
    explicit Range(const IntTable& t) : table_(t) {}

    // Runs part of a product whose epilogue widens a range of its own.
    template <class Part> void take(IntProblem p, const Part& part) {
        alignas(64) float own[3 * kRangeLanes] = {};
        p.epilogue.range = own;
        part(p);
        const std::lock_guard<std::mutex> lock(mutex_);
        for (int j = 0; j < kRangeLanes; j++)
            lo_ = std::min(lo_, own[j]), hi_ = std::max(hi_, own[kRangeLanes + j]), maybe_nan_ |= own[2 * kRangeLanes + j] != own[2 * kRangeLanes + j];
    }

    RowLevels levels(const float* x, int64_t n) const { return maybe_nan_ ? row_levels(table_, x, n) : levels_of(lo_, hi_); }

private:
    const IntTable& table_;
    std::mutex mutex_;
    float lo_ = 0, hi_ = 0;
    bool maybe_nan_ = false;    // or infinities of both signs
};

constexpr int64_t kPreparedBytes = 256 << 10;   // of A at a time: half of L2

class QGemmKernel final : public Kernel {
public:
    QGemmKernel(const NodeInfo& node, const Slots& slots, IntOut out, const Activation& act) : table_(int_table()), slots_(slots), act_(act) {
        dynamic_ = is_dynamic(node);
        type_ = node.outputs[0], ranged_ = ends_in_range(node, slots);
        rule_.table = &table_, rule_.slots = slots, rule_.out = out;
        rule_.x_signed = node.inputs[slots.x] == DType::i8, rule_.w_signed = node.inputs[slots.w] == DType::i8;
        own_act_ = dynamic_ || node.op == "headrace.MatMulIntegerToFloat" || node.op == "headrace.cpu.QGemm";
        if (!own_act_) rule_.read_activation(node);
        r_signed_ = slots.r >= 0 && slots.r < int(node.inputs.size()) && node.inputs[slots.r] == DType::i8;
        const auto constant = [&](int i) { return i >= 0 && i < int(node.constants.size()) ? node.constants[i] : nullptr; };
        const Tensor* w = constant(slots.w);
        if (!w || w->shape.rank != 2) return;
        const int64_t k = w->shape[0], n = w->shape[1];
        if (const Tensor* scale = constant(slots.level_scale)) {
            level_scale_ = scale->as<float>()[0], level_zero_ = int_at(constant(slots.level_zero), 0);
            if (const Tensor* factor = constant(slots.factor)) {
                factor_ = Packed<float>(round_up(n, table_.nr));
                for (int64_t j = 0; j < n; j++) factor_.get()[j] = factor->as<float>()[factor->count() == 1 ? 0 : j];
            }
        }
        pack_once([&] { pack(w->as<uint8_t>(), k, n, packed_.get(), sums_.get()); }, Part<int8_t>{packed_, int_packed(table_, 1, k, n)},
                  Part<int32_t>{sums_, round_up(n, table_.nr)});
        fixed_ = true;
        for (int i : rule_.inputs())
            if (i >= 0 && i < int(node.inputs.size()) && node.inputs[i] != DType::none && !constant(i)) fixed_ = false;
        if (fixed_) {
            rule(w->shape[1]).fill(params_, constant, sums_.get(), nullptr);
            const Tensor* zero = constant(slots.x_zero);
            fixed_ = !zero || zero->count() == 1;
        }
    }

    void shape(ShapeContext& c) const override {
        const Shape out = output(c.in(slots_.x).shape, c.in(slots_.w).shape);
        c.out(0, type_, out);
        if (ranged_) c.out(1, DType::f32, Shape{}), c.out(2, DType::u8, Shape{});
        Scratch scratch;
        plan(sizes(c.in(slots_.x).shape, c.in(slots_.w).shape), scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Sizes z = sizes(c.in(slots_.x).shape, c.in(slots_.w).shape);
        Range range(table_);
        Scratch scratch(c.scratch);
        const Memory mem = plan(z, scratch);
        if (z.m && z.n && z.batch) multiply(c, z, mem, range);
        if (!ranged_) return;
        const int64_t count = z.batch * z.m * z.n;
        const RowLevels levels = range.levels(mem.real, count);
        quantize_all(table_, *c.pool, mem.real, count, levels, c.out(0).as<uint8_t>());
        if (c.out(1).data) *c.out(1).as<float>() = levels.scale;
        if (c.out(2).data) *c.out(2).as<uint8_t>() = uint8_t(levels.zero);
    }

    bool reads_data(int input) const override { return !(input == slots_.w && packed_); }
    bool in_place(int input) const override { return input == slots_.added && type_ == DType::f32; }     // a tile reads what it is going to write
    static bool is_dynamic(const NodeInfo& node) { return node.op == "headrace.DynamicMatMul" || node.op == "headrace.cpu.DynamicMatMul"; }
    size_t packed_bytes() const override { return packed_.bytes() + sums_.bytes(); }
    std::string variant() const override { return std::string("gemm_int8_") + table_.tier; }

private:
    struct Sizes {
        int64_t m, n, k, batch, a_count, b_count;
        Shape a_batch, b_batch, batch_shape;
        bool fold;
    };
    struct Memory {
        char* params = nullptr;
        uint8_t* a = nullptr;
        int8_t* b = nullptr;
        int32_t *sums = nullptr, *row_shift = nullptr;
        float *row_scale = nullptr, *real = nullptr;
    };

    static bool ends_in_range(const NodeInfo& node, const Slots& s) {
        if (node.op != "headrace.cpu.QGemm" || node.outputs[0] != DType::u8) return false;
        return s.level_scale >= int(node.inputs.size()) || node.inputs[size_t(s.level_scale)] == DType::none;
    }

    void multiply(RunContext& c, const Sizes& z, const Memory& mem, Range& range) const {
        const auto given = [&](int i) { return i >= 0 && c.has(i) ? &c.in(i) : nullptr; };
        const Tensor* x_zero = given(slots_.x_zero);
        const bool row_zeros = x_zero && x_zero->count() > 1;
        if (row_zeros && x_zero->count() != z.m * (z.fold ? 1 : z.batch))
            throw std::invalid_argument("the zero point of A is " + text(x_zero->shape) + "; allowed: one, or one a row");
        const char* x = static_cast<const char*>(c.in(slots_.x).data);
        char* y = ranged_ ? reinterpret_cast<char*>(mem.real) : static_cast<char*>(c.out(0).data);
        const int64_t x_item = dynamic_ ? 4 : 1, y_item = result_bytes();
        for (int64_t i = 0; i < z.batch; i++) {
            const int8_t* b = packed_.get();
            const int32_t* sums = sums_.get();
            if (!packed_) {
                const int64_t at = z.b_count == z.batch ? i : broadcast_index(z.b_batch, z.batch_shape, i);
                pack(c.in(slots_.w).as<uint8_t>() + at * z.k * z.n, z.k, z.n, mem.b, mem.sums);
                b = mem.b, sums = mem.sums;
            }
            Params own;
            if (!fixed_) {
                Scratch room(mem.params);
                rule(z.n).fill(own, given, sums, &room);
            }
            const Params& params = fixed_ ? params_ : own;
            IntEpilogue e = params.epilogue;
            if (own_act_) e.act = act_;
            if (slots_.r >= 0 && c.has(slots_.r)) {
                if (c.in(slots_.r).shape != c.out(0).shape) throw std::invalid_argument("the residual is " + text(c.in(slots_.r).shape) + ", the result " + text(c.out(0).shape));
                e.r = c.in(slots_.r).as<uint8_t>(), e.ldr = z.n, e.r_signed = r_signed_;
            }
            if (slots_.added >= 0 && c.has(slots_.added)) {
                if (c.in(slots_.added).shape != c.out(0).shape) throw std::invalid_argument("what is added is " + text(c.in(slots_.added).shape) + ", the result " + text(c.out(0).shape));
                e.added = c.in(slots_.added).as<float>() + i * z.m * z.n, e.ldr = z.n;
            }
            if (level_scale_ != 0) e.level_scale = level_scale_, e.zero = level_zero_, e.factor = factor_.get(), e.levels_signed = type_ == DType::i8;
            const int64_t from = z.a_count == z.batch ? i : broadcast_index(z.a_batch, z.batch_shape, i);
            run_rows(z, x + from * z.m * z.k * x_item, row_zeros ? x_zero : nullptr, from * z.m, params, e, b, sums,
                     y + i * z.m * z.n * y_item, mem, *c.pool, range);
        }
    }

    static Shape leading(const Shape& s) {
        Shape out;
        for (int i = 0; i + 2 < s.rank; i++) out.push(s.d[i]);
        return out;
    }

    Sizes sizes(const Shape& a, const Shape& b) const {
        if (a.rank == 0 || b.rank == 0) throw std::invalid_argument("a matrix product takes no scalars");
        const Shape a2 = a.rank == 1 ? Shape{1, a.d[0]} : a, b2 = b.rank == 1 ? Shape{b.d[0], 1} : b;
        if (a2[-1] != b2[-2]) throw std::invalid_argument("cannot multiply " + text(a) + " by " + text(b));
        Sizes z{};
        z.m = a2[-2], z.k = a2[-1], z.n = b2[-1];
        z.a_batch = leading(a2), z.b_batch = leading(b2), z.batch_shape = broadcast(z.a_batch, z.b_batch);
        z.a_count = z.a_batch.count(), z.b_count = z.b_batch.count(), z.batch = z.batch_shape.count();
        z.fold = z.b_count == 1 && z.a_count == z.batch;
        if (z.fold) {
            z.m *= z.batch, z.batch = z.a_count = 1;
            z.a_batch = z.b_batch = z.batch_shape = Shape{};
        }
        return z;
    }

    Shape output(const Shape& a, const Shape& b) const {
        const Shape a2 = a.rank == 1 ? Shape{1, a.d[0]} : a, b2 = b.rank == 1 ? Shape{b.d[0], 1} : b;
        sizes(a, b);
        Shape out = broadcast(leading(a2), leading(b2));
        if (a.rank > 1) out.push(a2[-2]);
        if (b.rank > 1) out.push(b2[-1]);
        return out;
    }

    ParamsRule rule(int64_t n) const {
        ParamsRule r = rule_;
        r.n = n, r.ld = round_up(n, table_.nr);
        return r;
    }

    void pack(const uint8_t* w, int64_t k, int64_t n, int8_t* out, int32_t* sums) const {
        pack_int(table_, w, 0, n, 1, !rule_.w_signed, 1, k, n, out, sums);
    }

    int64_t result_bytes() const { return ranged_ ? 4 : int64_t(item_size(type_)); }     // of what a tile writes
    int64_t row_bytes(int64_t k) const { return round_up(k, table_.unit) * table_.item; }
    int64_t rows_at_once(const Sizes& z) const {
        const int64_t most = std::max<int64_t>(kPreparedBytes / std::max<int64_t>(1, row_bytes(z.k)), 96);
        return std::min(round_up(most, table_.mr), std::max<int64_t>(z.m, 1));
    }

    Memory plan(const Sizes& z, Scratch& s) const {
        Memory mem;
        mem.a = s.take<uint8_t>(rows_at_once(z) * row_bytes(z.k));
        mem.row_shift = s.take<int32_t>(rows_at_once(z)), mem.row_scale = s.take<float>(rows_at_once(z));
        if (!packed_) mem.b = s.take<int8_t>(int_packed(table_, 1, z.k, z.n)), mem.sums = s.take<int32_t>(round_up(z.n, table_.nr));
        if (ranged_) mem.real = s.take<float>(z.batch * z.m * z.n);
        if (!fixed_) mem.params = s.take<char>(int64_t(rule(z.n).scratch_bytes()));
        return mem;
    }

    void run_rows(const Sizes& z, const char* x, const Tensor* x_zero, int64_t zero_at, const Params& params, const IntEpilogue& e, const int8_t* b,
                  const int32_t* sums, char* y, const Memory& mem, ThreadPool& pool, Range& range) const {
        const int64_t stride = row_bytes(z.k), step = rows_at_once(z), y_item = result_bytes();
        const bool bytes = table_.item == 1;
        // Unsigned bytes in whole units are what the product reads: nothing to prepare.
        const bool as_it_lies = bytes && !dynamic_ && !rule_.x_signed && z.k % table_.unit == 0;
        for (int64_t m0 = 0; m0 < z.m; m0 += step) {
            const int64_t rows = std::min(step, z.m - m0);
            if (!as_it_lies || x_zero) pool.parallel(rows, std::max<int64_t>(1, 16384 / (z.k + 1)), [&](int64_t begin, int64_t end) {
                for (int64_t m = begin; m < end; m++) {
                    uint8_t* to = mem.a + m * stride;
                    if (dynamic_) {
                        const RowLevels row = row_levels(table_, reinterpret_cast<const float*>(x) + (m0 + m) * z.k, z.k);
                        prepare_row(table_, reinterpret_cast<const float*>(x) + (m0 + m) * z.k, z.k, row, to);
                        mem.row_scale[m] = row.scale, mem.row_shift[m] = -row.zero;
                        continue;
                    }
                    const int32_t zero = x_zero ? int_at(x_zero, zero_at + m0 + m) : params.x_raw_zero;
                    if (x_zero) mem.row_shift[m] = -zero;
                    if (as_it_lies) continue;
                    table_.prepare(reinterpret_cast<const uint8_t*>(x) + (m0 + m) * z.k, rule_.x_signed, zero, z.k, to);
                }
            });
            const MatrixRows source(as_it_lies ? reinterpret_cast<const uint8_t*>(x) + m0 * z.k : mem.a, as_it_lies ? z.k : stride);
            IntProblem p{rows, z.n, 1, z.k, &source, b, y + m0 * z.n * y_item, z.n, e, stride, int32_t(z.k) * params.x_zero};
            if (p.epilogue.r) p.epilogue.r = static_cast<const uint8_t*>(e.r) + m0 * z.n;
            if (p.epilogue.added) p.epilogue.added += m0 * z.n;
            if (dynamic_) p.epilogue.row_scale = mem.row_scale;
            if (bytes && (dynamic_ || x_zero)) {
                // Zero points a row, on top of the shift of signed bytes that the columns hold already.
                p.epilogue.row_shift = mem.row_shift, p.epilogue.col_sum = sums;
            }
            const GemmPlan plan = plan_int(table_, p, pool.threads());
            pool.parallel(plan.tasks(), 1, [&](int64_t begin, int64_t end) {
                const auto tasks = [&](const IntProblem& own) {
                    for (int64_t task = begin; task < end; task++) run_int_task(table_, own, plan, task);
                };
                ranged_ ? range.take(p, tasks) : tasks(p);
            });
        }
    }

    const IntTable& table_;
    Slots slots_;
    Activation act_;
    bool dynamic_ = false, own_act_ = false, fixed_ = false, r_signed_ = false, ranged_ = false;
    // own_act_: any activation, of a float result; ranged_: results become levels of the range that all of them have
    DType type_;
    float level_scale_ = 0;     // 0: results are what comes out of the product
    int32_t level_zero_ = 0;
    Packed<float> factor_;
    ParamsRule rule_;
    Packed<int8_t> packed_;
    Packed<int32_t> sums_;
    Params params_;
};

std::unique_ptr<Kernel> make_qgemm(const NodeInfo& node) {
    const auto type = [&](int i) { return i >= 0 && i < int(node.inputs.size()) ? node.inputs[i] : DType::none; };
    Slots s;
    IntOut out = IntOut::s32;
    Activation act;
    if (node.op == "MatMulInteger") {
        s.x_zero = 2, s.w_zero = 3;
    } else if (node.op == "headrace.MatMulIntegerToFloat") {
        s.x_scale = 2, s.w_scale = 3, s.x_zero = 4, s.w_zero = 5, s.real_bias = 6, out = IntOut::f32;
        if (!read_activation(node, act)) return nullptr;
    } else if (QGemmKernel::is_dynamic(node)) {
        s.w_scale = 2, s.real_bias = 3, s.added = 4, out = IntOut::f32;
        if (type(0) != DType::f32 || type(1) != DType::i8 || !read_activation(node, act)) return nullptr;
    } else if (node.op == "headrace.cpu.QGemm") {
        s.x_scale = 1, s.x_zero = 2, s.w = 3, s.w_scale = 4, s.w_zero = 5, s.added = 7, s.factor = 8, s.level_scale = 9, s.level_zero = 10, out = IntOut::f32;
        (type(6) == DType::f32 ? s.real_bias : s.bias) = 6;
        if (!read_activation(node, act)) return nullptr;
    } else {
        s.x_scale = 1, s.x_zero = 2, s.w = 3, s.w_scale = 4, s.w_zero = 5, s.y_scale = 6, s.y_zero = 7;
        if (node.op == "headrace.QGemm") s.bias = 8, s.r = 9, s.r_scale = 10, s.r_zero = 11;
        out = type(7) == DType::none ? IntOut::f32 : node.outputs[0] == DType::i8 ? IntOut::i8 : IntOut::u8;
    }
    if (!QGemmKernel::is_dynamic(node) && (!is_int8(type(s.x)) || !is_int8(type(s.w)))) return nullptr;
    for (int i : {s.x_scale, s.w_scale, s.y_scale, s.r_scale, s.real_bias})
        if (type(i) != DType::none && type(i) != DType::f32) return nullptr;
    return std::make_unique<QGemmKernel>(node, s, out, act);
}

HR_KERNEL("headrace.QGemm", make_qgemm);
HR_KERNEL("QLinearMatMul", make_qgemm);
HR_KERNEL("MatMulInteger", make_qgemm);
HR_KERNEL("headrace.MatMulIntegerToFloat", make_qgemm);
HR_KERNEL("headrace.DynamicMatMul", make_qgemm);
HR_KERNEL("headrace.cpu.QGemm", make_qgemm);
HR_KERNEL("headrace.cpu.DynamicMatMul", make_qgemm);

}  // namespace

}  // namespace hr
