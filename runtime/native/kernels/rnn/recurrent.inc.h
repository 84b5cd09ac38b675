// LSTM, GRU and RNN of float32 with constant weights and the standard activations. With HR_BF16 the factors of both products
// are rounded to bf16.
//
// Weights are packed once: transposed, each gate padded to whole vectors. The inputs of all steps are projected in one
// matrix product; a step adds the state times the recurrent weights, in panels of four vectors, and applies the gates. Steps
// go through the panels forth and back in turn: of weights as large as L2, most are then still there from the step before.
// Every sum runs over k in order, so a row's result does not depend on its batch.
#pragma once
#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "kernels/elementwise/broadcast.h"
#include "kernels/elementwise/vector_math.inc.h"
#include "kernels/gemm/bf16.inc.h"
#include "kernels/gemm/common.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rnn/gates.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

constexpr int64_t kPanel = 4 * kLanes;
constexpr int kMost = HR_TIER_RANK >= 2 ? 6 : 3;     // rows that the registers hold beside a panel's four vectors
#ifdef HR_BF16
constexpr int64_t kPair = 2;        // values of k in one 32-bit element
constexpr const char* kFactors = "_bf16_";
#else
constexpr int64_t kPair = 1;
constexpr const char* kFactors = "_f32_";
#endif
// A constant matrix [gates * hidden, depth], to be transposed: [k, columns] in elements, columns padded gate by gate.
struct Gates {
    const float* w;
    int64_t gates, hidden, depth, k, columns;     // columns: a multiple of kPanel

    static float element(const float* row, int64_t i, [[maybe_unused]] int64_t depth) {
#ifdef HR_BF16
        const BFloat16 pair[2] = {to_bfloat16(row[2 * i]), 2 * i + 1 < depth ? to_bfloat16(row[2 * i + 1]) : BFloat16{}};
        float both;
        memcpy(&both, pair, 4);
        return both;
#else
        return row[i];
#endif
    }
    Gates(const float* matrix, int64_t count, int64_t size, int64_t factors)
        : w(matrix), gates(count), hidden(size), depth(factors), k((factors + kPair - 1) / kPair), columns(round_up(count * round_up(size, kLanes), kPanel)) {}

    std::vector<float> transposed() const {
        std::vector<float> data(size_t(columns * k), 0.0f);
        const int64_t padded = round_up(hidden, kLanes);
        for (int64_t g = 0; g < gates; g++)
            for (int64_t h0 = 0; h0 < hidden; h0 += kLanes)     // whole lines of what is written
                for (int64_t i = 0; i < k; i++)
                    for (int64_t h = h0; h < std::min(hidden, h0 + kLanes); h++) data[size_t(i * columns + g * padded + h)] = element(w + (g * hidden + h) * depth, i, depth);
        return data;
    }
};

// Such a matrix in panels [columns / kPanel][k][kPanel], for products of few rows.
struct Panels {
    int64_t k = 0, columns = 0;
    Packed<float> data;

    Panels() = default;
    explicit Panels(const Gates& w) : k(w.k), columns(w.columns) {
        const auto fill = [&] {
            const std::vector<float> from = w.transposed();
            for (int64_t p = 0; p < columns / kPanel; p++)
                for (int64_t i = 0; i < k; i++) std::copy_n(from.data() + i * columns + p * kPanel, kPanel, data.get() + (p * k + i) * kPanel);
        };
        pack_once(fill, Part<float>{data, columns * k});
    }
};

// And in the panels of matrix products, for many rows.
struct Matrix {
    int64_t k = 0, columns = 0;
    Packed<float> data;

    Matrix() = default;
    Matrix(const GemmTable& t, const Gates& w) : k(w.k), columns(w.columns) {
        const auto fill = [&] { pack_matrix(t, Ranges(t, 1, k), w.transposed().data(), columns, 1, columns, data.get(), 0, columns / t.nr); };
        pack_once(fill, Part<float>{data, packed_floats(t, 1, k, columns)});
    }
};

