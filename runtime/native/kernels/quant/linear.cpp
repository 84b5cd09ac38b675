// QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, headrace.DynamicQuantizeRows, headrace.QAdd, and headrace.cpu.QuantizeLinear,
// that of x * factor: x [..., n], scale, zero point?, factor [n].
#include <algorithm>
#include <cmath>

#include "kernels/quant/params.h"
#include "kernels/quant/rows.h"
#include "pool.h"

namespace hr {

RowLevels levels_of(float lo, float hi) {
    RowLevels row;
    row.scale = (hi - lo) / 255.0f;
    if (row.scale == 0) row.scale = 1;
    const float zero = std::nearbyint(-lo / row.scale);
    row.zero = zero > 0 ? int32_t(std::min(zero, 255.0f)) : 0;
    return row;
}

RowLevels row_levels(const IntTable& t, const float* x, int64_t n) {
    float lo = 0, hi = 0;
    t.min_max(x, n, &lo, &hi);
    return levels_of(lo, hi);
}

void prepare_row(const IntTable& t, const float* x, int64_t n, const RowLevels& row, void* out) {
    if (t.item == 1) return t.quantize_within(x, n, row.scale, row.zero, static_cast<uint8_t*>(out));
    uint8_t bytes[512];
    for (int64_t i = 0; i < n; i += 512) {
        const int64_t width = std::min<int64_t>(512, n - i);
        t.quantize_within(x + i, width, row.scale, row.zero, bytes);
        t.prepare(bytes, false, row.zero, width, static_cast<char*>(out) + i * t.item);
    }
}

constexpr int64_t kGrain = 16384;

void quantize_all(const IntTable& t, ThreadPool& pool, const float* x, int64_t n, const RowLevels& levels, uint8_t* to) {
    pool.parallel(ceil_div(n, kGrain), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = end; i-- > begin;) t.quantize_within(x + i * kGrain, std::min(kGrain, n - i * kGrain), levels.scale, levels.zero, to + i * kGrain);
    });
}

namespace {

// Scale and zero point: one for all, or one for each index of an axis.
struct Axis {
    int64_t outer, size, inner;     // the tensor as [outer, size, inner]; size 1: per tensor
};

class LinearKernel final : public Kernel {
public:
    explicit LinearKernel(const NodeInfo& node) : table_(int_table()), axis_(node.i("axis", 1)) {
        quantize_ = node.op == "QuantizeLinear";
        type_ = node.outputs[0];
        signed_ = (quantize_ ? type_ : node.inputs[0]) == DType::i8;
    }

    void shape(ShapeContext& c) const override {
        const Axis a = axis(c.in(0).shape, c.in(1).shape, c.has(2) ? &c.in(2).shape : nullptr);
        c.out(0, type_, c.in(0).shape);
        Scratch scratch;
        plan(a, scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Axis a = axis(c.in(0).shape, c.in(1).shape, c.has(2) ? &c.in(2).shape : nullptr);
        Scratch scratch(c.scratch);
        auto [scale, zero] = plan(a, scratch);
        const bool each = a.size > 1 && a.inner == 1;
        const float* given = c.in(1).as<float>();
        const Tensor* zeros = c.has(2) ? &c.in(2) : nullptr;
        for (int64_t i = 0; i < a.size; i++) scale[i] = given[i], zero[i] = int_at(zeros, i);
        const int64_t runs = each ? a.outer : a.outer * a.size, length = each ? a.size : a.inner;
        const auto at = [&](int64_t index, int64_t offset, int64_t count) {
            const int64_t first = index * length + offset, s = each ? offset : index % a.size;
            if (quantize_) table_.quantize(c.in(0).as<float>() + first, count, scale + s, zero + s, each, signed_, c.out(0).as<uint8_t>() + first);
            else table_.dequantize(c.in(0).as<uint8_t>() + first, count, scale + s, zero + s, each, signed_, c.out(0).as<float>() + first);
        };
        if (runs == 1) {
            c.pool->parallel(length, kGrain, [&](int64_t begin, int64_t end) { at(0, begin, end - begin); });
        } else {
            c.pool->parallel(runs, std::max<int64_t>(1, kGrain / std::max<int64_t>(length, 1)), [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i++) at(i, 0, length);
            });
        }
    }

