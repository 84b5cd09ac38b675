// Attention in float32: scores, mask, softmax and the weighted sum of one head at a time, so that scores never leave the
// cache. Queries come in blocks; keys and values are packed once a head for products, or read as they lie where queries are
// few (a decoding step). Every sum runs over its keys or channels in order: no result depends on the batch.
#include <algorithm>
#include <cmath>

#include "kernels/gemm/common.h"
#include "kernels/gemm/gemm.h"
#include "kernels/norm/softmax.inc.h"
#include "pool.h"

namespace hr::HR_TIER {
namespace {

enum Slot { kQ, kK, kV, kMask, kPastK, kPastV, kPadded };
constexpr int64_t kFew = 4;                     // queries up to which nothing is packed
constexpr int64_t kScoreBytes = 24 << 10;       // scores of one block of queries: most of L1

// [batch, heads, length, size], in one of the two layouts of the operator.
struct Heads {
    int64_t batch, heads, length, size;
    int64_t batch_step, head_step, row_step;    // elements

    Heads(const Shape& s, int64_t flat_heads) {
        batch = s[0];
        if (s.rank == 4) {
            heads = s[1], length = s[2], size = s[3];
            head_step = length * size, row_step = size, batch_step = heads * head_step;
        } else {
            if (flat_heads < 1 || s[2] % flat_heads) throw std::invalid_argument(std::to_string(s[2]) + " numbers cannot be split into " + std::to_string(flat_heads) + " heads");
            heads = flat_heads, length = s[1], size = s[2] / heads;
            head_step = size, row_step = s[2], batch_step = length * s[2];
        }
    }
    int64_t at(int64_t b, int64_t h) const { return b * batch_step + h * head_step; }
};

// The rows of one head's keys or values: `before` of the cache, then those given now.
struct KeyRows {
    const float* past;
    const float* fresh;
    int64_t before, count, past_step, step;
    const float* operator[](int64_t i) const { return i < before ? past + i * past_step : fresh + (i - before) * step; }
};

float dot(const float* a, const float* b, int64_t n) {
    vf sum[2] = {};
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes)
        HR_UNROLL for (int k = 0; k < 2; k++) sum[k] = fma(load(a + i + k * kLanes), load(b + i + k * kLanes), sum[k]);
    if (i + kLanes <= n) sum[0] = fma(load(a + i), load(b + i), sum[0]), i += kLanes;
    if (i < n) sum[1] = fma(load_part(a + i, n - i, 0), load_part(b + i, n - i, 0), sum[1]);
    return sum_of(sum[0] + sum[1]);
}

// out = sum of weights[i] * rows[i].
void weighted_sum(const float* weights, const KeyRows& rows, int64_t size, float* out) {
    int64_t at = 0;
    for (; at + 4 * kLanes <= size; at += 4 * kLanes) {
        vf sum[4] = {};
        for (int64_t i = 0; i < rows.count; i++) {
            const float* row = rows[i] + at;
            const vf w = splat(weights[i]);
            HR_UNROLL for (int k = 0; k < 4; k++) sum[k] = fma(w, load(row + k * kLanes), sum[k]);
        }
        HR_UNROLL for (int k = 0; k < 4; k++) store(out + at + k * kLanes, sum[k]);
    }
    for (; at < size; at += kLanes) {
        const int64_t width = std::min<int64_t>(kLanes, size - at);
        vf sum = {};
        for (int64_t i = 0; i < rows.count; i++) sum = fma(splat(weights[i]), width == kLanes ? load(rows[i] + at) : load_part(rows[i] + at, width, 0), sum);
        if (width == kLanes) store(out + at, sum);
        else store_part(out + at, sum, width);
    }
}

// Where a mask of rank up to 4 lies for one head.
struct Mask {
    const Tensor* tensor = nullptr;
    int64_t width = 0, batch_step = 0, head_step = 0, row_step = 0;

    Mask(const Tensor* t, const Shape& scores) : tensor(t) {
        if (!t) return;
        const Shape& s = t->shape;
        width = s[-1];
        int64_t step = width, *steps[] = {&row_step, &head_step, &batch_step};
        bool fits = s.rank >= 1 && s.rank <= 4 && width <= scores[3];
        for (int i = 0; i < 3 && i + 2 <= s.rank; i++) {
            const int64_t dim = s[-2 - i];
            fits &= dim == 1 || dim == scores[-2 - i];
            *steps[i] = dim == 1 ? 0 : step;
            step *= dim;
        }
        if (!fits) throw std::invalid_argument("the mask is " + text(s) + " for scores " + text(scores));
    }