const GemmTable& products() {
#ifdef HR_BF16
    return *bf16_gemm_table();
#else
    return gemm_table();
#endif
}

// One row of factors as the product reads it.
const float* factors(const float* x, int64_t n, [[maybe_unused]] float* out) {
#ifdef HR_BF16
    narrow(x, n, out);
    return out;
#else
    return (void)n, x;
#endif
}

template <int kRows>
void block(const float* x, int64_t xs, int64_t k, const float* panel, const float* start, float* y, int64_t ys) {
    vf sum[kRows][4];
    HR_UNROLL for (int r = 0; r < kRows; r++)
        HR_UNROLL for (int v = 0; v < 4; v++) sum[r][v] = start ? load(start + v * kLanes) : vf{};
    for (int64_t i = 0; i < k; i++, panel += kPanel) {
        vf w[4];
        HR_UNROLL for (int v = 0; v < 4; v++) w[v] = load(panel + v * kLanes);
        HR_UNROLL for (int r = 0; r < kRows; r++) {
            const vf a = spread(x + r * xs + i);
            HR_UNROLL for (int v = 0; v < 4; v++) sum[r][v] = step(a, w[v], sum[r][v]);
        }
    }
    HR_UNROLL for (int r = 0; r < kRows; r++)
        HR_UNROLL for (int v = 0; v < 4; v++) store(y + r * ys + v * kLanes, sum[r][v]);
}

using BlockFn = void (*)(const float*, int64_t, int64_t, const float*, const float*, float*, int64_t);
#if HR_TIER_RANK >= 2
constexpr BlockFn kBlocks[kMost] = {block<1>, block<2>, block<3>, block<4>, block<5>, block<6>};
#else
constexpr BlockFn kBlocks[kMost] = {block<1>, block<2>, block<3>};
#endif

// The rows as factors, in `low` where they change.
const float* all_factors(const float* x, int64_t& xs, int64_t m, int64_t k, int64_t elements, float* low) {
    if (kPair == 1) return x;
    for (int64_t r = 0; r < m; r++) factors(x + r * xs, k, low + r * elements);
    return xs = elements, low;
}

// y [m, columns] = start + x [m, k] times the packed matrix. `low` has room for x in elements; k: the values of a row.
// `back`: panels from the last to the first.
void product(const float* x, int64_t xs, int64_t m, int64_t k, const Panels& w, const float* start, float* y, float* low, bool back, ThreadPool& pool) {
    x = all_factors(x, xs, m, k, w.k, low);
    const int64_t panels = w.columns / kPanel;
    pool.parallel(panels, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, w.k * kPanel * m)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const int64_t p = back ? panels - 1 - i : i;
            const float *panel = w.data.get() + p * w.k * kPanel, *from = start ? start + p * kPanel : nullptr;
            float* to = y + p * kPanel;
            const int64_t groups = ceil_div(m, kMost);
            for (int64_t g = 0; g < groups; g++) {
                const int64_t r = m * g / groups, rows = m * (g + 1) / groups - r;
                kBlocks[rows - 1](x + r * xs, xs, w.k, panel, from, to + r * w.columns, w.columns);
            }
        }
    });
}

// y [m, columns] = bias + x [m, k] times the matrix.
void product(const float* x, int64_t xs, int64_t m, int64_t k, const Matrix& w, const float* bias, float* y, float* low, ThreadPool& pool) {
    x = all_factors(x, xs, m, k, w.k, low);
    const MatrixRows rows(x, xs);
    GemmProblem p{m, w.columns, 1, w.k, &rows, w.data.get(), y, w.columns, {}};
    p.epilogue.bias = bias;
    run_gemm(products(), p, pool);
}

enum class Cell { rnn, gru, lstm };

// Sizes of one call.
struct Sizes {
    int64_t seq, batch, input, hidden, padded;
};

