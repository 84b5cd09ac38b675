// com.microsoft.DynamicQuantizeLSTM with constant weights and the standard activations: the whole sequence in one call.
//
// The inputs of all steps are quantized with one range and projected in one integer product; each step quantizes the state
// and multiplies it by the recurrent weights, which stay in L2. Steps go through them forth and back in turn: what one step
// read last is still in L1 for the next.
#include <algorithm>
#include <cctype>

#include "kernels/gemm/tiers.h"
#include "kernels/quant/lstm_step.h"
#include "kernels/quant/params.h"
#include "kernels/quant/rows.h"
#include "pool.h"

namespace hr {

HR_TIER_TABLE(LstmStepTable, lstm_step_kernels);

const LstmStepTable& lstm_step_table() { return HR_OF_TIER(lstm_step_kernels, cpu_tier()); }

namespace {

enum Slot { kX, kW, kR, kB, kLengths, kH, kC, kPeephole, kWScale, kWZero, kRScale, kRZero, kSlots };
constexpr int64_t kGates = kLstmGates;   // i, o, f, c

// Where columns of gates of `hidden` values each go: to the blocks of lstm_step.h, the last of which zeros fill.
struct Columns {
    int64_t hidden, lanes;
    Columns(const IntTable& t, int64_t size) : hidden(size), lanes(t.nr / 2) {}
    int64_t padded() const { return round_up(hidden, lanes); }
    int64_t count() const { return kGates * padded(); }
    int64_t at(int64_t gate, int64_t i) const { return i / lanes * kGates * lanes + gate * lanes + i % lanes; }
    template <class F> void runs(F f) const {       // f(first column as given, first here, how many)
        for (int64_t gate = 0; gate < kGates; gate++)
            for (int64_t i = 0; i < hidden; i += lanes) f(gate * hidden + i, at(gate, i), std::min(lanes, hidden - i));
    }
    template <class F> void each(F f) const {       // f(column as given, column here)
        for (int64_t gate = 0; gate < kGates; gate++)
            for (int64_t i = 0; i < hidden; i++) f(gate * hidden + i, at(gate, i));
    }
};

// 8-bit weights [k, columns] packed, with what an epilogue needs of them.
struct Weights {
    int64_t k = 0, n = 0;
    bool zeros = false;
    Packed<int8_t> data;
    Packed<int32_t> sums, zero;
    Packed<float> scale;

    Weights(const IntTable& t, const Columns& columns, const Tensor& w, const Tensor& scales, const Tensor& points, int64_t direction)
        : k(w.shape[1]), n(columns.count()), zero(n), scale(n) {
        const bool is_signed = w.dtype == DType::i8;
        const auto fill = [&] {
            std::vector<uint8_t> ordered(size_t(k * n));
            const uint8_t* from = w.as<uint8_t>() + direction * k * w.shape[2];
            for (int64_t i = 0; i < k; i++, from += w.shape[2])
                columns.runs([&](int64_t j, int64_t to, int64_t count) { std::copy_n(from + j, count, &ordered[size_t(i * n + to)]); });
            pack_int(t, ordered.data(), 0, n, 1, !is_signed, 1, k, n, data.get(), sums.get());
        };
        pack_once(fill, Part<int8_t>{data, int_packed(t, 1, k, n)}, Part<int32_t>{sums, n});
        const int64_t directions = w.shape[0], each = scales.count() / directions, points_each = points.count() / directions;
        columns.each([&](int64_t j, int64_t to) {
            scale[to] = scales.as<float>()[direction * each + (each == 1 ? 0 : j)];
            zero[to] = int_at(&points, direction * points_each + (points_each == 1 ? 0 : j)) - (is_signed ? 0 : 128);
            zeros |= zero[to] != 0;
        });
    }
};

class DynamicLstm final : public Kernel {
public:
    explicit DynamicLstm(const NodeInfo& node) : table_(int_table()), step_(lstm_step_table()), columns_(table_, node.constants[kR]->shape[1]), backward_(node.s("direction", "forward") == "reverse") {
        const Tensor &w = *node.constants[kW], &r = *node.constants[kR];
        input_ = w.shape[1], hidden_ = r.shape[1];
        const int64_t given = kGates * hidden_;
        for (int64_t d = 0; d < w.shape[0]; d++) {
            w_.emplace_back(table_, columns_, w, *node.constants[kWScale], *node.constants[kWZero], d);
            r_.emplace_back(table_, columns_, r, *node.constants[kRScale], *node.constants[kRZero], d);
            bias_.emplace_back(columns_.count());
            if (const Tensor* b = node.constants[kB])
                columns_.each([&](int64_t j, int64_t to) { bias_.back()[to] = b->as<float>()[d * 2 * given + j] + b->as<float>()[(d * 2 + 1) * given + j]; });
        }
    }

