// com.microsoft.DynamicQuantizeLSTM with constant weights and the standard activations: the whole sequence in one call.
//
// The inputs of all steps are quantized with one range and projected in one integer product; each step quantizes the state
// and multiplies it by the recurrent weights, which stay in L2.
#include <algorithm>
#include <cctype>

#include "kernels/quant/params.h"
#include "kernels/quant/rows.h"
#include "kernels/rnn/gates.h"
#include "pool.h"

namespace hr {

namespace {

enum Slot { kX, kW, kR, kB, kLengths, kH, kC, kPeephole, kWScale, kWZero, kRScale, kRZero, kSlots };
constexpr int64_t kGates = 4;   // i, o, f, c
constexpr int64_t kWeightLines = 16;    // of the recurrent weights, asked for with 16 values of gates: half of L1 for a state of 256

// 8-bit weights [k, columns] packed, with what an epilogue needs of them.
struct Weights {
    int64_t k = 0, n = 0;
    bool zeros = false;
    Packed<int8_t> data;
    Packed<int32_t> sums, zero;
    Packed<float> scale;

    Weights(const IntTable& t, const Tensor& w, const Tensor& scales, const Tensor& points, int64_t direction)
        : k(w.shape[1]), n(w.shape[2]), zero(round_up(n, t.nr)), scale(round_up(n, t.nr)) {
        const bool is_signed = w.dtype == DType::i8;
        pack_once([&] { pack_int(t, w.as<uint8_t>() + direction * k * n, 0, n, 1, !is_signed, 1, k, n, data.get(), sums.get()); },
                  Part<int8_t>{data, int_packed(t, 1, k, n)}, Part<int32_t>{sums, round_up(n, t.nr)});
        const int64_t directions = w.shape[0], each = scales.count() / directions, points_each = points.count() / directions;
        for (int64_t j = 0; j < n; j++) {
            scale[j] = scales.as<float>()[direction * each + (each == 1 ? 0 : j)];
            zero[j] = int_at(&points, direction * points_each + (points_each == 1 ? 0 : j)) - (is_signed ? 0 : 128);
            zeros |= zero[j] != 0;
        }
    }
};

class DynamicLstm final : public Kernel {
public:
    explicit DynamicLstm(const NodeInfo& node) : table_(int_table()), gates_(gate_table()), backward_(node.s("direction", "forward") == "reverse") {
        const Tensor &w = *node.constants[kW], &r = *node.constants[kR];
        input_ = w.shape[1], hidden_ = r.shape[1];
        const int64_t columns = kGates * hidden_;
        for (int64_t d = 0; d < w.shape[0]; d++) {
            w_.emplace_back(table_, w, *node.constants[kWScale], *node.constants[kWZero], d);
            r_.emplace_back(table_, r, *node.constants[kRScale], *node.constants[kRZero], d);
            bias_.emplace_back(round_up(columns, table_.nr));
            if (const Tensor* b = node.constants[kB])
                for (int64_t j = 0; j < columns; j++) bias_.back()[j] = b->as<float>()[d * 2 * columns + j] + b->as<float>()[(d * 2 + 1) * columns + j];
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
            product(w_[size_t(d)], c.in(kX).as<float>(), seq * batch, bias_[size_t(d)].get(), mem, mem.projected, *c.pool);
            unroll(c, d, mem);
        }
    }

private:
    struct Memory {
        uint8_t* a;
        int32_t* row_shift;
        float *row_scale, *projected, *inner, *h, *cell, *shown;
    };

    int64_t directions() const { return int64_t(w_.size()); }

    Memory plan(const Shape& x, Scratch& s) const {
        const int64_t rows = x[0] * x[1], widest = std::max(rows * round_up(input_, table_.unit), x[1] * round_up(hidden_, table_.unit));
        Memory m{};
        m.a = s.take<uint8_t>(widest * table_.item);
        m.row_shift = s.take<int32_t>(std::max(rows, x[1])), m.row_scale = s.take<float>(std::max(rows, x[1]));
        m.projected = s.take<float>(rows * kGates * hidden_), m.inner = s.take<float>(x[1] * kGates * hidden_);
        m.h = s.take<float>(x[1] * hidden_), m.cell = s.take<float>(x[1] * hidden_), m.shown = s.take<float>(x[1] * hidden_);
        return m;
    }