    // Adds one row to the scores of `total` keys; what the mask does not reach is hidden.
    void add(float* scores, int64_t total, int64_t offset) const {
        const float hidden = -__builtin_inff();
        if (tensor->dtype == DType::f32) {
            const float* m = tensor->as<float>() + offset;
            for (int64_t j = 0; j < width; j++) scores[j] += m[j];
        } else {
            const uint8_t* m = tensor->as<uint8_t>() + offset;
            for (int64_t j = 0; j < width; j++) scores[j] = m[j] ? scores[j] : hidden;
        }
        std::fill(scores + width, scores + std::max(width, total), hidden);
    }
};

class Attention final : public Kernel {
public:
    explicit Attention(const NodeInfo& node)
        : table_(gemm_table()), q_heads_(node.i("q_num_heads", 0)), kv_heads_(node.i("kv_num_heads", 0)), causal_(node.i("is_causal", 0) != 0),
          scale_(float(node.f("scale", 0))), own_scale_(node.has("scale")) {}

    std::string variant() const override { return std::string("attention_f32_") + tier_name(); }

    void shape(ShapeContext& c) const override {
        const Sizes z = sizes(c.inputs, c.n_inputs);
        Shape y = c.in(kQ).shape;
        if (y.rank == 4) y[3] = z.v.size;
        else y[2] = z.q.heads * z.v.size;
        c.out(0, DType::f32, y);
        c.out(1, DType::f32, Shape{z.k.batch, z.k.heads, z.total, z.k.size});
        c.out(2, DType::f32, Shape{z.v.batch, z.v.heads, z.total, z.v.size});
        Mask(c.has(kMask) ? &c.in(kMask) : nullptr, z.scores());
        c.scratch = size_t(std::min<int64_t>(c.threads, z.tasks())) * slot(z).used();
    }

    void run(RunContext& c) const override {
        const Sizes z = sizes(c.inputs, c.n_inputs);
        const Mask mask(c.has(kMask) ? &c.in(kMask) : nullptr, z.scores());
        const float* past[2] = {z.before ? c.in(kPastK).as<float>() : nullptr, z.before ? c.in(kPastV).as<float>() : nullptr};
        for (int i = 0; i < 2; i++)
            if (i + 1 < c.n_outputs && c.out(i + 1).data) join(z, i ? z.v : z.k, past[i], c.in(kK + i).as<float>(), c.out(i + 1).as<float>(), *c.pool);
        if (!z.tasks() || !z.q.length) return;
        // Memory for as many heads as run at once; each takes every so-manieth head.
        const int64_t slots = std::min<int64_t>(c.pool->threads(), z.tasks());
        const size_t bytes = slot(z).used();
        c.pool->parallel(slots, 1, [&](int64_t begin, int64_t end) {
            for (int64_t s = begin; s < end; s++)
                for (int64_t task = s; task < z.tasks(); task += slots) {
                    const int64_t b = task / z.q.heads, h = task % z.q.heads;
                    one_head(c, z, past, mask, b, h, static_cast<char*>(c.scratch) + size_t(s) * bytes);
                }
        });
    }

private:
    struct Sizes {
        Heads q, k, v;
        int64_t before, total, block;
        float scale;
        int64_t tasks() const { return q.batch * q.heads; }
        bool few() const { return q.length <= kFew; }
        Shape scores() const { return {q.batch, q.heads, q.length, total}; }
    };
    struct Memory {
        Scratch scratch;
        float *scores = nullptr, *k = nullptr, *v = nullptr, *joined = nullptr;
        size_t used() const { return scratch.used(); }
    };