    std::string variant() const override { return std::string("quantize_") + table_.tier; }

private:
    Axis axis(const Shape& x, const Shape& scale, const Shape* zero) const {
        const int64_t count = scale.count();
        if (zero && zero->count() != count) throw std::invalid_argument("scale " + text(scale) + " and zero point " + text(*zero) + " differ in shape");
        if (count == 1 && scale.rank <= 1) return {1, 1, x.count()};
        const int64_t at = axis_ < 0 ? axis_ + x.rank : axis_;
        if (at < 0 || at >= x.rank || scale.rank != 1 || x.d[at] != count)
            throw std::invalid_argument("a scale " + text(scale) + " does not lie along axis " + std::to_string(axis_) + " of " + text(x));
        return {x.count(0, int(at)), count, x.count(int(at) + 1, x.rank)};
    }

    static std::pair<float*, int32_t*> plan(const Axis& a, Scratch& s) {
        float* scale = s.take<float>(a.size);
        return {scale, s.take<int32_t>(a.size)};
    }

    const IntTable& table_;
    int64_t axis_;
    bool quantize_, signed_;
    DType type_;
};

std::unique_ptr<Kernel> make_linear(const NodeInfo& node) {
    const bool quantize = node.op == "QuantizeLinear";
    if (node.inputs.size() < 2 || node.inputs[1] != DType::f32 || node.i("block_size", 0) != 0) return nullptr;
    const DType real = quantize ? node.inputs[0] : node.outputs[0], level = quantize ? node.outputs[0] : node.inputs[0];
    if (real != DType::f32 || !is_int8(level) || (node.i("precision", 0) != 0 && node.i("precision", 0) != int(DType::f32))) return nullptr;
    if (node.inputs.size() > 2 && node.inputs[2] != DType::none && node.inputs[2] != level) return nullptr;
    node.known({"output_dtype", "saturate"});
    return std::make_unique<LinearKernel>(node);
}

class ScaledQuantize final : public Kernel {
public:
    explicit ScaledQuantize(const NodeInfo& node) : table_(int_table()), type_(node.outputs[0]) {}

    void shape(ShapeContext& c) const override {
        const Shape &x = c.in(0).shape, &factor = c.in(3).shape;
        if (x.rank == 0 || factor.rank != 1 || factor[0] != x[-1]) throw std::invalid_argument("factors " + text(factor) + " do not fit rows of " + text(x));
        c.out(0, type_, x);
    }

    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const int64_t n = x[-1];
        const float scale = c.in(1).as<float>()[0];
        const int32_t zero = int_at(c.has(2) ? &c.in(2) : nullptr, 0);
        c.pool->parallel(x.count(0, x.rank - 1), std::max<int64_t>(1, kGrain / (n + 1)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++)
                table_.quantize_scaled(c.in(0).as<float>() + i * n, c.in(3).as<float>(), n, scale, zero, type_ == DType::i8, c.out(0).as<uint8_t>() + i * n);
        });
    }

    std::string variant() const override { return std::string("quantize_") + table_.tier; }

private:
    const IntTable& table_;
    DType type_;
};

std::unique_ptr<Kernel> make_scaled(const NodeInfo& node) {
    node.known({"output_dtype", "saturate", "axis", "block_size", "precision"});     // one scale: nothing else can be said
    return std::make_unique<ScaledQuantize>(node);
}

// One scale for the whole tensor, or one for each row along the last axis.
class DynamicQuantize final : public Kernel {
public:
    explicit DynamicQuantize(const NodeInfo& node) : table_(int_table()), rows_(node.op == "headrace.DynamicQuantizeRows") {}

    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        Shape one;
        if (rows_) {
            if (x.rank == 0) throw std::invalid_argument("DynamicQuantizeRows takes no scalar");
            one = x;
            one[-1] = 1;
        }
        c.out(0, DType::u8, x), c.out(1, DType::f32, one), c.out(2, DType::u8, one);
        c.scratch = 2 * aligned(size_t(ceil_div(x.count(), kGrain)) * 4 + 4);
    }

    void run(RunContext& c) const override {
        const Shape& x = c.in(0).shape;
        const float* from = c.in(0).as<float>();
        const auto put = [&](int64_t row, const RowLevels& levels) {
            if (c.n_outputs > 1 && c.out(1).data) c.out(1).as<float>()[row] = levels.scale;
            if (c.n_outputs > 2 && c.out(2).data) c.out(2).as<uint8_t>()[row] = uint8_t(levels.zero);
        };
        if (rows_) {
            const int64_t k = x[-1], n = x.count(0, x.rank - 1);
            c.pool->parallel(n, std::max<int64_t>(1, kGrain / (k + 1)), [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i++) {
                    const RowLevels levels = row_levels(table_, from + i * k, k);
                    table_.quantize_within(from + i * k, k, levels.scale, levels.zero, c.out(0).as<uint8_t>() + i * k);
                    put(i, levels);
                }
            });
            return;
        }
        // Extremes of pieces, then of all: no order changes a maximum.
        const int64_t n = x.count(), pieces = ceil_div(n, kGrain);
        float* lows = static_cast<float*>(c.scratch);
        float* highs = reinterpret_cast<float*>(static_cast<char*>(c.scratch) + aligned(size_t(pieces) * 4 + 4));
        c.pool->parallel(pieces, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                lows[i] = highs[i] = 0;
                table_.min_max(from + i * kGrain, std::min(kGrain, n - i * kGrain), lows + i, highs + i);
            }
        });
        float lo = 0, hi = 0;
        for (int64_t i = 0; i < pieces; i++) {
            lo = lows[i] < lo || lows[i] != lows[i] ? lows[i] : lo;
            hi = highs[i] > hi || highs[i] != highs[i] ? highs[i] : hi;
        }
        const RowLevels levels = levels_of(lo, hi);
        quantize_all(table_, *c.pool, from, n, levels, c.out(0).as<uint8_t>());
        put(0, levels);
    }