class Recurrent : public Kernel {
public:
    Recurrent(const NodeInfo& node, Cell cell)
        : cell_(cell), gates_(cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1), layout_(node.i("layout", 0)), reset_first_(!node.i("linear_before_reset", 0)),
          backward_(node.s("direction", "forward") == "reverse") {
        const Shape &w = node.constants[1]->shape, &r = node.constants[2]->shape;
        directions_ = w[0], hidden_ = r[2], input_ = w[2], padded_ = round_up(hidden_, kLanes);
        const float *pw = node.constants[1]->as<float>(), *pr = node.constants[2]->as<float>();
        const float* pb = node.constants.size() > 3 && node.constants[3] ? node.constants[3]->as<float>() : nullptr;
        for (int64_t d = 0; d < directions_; d++) {
            Direction one;
            const float* rd = pr + d * gates_ * hidden_ * hidden_;
            one.w = Matrix(products(), Gates(pw + d * gates_ * hidden_ * input_, gates_, hidden_, input_));
            const int64_t together = cell == Cell::gru && reset_first_ ? 2 : gates_;
            one.r = Panels(Gates(rd, together, hidden_, hidden_));
            if (together < gates_) one.candidate = Panels(Gates(rd + together * hidden_ * hidden_, 1, hidden_, hidden_));
            one.bias.assign(static_cast<size_t>(one.w.columns), 0.0f);
            one.inner.assign(static_cast<size_t>(one.r.columns), 0.0f);
            for (int64_t g = 0; pb && g < gates_; g++)
                for (int64_t h = 0; h < hidden_; h++) {
                    const float* b = pb + d * 2 * gates_ * hidden_ + g * hidden_ + h;
                    const float recurrent = b[gates_ * hidden_];
                    const bool inside = cell == Cell::gru && !reset_first_ && g == 2;     // the reset gate scales this bias as well
                    one.bias[size_t(g * padded_ + h)] = b[0] + (inside ? 0.0f : recurrent);
                    if (inside) one.inner[size_t(g * padded_ + h)] = recurrent;
                }
            directions.push_back(std::move(one));
        }
    }

    std::string variant() const override { return std::string(cell_ == Cell::lstm ? "lstm" : cell_ == Cell::gru ? "gru" : "rnn") + kFactors + tier_name(); }
    size_t packed_bytes() const override {
        size_t total = 0;
        for (const Direction& d : directions) total += d.w.data.bytes() + d.r.data.bytes() + d.candidate.data.bytes();
        return total;
    }

    void shape(ShapeContext& c) const override {
        const Shape& x = c.in(0).shape;
        if (x.rank != 3 || x.d[2] != input_) throw std::invalid_argument("X must be [.., .., " + std::to_string(input_) + "], not " + text(x));
        const Sizes s = sizes(x);
        if (c.has(4) && c.in(4).count() != s.batch) throw std::invalid_argument("sequence_lens must have " + std::to_string(s.batch) + " numbers");
        const Shape every = layout_ ? Shape{s.batch, s.seq, directions_, hidden_} : Shape{s.seq, directions_, s.batch, hidden_};
        const Shape last = layout_ ? Shape{s.batch, directions_, hidden_} : Shape{directions_, s.batch, hidden_};
        for (int i = 5; i < 7; i++)
            if (c.has(i) && c.in(i).shape != last) throw std::invalid_argument("an initial state must be " + text(last) + ", not " + text(c.in(i).shape));
        c.out(0, DType::f32, every);
        c.out(1, DType::f32, last);
        c.out(2, DType::f32, last);
        c.scratch = size_t(s.seq * s.batch * directions[0].w.columns + s.batch * (directions[0].r.columns + directions[0].candidate.columns + 3 * padded_) +
                           std::max(s.seq * s.batch * directions[0].w.k, s.batch * directions[0].r.k)) * sizeof(float);
    }