    std::string variant() const override { return std::string("lstm_int8_") + table_.tier; }
    size_t packed_bytes() const override {
        size_t total = 0;
        for (const auto& side : {&w_, &r_})
            for (const Weights& w : *side) total += w.data.bytes() + w.sums.bytes() + w.zero.bytes() + w.scale.bytes();
        return total;
    }
    bool reads_data(int input) const override { return input != kW && input != kR && input != kB && input < kWScale; }

    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(kX).shape;
        if (x.rank != 3 || x[2] != input_) throw std::invalid_argument("X is " + text(x) + "; allowed: [seq, batch, " + std::to_string(input_) + "]");
        const Shape last{directions(), x[1], hidden_};
        for (int i : {int(kH), int(kC)})
            if (c.has(i) && c.in(i).shape != last) throw std::invalid_argument("an initial state must be " + text(last) + ", not " + text(c.in(i).shape));
        if (c.has(kLengths) && c.in(kLengths).count() != x[1]) throw std::invalid_argument("there are " + std::to_string(c.in(kLengths).count()) + " lengths for " + std::to_string(x[1]) + " sequences");
        c.out(0, DType::f32, Shape{x[0], directions(), x[1], hidden_});
        c.out(1, DType::f32, last), c.out(2, DType::f32, last);
        Scratch scratch;
        plan(x, scratch);
        c.scratch = scratch.used();
    }

    void run(RunContext& c) const override {
        const Shape& x = c.in(kX).shape;
        const int64_t seq = x[0], batch = x[1];
        for (int64_t b = 0; c.has(kLengths) && b < batch; b++) {
            const int32_t length = c.in(kLengths).as<int32_t>()[b];
            if (length < 0 || length > seq) throw std::invalid_argument("a sequence length is " + std::to_string(length) + "; allowed: 0 to " + std::to_string(seq));
        }
        Scratch scratch(c.scratch);
        const Memory mem = plan(x, scratch);
        for (int64_t d = 0; d < directions(); d++) {
            project(w_[size_t(d)], c.in(kX).as<float>(), seq * batch, bias_[size_t(d)].get(), mem, *c.pool);
            unroll(c, d, mem);
        }
    }

private:
    struct Memory {
        uint8_t* a;
        int32_t *row_shift, *row_sum;
        float *row_scale, *projected, *h, *cell, *shown;
        const void** rows;
        const float** inputs;
    };

    int64_t directions() const { return int64_t(w_.size()); }
    int64_t stride(int64_t k) const { return round_up(k, table_.unit) * table_.item; }

    Memory plan(const Shape& x, Scratch& s) const {
        const int64_t rows = x[0] * x[1], batch = x[1], most = std::max(rows, batch), padded = columns_.padded();
        Memory m{};
        m.a = s.take<uint8_t>(std::max(rows * stride(input_), batch * stride(hidden_)));
        m.row_shift = s.take<int32_t>(most), m.row_scale = s.take<float>(most), m.row_sum = s.take<int32_t>(batch);
        m.projected = s.take<float>(rows * columns_.count());
        m.h = s.take<float>(batch * padded), m.cell = s.take<float>(batch * padded), m.shown = s.take<float>(batch * padded);
        m.rows = s.take<const void*>(batch), m.inputs = s.take<const float*>(batch);
        return m;
    }