    // out [m, n] = x [m, k], quantized with one range, times weights, in float, + bias.
    void product(const Weights& w, const float* x, int64_t m, const float* bias, const Memory& mem, float* out, ThreadPool& pool) const {
        const RowLevels levels = row_levels(table_, x, m * w.k);
        const int64_t stride = round_up(w.k, table_.unit) * table_.item;
        pool.parallel(m, std::max<int64_t>(1, 16384 / (w.k + 1)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                prepare_row(table_, x + i * w.k, w.k, levels, mem.a + i * stride);
                mem.row_scale[i] = levels.scale, mem.row_shift[i] = -levels.zero;
            }
        });
        const MatrixRows rows(mem.a, stride);
        IntProblem p{m, w.n, 1, w.k, &rows, w.data.get(), out, w.n, {}, stride};
        IntEpilogue& e = p.epilogue;
        e.out = IntOut::f32, e.scale = w.scale.get(), e.bias = bias, e.row_scale = mem.row_scale;
        if (w.zeros) e.w_zero = w.zero.get();
        if (table_.item == 1) e.row_shift = mem.row_shift, e.col_sum = w.sums.get();
        const GemmPlan plan = plan_int(table_, p, pool.threads());
        pool.parallel(plan.tasks(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; task++) run_int_task(table_, p, plan, task);
        });
    }

    void unroll(RunContext& c, int64_t d, const Memory& mem) const {
        const int64_t seq = c.in(kX).shape[0], batch = c.in(kX).shape[1], size = batch * hidden_, columns = kGates * hidden_;
        const bool backward = backward_ || d == 1;
        for (auto [slot, to] : {std::pair{kH, mem.h}, std::pair{kC, mem.cell}}) {
            if (c.has(slot)) std::copy_n(c.in(slot).as<float>() + d * size, size, to);
            else std::fill_n(to, size, 0.0f);
        }
        const bool ends = c.has(kLengths);      // else what is shown is the state
        if (ends) std::copy_n(mem.h, size, mem.shown);
        const Weights& weights = r_[size_t(d)];
        float* y = c.out(0).as<float>();
        for (int64_t step = 0; step < seq; step++) {
            product(weights, ends ? mem.shown : mem.h, batch, nullptr, mem, mem.inner, *c.pool);
            for (int64_t b = 0; b < batch; b++) {
                const int64_t length = ends ? c.in(kLengths).as<int32_t>()[b] : seq;
                const int64_t time = !backward ? step : step < length ? length - 1 - step : step;
                float* shown = (ends ? mem.shown : mem.h) + b * hidden_;
                if (step < length) {
                    const float* p = mem.projected + (time * batch + b) * columns;
                    const GateTable::Ahead ahead = b + 1 < batch ? GateTable::Ahead{p + columns, 4} : GateTable::Ahead{weights.data.get(), kWeightLines};
                    gates_.lstm(p, mem.inner + b * columns, hidden_, hidden_, mem.h + b * hidden_, mem.cell + b * hidden_, ahead);
                    if (ends) std::copy_n(mem.h + b * hidden_, hidden_, shown);
                } else {
                    std::fill_n(shown, hidden_, 0.0f);
                }
                if (y) std::copy_n(shown, hidden_, y + ((time * directions() + d) * batch + b) * hidden_);
            }
        }
        for (int i = 1; i < c.n_outputs && i < 3; i++)
            if (c.out(i).data) std::copy_n(i == 1 ? mem.h : mem.cell, size, c.out(i).as<float>() + d * size);
    }

    const IntTable& table_;
    const GateTable& gates_;
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