    void run(RunContext& c) const override {
        const Sizes s = sizes(c.in(0).shape);
        float* y = c.out(0).as<float>();
        for (int64_t b = 0; c.has(4) && b < s.batch; b++) {
            const int32_t length = c.in(4).as<int32_t>()[b];
            if (length < 0 || length > s.seq) throw std::invalid_argument("a sequence length is " + std::to_string(length) + "; allowed: 0 to " + std::to_string(s.seq));
        }
        if (y) std::fill_n(y, c.out(0).count(), 0.0f);
        for (int64_t d = 0; d < directions_; d++) unroll(c, s, d, y);
    }

private:
    struct Direction {
        Matrix w;
        Panels r, candidate;                // candidate: GRU's third gate where the reset comes first
        std::vector<float> bias, inner;     // added to the projected input; to the projected state
    };

    Sizes sizes(const Shape& x) const { return {x.d[layout_ ? 1 : 0], x.d[layout_ ? 0 : 1], input_, hidden_, padded_}; }

    void unroll(RunContext& c, const Sizes& s, int64_t d, float* y) const {
        const Direction& w = directions[size_t(d)];
        const bool backward = backward_ || d == 1;
        float* projected = static_cast<float*>(c.scratch);
        float* recurrent = projected + s.seq * s.batch * w.w.columns;
        float* candidate = recurrent + s.batch * w.r.columns;
        float* h = candidate + s.batch * w.candidate.columns;
        float *cell = h + s.batch * padded_, *reset = cell + s.batch * padded_, *low = reset + s.batch * padded_;
        const auto state_at = [&](int64_t b) { return (layout_ ? b * directions_ + d : d * s.batch + b) * hidden_; };
        std::fill_n(h, 3 * s.batch * padded_, 0.0f);
        for (int64_t b = 0; b < s.batch; b++) {
            if (c.has(5)) std::copy_n(c.in(5).as<float>() + state_at(b), hidden_, h + b * padded_);
            if (c.has(6)) std::copy_n(c.in(6).as<float>() + state_at(b), hidden_, cell + b * padded_);
        }
        product(c.in(0).as<float>(), input_, s.seq * s.batch, input_, w.w, w.bias.data(), projected, low, *c.pool);
        for (int64_t step = 0; step < s.seq; step++) {
            product(h, padded_, s.batch, hidden_, w.r, w.inner.data(), recurrent, low, step % 2, *c.pool);
            const auto row_of = [&](int64_t b, int64_t& time) {      // false: this sequence is over
                const int64_t length = c.has(4) ? c.in(4).as<int32_t>()[b] : s.seq;
                time = backward ? length - 1 - step : step;
                return step < length;
            };
            int64_t time;
            if (w.candidate.columns) {
                for (int64_t b = 0; b < s.batch; b++)
                    if (row_of(b, time)) reset_state(projected + row(s, time, b) * w.w.columns, recurrent + b * w.r.columns, h + b * padded_, reset + b * padded_);
                product(reset, padded_, s.batch, hidden_, w.candidate, nullptr, candidate, low, step % 2, *c.pool);
            }
            for (int64_t b = 0; b < s.batch; b++) {
                if (!row_of(b, time)) continue;
                const float *p = projected + row(s, time, b) * w.w.columns, *r = recurrent + b * w.r.columns;
                if (cell_ == Cell::lstm) gate_table().lstm(p, r, padded_, padded_, h + b * padded_, cell + b * padded_, {p + w.w.columns, 4});   // the row after this one
                else if (cell_ == Cell::gru) gru(p, r, w.candidate.columns ? candidate + b * w.candidate.columns : nullptr, h + b * padded_);
                else rnn(p, r, h + b * padded_);
                if (y) std::copy_n(h + b * padded_, hidden_, y + (layout_ ? ((b * s.seq + time) * directions_ + d) : ((time * directions_ + d) * s.batch + b)) * hidden_);
            }
        }
        for (int i = 1; i < c.n_outputs && i < 3; i++)
            for (int64_t b = 0; c.out(i).data && b < s.batch; b++) std::copy_n((i == 1 ? h : cell) + b * padded_, hidden_, c.out(i).as<float>() + state_at(b));
    }