    // m rows of k values, `ld` apart, quantized with one range and prepared. What that means for the sums is in the result.
    IntEpilogue quantize(const Weights& w, const float* x, int64_t ld, int64_t m, const Memory& mem, ThreadPool& pool) const {
        float lo = 0, hi = 0;
        for (int64_t i = 0; i < m; i++) table_.min_max(x + i * ld, w.k, &lo, &hi);
        const RowLevels levels = levels_of(lo, hi);
        pool.parallel(m, std::max<int64_t>(1, 16384 / (w.k + 1)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                prepare_row(table_, x + i * ld, w.k, levels, mem.a + i * stride(w.k));
                mem.row_scale[i] = levels.scale, mem.row_shift[i] = -levels.zero;
            }
        });
        IntEpilogue e;
        e.out = IntOut::f32, e.scale = w.scale.get(), e.row_scale = mem.row_scale;
        if (w.zeros) e.w_zero = w.zero.get();
        if (table_.item == 1) e.row_shift = mem.row_shift, e.col_sum = w.sums.get();
        return e;
    }

    // The inputs of all steps [m, k] times weights, in float, + bias.
    void project(const Weights& w, const float* x, int64_t m, const float* bias, const Memory& mem, ThreadPool& pool) const {
        IntEpilogue e = quantize(w, x, w.k, m, mem, pool);
        e.bias = bias;
        const MatrixRows rows(mem.a, stride(w.k));
        const IntProblem p{m, w.n, 1, w.k, &rows, w.data.get(), mem.projected, w.n, e, stride(w.k)};
        const GemmPlan plan = plan_int(table_, p, pool.threads());
        pool.parallel(plan.tasks(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) run_int_task(table_, p, plan, task);
        });
    }

    // The state after one more step of every row that has an input.
    void advance(const Weights& w, const float* state, int64_t batch, bool back, const Memory& mem, ThreadPool& pool) const {
        IntEpilogue e = quantize(w, state, columns_.padded(), batch, mem, pool);
        MatrixRows(mem.a, stride(w.k)).fill(mem.rows, batch, 0, 1, 0, batch);
        if (e.w_zero) {
            for (int64_t b = 0; b < batch; b++) mem.row_sum[b] = table_.sum(mem.rows[b], w.k) + (e.row_shift ? int32_t(w.k) * mem.row_shift[b] : 0);
            e.row_sum = mem.row_sum;
        }
        const LstmStep step{mem.rows, batch, units_of(table_, w.k), w.data.get(), int_panel(table_, 1, w.k), &e, mem.inputs, mem.h, mem.cell, columns_.padded()};
        const int64_t blocks = columns_.padded() / columns_.lanes;
        pool.parallel(blocks, std::max<int64_t>(1, 131072 / (w.k * batch * kGates * columns_.lanes)), [&](int64_t begin, int64_t end) {
            step_.run(step, begin, end, back);
        });
    }

    void unroll(RunContext& c, int64_t d, const Memory& mem) const {
        const int64_t seq = c.in(kX).shape[0], batch = c.in(kX).shape[1], size = batch * hidden_, padded = columns_.padded();
        const bool backward = backward_ || d == 1;
        for (auto [slot, to] : {std::pair{kH, mem.h}, std::pair{kC, mem.cell}}) {
            std::fill_n(to, batch * padded, 0.0f);
            for (int64_t b = 0; c.has(slot) && b < batch; b++) std::copy_n(c.in(slot).as<float>() + d * size + b * hidden_, hidden_, to + b * padded);
        }
        const bool ends = c.has(kLengths);      // else what is shown is the state
        if (ends) std::copy_n(mem.h, batch * padded, mem.shown);
        float *y = c.out(0).as<float>(), *shown = ends ? mem.shown : mem.h;
        for (int64_t step = 0; step < seq; step++) {
            const auto time_of = [&](int64_t b) {
                const int64_t length = ends ? c.in(kLengths).as<int32_t>()[b] : seq;
                return !backward ? step : step < length ? length - 1 - step : step;
            };
            for (int64_t b = 0; b < batch; b++)
                mem.inputs[b] = ends && step >= c.in(kLengths).as<int32_t>()[b] ? nullptr : mem.projected + (time_of(b) * batch + b) * columns_.count();
            advance(r_[size_t(d)], shown, batch, step % 2, mem, *c.pool);
            for (int64_t b = 0; b < batch; b++) {
                if (ends && mem.inputs[b]) std::copy_n(mem.h + b * padded, hidden_, shown + b * padded);
                else if (ends) std::fill_n(shown + b * padded, hidden_, 0.0f);
                if (y) std::copy_n(shown + b * padded, hidden_, y + ((time_of(b) * directions() + d) * batch + b) * hidden_);
            }
        }
        for (int i = 1; i < c.n_outputs && i < 3; i++)
            for (int64_t b = 0; c.out(i).data && b < batch; b++)
                std::copy_n((i == 1 ? mem.h : mem.cell) + b * padded, hidden_, c.out(i).as<float>() + d * size + b * hidden_);
    }

    const IntTable& table_;
    const LstmStepTable& step_;
    Columns columns_;
    bool backward_;
    int64_t input_ = 0, hidden_ = 0;
    std::vector<Weights> w_, r_;
    std::vector<Packed<float>> bias_;
};