    Sizes sizes(const Tensor* in, int n) const {
        const Shape &qs = in[kQ].shape, &ks = in[kK].shape, &vs = in[kV].shape;
        for (const Shape* s : {&qs, &ks, &vs})
            if (s->rank != qs.rank || (s->rank != 3 && s->rank != 4)) throw std::invalid_argument("attention over " + text(qs) + ", " + text(ks) + ", " + text(vs) + "; allowed: three tensors of rank 3 or 4");
        Sizes z{Heads(qs, q_heads_), Heads(ks, kv_heads_), Heads(vs, kv_heads_), 0, 0, 0, scale_};
        const bool cached = n > kPastK && in[kPastK];
        if (cached) z.before = in[kPastK].shape[2];
        z.total = z.before + z.k.length;
        if (z.k.size != z.q.size || z.k.heads < 1 || z.q.heads % z.k.heads || z.v.heads != z.k.heads || z.v.length != z.k.length || z.k.batch != z.q.batch || z.v.batch != z.q.batch)
            throw std::invalid_argument("queries " + text(qs) + ", keys " + text(ks) + " and values " + text(vs) + " do not fit");
        if (cached && (in[kPastK].shape != Shape{z.k.batch, z.k.heads, z.before, z.k.size} || in[kPastV].shape != Shape{z.v.batch, z.v.heads, z.before, z.v.size}))
            throw std::invalid_argument("the cache is " + text(in[kPastK].shape) + " and " + text(in[kPastV].shape) + " for keys " + text(ks) + " and values " + text(vs));
        if (!own_scale_) z.scale = 1.0f / std::sqrt(float(z.q.size));
        z.block = std::clamp<int64_t>(kScoreBytes / 4 / std::max<int64_t>(1, z.total) / table_.mr * table_.mr, table_.mr, 8 * table_.mr);
        z.block = std::min(z.block, std::max<int64_t>(1, z.q.length));
        return z;
    }

    Memory slot(const Sizes& z, void* base = nullptr) const {
        Memory m{Scratch(base)};
        m.scores = m.scratch.take<float>(z.block * z.total);
        if (z.few()) return m;
        m.k = m.scratch.take<float>(packed_floats(table_, 1, z.k.size, z.total));
        m.v = m.scratch.take<float>(packed_floats(table_, 1, z.total, z.v.size));
        if (z.before) m.joined = m.scratch.take<float>(z.total * std::max(z.k.size, z.v.size));
        return m;
    }