    int64_t row(const Sizes& s, int64_t time, int64_t b) const { return layout_ ? b * s.seq + time : time * s.batch + b; }

    void rnn(const float* p, const float* r, float* h) const {
        for (int64_t i = 0; i < padded_; i += kLanes) store(h + i, tanh(load(p + i) + load(r + i)));
    }

    // Gates z, r, h.
    void reset_state(const float* p, const float* r, const float* h, float* out) const {
        for (int64_t i = 0; i < padded_; i += kLanes) store(out + i, sigmoid(load(p + padded_ + i) + load(r + padded_ + i)) * load(h + i));
    }
    void gru(const float* p, const float* r, const float* candidate, float* h) const {
        for (int64_t i = 0; i < padded_; i += kLanes) {
            const auto gate = [&](int64_t g) { return load(p + g * padded_ + i) + load(r + g * padded_ + i); };
            const vf z = sigmoid(gate(0));
            const vf inner = candidate ? load(candidate + i) : sigmoid(gate(1)) * load(r + 2 * padded_ + i);
            const vf fresh = tanh(load(p + 2 * padded_ + i) + inner);
            store(h + i, (splat(1.0f) - z) * fresh + z * load(h + i));
        }
    }

    Cell cell_;
    int64_t gates_;
    bool layout_, reset_first_, backward_;
    int64_t directions_ = 1, hidden_ = 0, input_ = 0, padded_ = 0;
    std::vector<Direction> directions;
};

bool standard_activations(const NodeInfo& node, std::vector<std::string> wanted) {
    if (!node.has("activations")) return true;
    auto* given = std::get_if<std::vector<std::string>>(&node.attrs.at("activations").value);
    if (!given) return false;
    for (size_t i = 0; i < given->size(); i++) {
        std::string name = (*given)[i];
        for (char& letter : name) letter = char(std::tolower(static_cast<unsigned char>(letter)));
        if (name != wanted[i % wanted.size()]) return false;
    }
    return true;
}

std::unique_ptr<Kernel> recurrent(const NodeInfo& node) {
    const auto is = [&](const char* name) { return node.op == name || node.op == std::string("headrace.cpu.") + name; };
    const Cell cell = is("LSTM") ? Cell::lstm : is("GRU") ? Cell::gru : Cell::rnn;
    const int64_t gates = cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1;
    const auto given = [&](size_t i) { return i < node.inputs.size() && node.inputs[i] != DType::none; };
    if (node.inputs[0] != DType::f32 || node.inputs.size() < 3 || !node.constants[1] || !node.constants[2] || (given(3) && !node.constants[3])) return nullptr;
    if (given(7) || node.has("clip") || node.i("input_forget", 0)) return nullptr;      // peepholes and other rarities
    if (!standard_activations(node, cell == Cell::rnn ? std::vector<std::string>{"tanh"} : std::vector<std::string>{"sigmoid", "tanh", "tanh"}) &&
        !(cell == Cell::gru && standard_activations(node, {"sigmoid", "tanh"}))) return nullptr;
    const Shape &w = node.constants[1]->shape, &r = node.constants[2]->shape;
    const int64_t directions = node.s("direction", "forward") == "bidirectional" ? 2 : 1;
    if (w.rank != 3 || r.rank != 3 || w[0] != directions || r[0] != directions || r[2] < 1 || w[1] != gates * r[2] || r[1] != gates * r[2]) return nullptr;
    if (given(3) && node.constants[3]->count() != directions * 2 * gates * r[2]) return nullptr;
    node.known({"hidden_size", "activation_alpha", "activation_beta"});     // sigmoid and tanh have none
    return std::make_unique<Recurrent>(node, cell);
}

}  // namespace
}  // namespace hr::HR_TIER