private:
    const IntTable& table_;
    bool rows_;
};

std::unique_ptr<Kernel> make_dynamic(const NodeInfo& node) {
    return node.inputs[0] == DType::f32 ? std::make_unique<DynamicQuantize>(node) : nullptr;
}

class QAddKernel final : public Kernel {
public:
    explicit QAddKernel(const NodeInfo& node) : table_(int_table()), type_(node.outputs[0]) {
        rule_.table = &table_, rule_.out = type_ == DType::i8 ? IntOut::i8 : IntOut::u8;
        rule_.slots.y_scale = 6, rule_.slots.y_zero = 7;
        rule_.read_activation(node);
    }

    void shape(ShapeContext& c) const override { c.out(0, type_, broadcast(c.in(0).shape, c.in(3).shape)); }

    void run(RunContext& c) const override {
        for (int i : {1, 2, 4, 5, 6, 7})
            if (c.in(i).count() != 1) throw std::invalid_argument("QAdd takes one scale and one zero point a tensor");
        Params p;
        rule_.fill(p, [&](int i) { return i >= 0 ? &c.in(i) : nullptr; }, nullptr, nullptr);
        const IntEpilogue& e = p.epilogue;
        const float ys = c.in(6).as<float>()[0];
        const auto side = [&](int i) {
            return IntTable::Side{c.in(i).as<uint8_t>(), c.in(i).dtype == DType::i8, int_at(&c.in(i + 2), 0), c.in(i + 1).as<float>()[0] / ys};
        };
        const IntTable::Side a = side(0), b = side(3);
        uint8_t* y = c.out(0).as<uint8_t>();
        const Shape& out = c.out(0).shape;
        if (c.in(0).shape == out && c.in(3).shape == out) {
            c.pool->parallel(out.count(), kGrain, [&](int64_t begin, int64_t end) {
                IntTable::Side x = a, z = b;
                x.data += begin, z.data += begin;
                table_.add(x, z, end - begin, e.lo, e.hi, e.zero, type_ == DType::i8, y + begin);
            });
            return;
        }
        c.pool->parallel(out.count(), 1024, [&](int64_t begin, int64_t end) {   // broadcasting: element by element
            for (int64_t i = begin; i < end; i++) {
                IntTable::Side x = a, z = b;
                x.data += broadcast_index(c.in(0).shape, out, i), z.data += broadcast_index(c.in(3).shape, out, i);
                table_.add(x, z, 1, e.lo, e.hi, e.zero, type_ == DType::i8, y + i);
            }
        });
    }

    std::string variant() const override { return std::string("add_int8_") + table_.tier; }

private:
    const IntTable& table_;
    DType type_;
    ParamsRule rule_;
};

std::unique_ptr<Kernel> make_qadd(const NodeInfo& node) {
    if (node.inputs.size() < 8) return nullptr;
    for (int i : {0, 2, 3, 5, 7})
        if (!is_int8(node.inputs[i])) return nullptr;
    return std::make_unique<QAddKernel>(node);
}

HR_KERNEL("QuantizeLinear", make_linear);
HR_KERNEL("DequantizeLinear", make_linear);
HR_KERNEL("headrace.cpu.QuantizeLinear", make_scaled);
HR_KERNEL("DynamicQuantizeLinear", make_dynamic);
HR_KERNEL("headrace.DynamicQuantizeRows", make_dynamic);
HR_KERNEL("headrace.QAdd", make_qadd);

}  // namespace

}  // namespace hr