    // The cache and what is new, one behind the other: [batch, heads, total, size].
    static void join(const Sizes& z, const Heads& of, const float* past, const float* fresh, float* out, ThreadPool& pool) {
        pool.parallel(of.batch * of.heads, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, z.total * of.size)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                float* to = out + i * z.total * of.size;
                if (z.before) std::memcpy(to, past + i * z.before * of.size, size_t(z.before * of.size) * 4);
                const float* from = fresh + of.at(i / of.heads, i % of.heads);
                for (int64_t j = 0; j < of.length; j++) std::memcpy(to + (z.before + j) * of.size, from + j * of.row_step, size_t(of.size) * 4);
            }
        });
    }

    static KeyRows rows_of(const Sizes& z, const Heads& of, const float* past, const float* fresh, int64_t b, int64_t g) {
        return {past ? past + (b * of.heads + g) * z.before * of.size : nullptr, fresh + of.at(b, g), z.before, z.total, of.size, of.row_step};
    }

    // Rows as one matrix: where they lie, or copied together.
    static std::pair<const float*, int64_t> matrix(const KeyRows& rows, int64_t size, float* joined) {
        if (!rows.before) return {rows.fresh, rows.step};
        for (int64_t i = 0; i < rows.count; i++) std::memcpy(joined + i * size, rows[i], size_t(size) * 4);
        return {joined, size};
    }

    void multiply(int64_t m, int64_t n, int64_t k, const Rows& rows, const float* b, float* c, int64_t ldc, float scale) const {
        GemmProblem p{m, n, 1, k, &rows, b, c, ldc, {}};
        p.epilogue.scale = scale;
        const GemmPlan plan = plan_gemm(table_, m, n, k, 1);
        for (int64_t task = 0; task < plan.tasks(); task++) run_gemm_task(table_, p, plan, task);
    }

    void one_head(RunContext& c, const Sizes& z, const float* const* past, const Mask& mask, int64_t b, int64_t h, void* memory) const {
        const Memory mem = slot(z, memory);
        const int64_t g = h / (z.q.heads / z.k.heads);
        const KeyRows keys = rows_of(z, z.k, past[0], c.in(kK).as<float>(), b, g), values = rows_of(z, z.v, past[1], c.in(kV).as<float>(), b, g);
        if (!z.few()) {
            auto [k, k_step] = matrix(keys, z.k.size, mem.joined);
            pack_matrix(table_, Ranges(table_, 1, z.k.size), k, 1, k_step, z.total, mem.k, 0, ceil_div(z.total, table_.nr));
            auto [v, v_step] = matrix(values, z.v.size, mem.joined);
            pack_matrix(table_, Ranges(table_, 1, z.total), v, v_step, 1, z.v.size, mem.v, 0, ceil_div(z.v.size, table_.nr));
        }
        const float* q = c.in(kQ).as<float>() + z.q.at(b, h);
        const bool flat = c.in(kQ).shape.rank == 3;
        const int64_t y_step = flat ? z.q.heads * z.v.size : z.v.size;
        float* y = c.out(0).as<float>() + (flat ? b * z.q.length * y_step + h * z.v.size : (b * z.q.heads + h) * z.q.length * z.v.size);
        const int64_t mask_at = b * mask.batch_step + h * mask.head_step;
        for (int64_t first = 0; first < z.q.length; first += z.block) {
            const int64_t rows = std::min(z.block, z.q.length - first);
            if (z.few()) {
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t j = 0; j < z.total; j++) mem.scores[i * z.total + j] = dot(q + (first + i) * z.q.row_step, keys[j], z.q.size) * z.scale;
            } else {
                multiply(rows, z.total, z.q.size, MatrixRows(q + first * z.q.row_step, z.q.row_step), mem.k, mem.scores, z.total, z.scale);
            }
            for (int64_t i = 0; i < rows; i++) {
                float* row = mem.scores + i * z.total;
                if (mask.tensor) mask.add(row, z.total, mask_at + (first + i) * mask.row_step);
                if (causal_) {
                    const int64_t seen = std::min(z.total, z.before + first + i + 1);
                    std::fill(row + seen, row + z.total, -__builtin_inff());
                }
            }
            soften(mem.scores, rows, z.total);
            if (z.few()) {
                for (int64_t i = 0; i < rows; i++) weighted_sum(mem.scores + i * z.total, values, z.v.size, y + (first + i) * y_step);
            } else {
                multiply(rows, z.v.size, z.total, MatrixRows(mem.scores, z.total), mem.v, y + first * y_step, y_step, 1);
            }
        }
    }

    // Softmax; a row that sees nothing, whose softmax is NaN, weighs nothing.
    static void soften(float* scores, int64_t rows, int64_t n) {
        int64_t from = 0;
        for (int64_t i = 0; i < rows; i++) {
            const float* row = scores + i * n;
            if (!std::all_of(row, row + n, [](float x) { return x == -__builtin_inff(); })) continue;
            softmax_rows<false>(scores + from * n, scores + from * n, i - from, n);
            std::fill_n(scores + i * n, n, 0.0f);
            from = i + 1;
        }
        softmax_rows<false>(scores + from * n, scores + from * n, rows - from, n);
    }

    const GemmTable& table_;
    int64_t q_heads_, kv_heads_;
    bool causal_;
    float scale_;
    bool own_scale_;
};

std::unique_ptr<Kernel> attention(const NodeInfo& node) {
    const auto given = [&](int i) { return i < int(node.inputs.size()) ? node.inputs[size_t(i)] : DType::none; };
    for (int i : {int(kQ), int(kK), int(kV)})
        if (given(i) != DType::f32) return nullptr;
    if (given(kMask) != DType::none && given(kMask) != DType::f32 && given(kMask) != DType::boolean) return nullptr;
    const bool cached = given(kPastK) != DType::none;
    if (given(kPadded) != DType::none || cached != (given(kPastV) != DType::none) || (cached && (given(kPastK) != DType::f32 || given(kPastV) != DType::f32))) return nullptr;
    if (node.f("softcap", 0) > 0 || node.i("left_window_size", -1) >= 0 || node.i("right_window_size", -1) >= 0) return nullptr;
    if (node.outputs.size() > 3 && node.outputs[3] != DType::none) return nullptr;      // the scores themselves are asked for
    if (node.has("softmax_precision") && node.i("softmax_precision", 1) != int(DType::f32)) return nullptr;
    node.known({"qk_matmul_output_mode"});
    return std::make_unique<Attention>(node);
}
HR_KERNEL("Attention", attention);

}  // namespace
}  // namespace hr::HR_TIER