bool standard(const NodeInfo& node) {
    if (!node.has("activations")) return true;
    const auto* names = std::get_if<std::vector<std::string>>(&node.attrs.at("activations").value);
    const char* wanted[] = {"sigmoid", "tanh", "tanh"};
    for (size_t i = 0; names && i < names->size(); i++) {
        std::string name = (*names)[i];
        std::transform(name.begin(), name.end(), name.begin(), [](unsigned char letter) { return char(std::tolower(letter)); });
        if (name != wanted[i % 3]) return false;
    }
    return names != nullptr;
}

std::unique_ptr<Kernel> make_dynamic_lstm(const NodeInfo& node) {
    if (node.inputs.size() != kSlots || node.inputs[kX] != DType::f32 || node.inputs[kPeephole] != DType::none) return nullptr;
    if (node.has("clip") || node.i("input_forget", 0) || !standard(node)) return nullptr;
    node.known({"hidden_size", "activation_alpha", "activation_beta"});     // sigmoid and tanh have none
    for (int i : {int(kW), int(kR), int(kWScale), int(kWZero), int(kRScale), int(kRZero)})
        if (!node.constants[size_t(i)]) return nullptr;
    if (node.inputs[kB] != DType::none && !node.constants[kB]) return nullptr;
    const Shape &w = node.constants[kW]->shape, &r = node.constants[kR]->shape;
    const int64_t directions = node.s("direction", "forward") == "bidirectional" ? 2 : 1;
    if (w.rank != 3 || r.rank != 3 || w[0] != directions || r[0] != directions || w[2] != r[2] || r[2] != kGates * r[1] || !w.count() || !r.count()) return nullptr;
    if (const Tensor* b = node.constants[kB]; b && b->count() != directions * 2 * r[2]) return nullptr;
    for (int i : {int(kWScale), int(kWZero), int(kRScale), int(kRZero)}) {
        const int64_t count = node.constants[size_t(i)]->count();
        if (count != directions && count != directions * r[2]) return nullptr;
    }
    return std::make_unique<DynamicLstm>(node);
}

HR_KERNEL("com.microsoft.DynamicQuantizeLSTM", make_dynamic_lstm);

}  // namespace

}  // namespace hr
