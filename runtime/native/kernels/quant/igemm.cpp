#include "kernels/quant/igemm.h"

#include <algorithm>

#include "kernels/gemm/common.h"
#include "kernels/gemm/tiers.h"

namespace hr {

HR_TIER_TABLE(IntTable, int_kernels);

const IntTable& int_table() { return HR_OF_TIER(int_kernels, cpu_tier()); }

namespace {

constexpr int64_t kRowBytes = 160 << 10;    // of prepared A in one block of rows
constexpr int64_t kTable = 8192;            // row pointers on the stack

// Four words of each of four neighbouring columns, `ldn` bytes apart, to four units of `step` bytes.
void turn_words(const uint8_t* w, int64_t ldn, uint32_t flips, int8_t* out, int64_t step) {
    using Four = uint32_t __attribute__((vector_size(16)));
    Four c[4];
    for (int j = 0; j < 4; j++) std::memcpy(&c[j], w + j * ldn, 16), c[j] ^= flips;
    const Four low01 = __builtin_shuffle(c[0], c[1], Four{0, 4, 1, 5}), high01 = __builtin_shuffle(c[0], c[1], Four{2, 6, 3, 7});
    const Four low23 = __builtin_shuffle(c[2], c[3], Four{0, 4, 1, 5}), high23 = __builtin_shuffle(c[2], c[3], Four{2, 6, 3, 7});
    const Four rows[4] = {__builtin_shuffle(low01, low23, Four{0, 1, 4, 5}), __builtin_shuffle(low01, low23, Four{2, 3, 6, 7}),
                          __builtin_shuffle(high01, high23, Four{0, 1, 4, 5}), __builtin_shuffle(high01, high23, Four{2, 3, 6, 7})};
    for (int i = 0; i < 4; i++) std::memcpy(out + i * step, &rows[i], 16);
}

// One panel of one segment, `Word` one unit of k: whole words where columns or rows are neighbours, bytes for the rest.
template <class Word>
void pack_panel(const uint8_t* w, int64_t ldk, int64_t ldn, uint8_t flip, int64_t k, int64_t width, int64_t nr, int8_t* out, int32_t* sums) {
    constexpr int64_t kUnit = sizeof(Word);
    const Word flips = Word(flip * 0x01010101u);
    const auto put = [&](int64_t unit, int64_t j, Word word) { std::memcpy(out + (unit * nr + j) * kUnit, &word, kUnit); };
    int64_t unit = 0;
    if (ldn == 1) {
        for (; unit < k / kUnit; unit++) {
            const uint8_t* row = w + unit * kUnit * ldk;
            for (int64_t j = 0; j < width; j++) {
                Word word = 0;
                int32_t sum = 0;
                for (int64_t i = 0; i < kUnit; i++) {
                    const uint8_t value = row[i * ldk + j] ^ flip;
                    word = Word(word | Word(Word(value) << (8 * i))), sum += int8_t(value);
                }
                put(unit, j, word), sums[j] += sum;
            }
        }
    } else if (ldk == 1) {
        for (int64_t end; unit < k / kUnit; unit = end) {   // 64 bytes of a column at a time: those of others may share its sets of L1
            end = std::min(unit + 64 / kUnit, k / kUnit);
            int64_t turned = 0;     // columns
            if (kUnit == 4 && end - unit == 16)
                for (; turned + 4 <= width; turned += 4)
                    for (int64_t i = unit; i < end; i += 4) turn_words(w + turned * ldn + i * kUnit, ldn, flips, out + (i * nr + turned) * kUnit, nr * kUnit);
            for (int64_t j = turned; j < width; j++)
                for (int64_t i = unit; i < end; i++) {
                    Word word;
                    std::memcpy(&word, w + j * ldn + i * kUnit, kUnit);
                    put(i, j, Word(word ^ flips));
                }
        }
        for (int64_t j = 0; j < width; j++) {
            int32_t sum = 0;
            for (int64_t i = 0; i < unit * kUnit; i++) sum += int8_t(w[j * ldn + i] ^ flip);
            sums[j] += sum;
        }
    }
    for (int64_t i = unit * kUnit; i < k; i++)
        for (int64_t j = 0; j < width; j++) {
            const int8_t value = int8_t(w[i * ldk + j * ldn] ^ flip);
            out[(i / kUnit * nr + j) * kUnit + i % kUnit] = value;
            sums[j] += value;
        }
}

}  // namespace

void pack_int(const IntTable& t, const uint8_t* w, int64_t lds, int64_t ldk, int64_t ldn, bool shift, int64_t segments, int64_t k, int64_t n,
              int8_t* out, int32_t* sums) {
    const int64_t units = units_of(t, k), panels = ceil_div(n, t.nr);
    const uint8_t flip = shift ? 0x80 : 0;
    std::fill(sums, sums + panels * t.nr, 0);
    for (int64_t p = 0; p < panels; p++)
        for (int64_t s = 0; s < segments; s++) {
            int8_t* to = out + (p * segments + s) * units * t.nr * t.unit;
            std::memset(to, 0, size_t(units * t.nr * t.unit));
            const int64_t n0 = p * t.nr, width = std::min<int64_t>(t.nr, n - n0);
            const auto pack = t.unit == 4 ? pack_panel<uint32_t> : pack_panel<uint16_t>;
            pack(w + s * lds + n0 * ldn, ldk, ldn, flip, k, width, t.nr, to, sums + n0);
        }
}

GemmPlan plan_int(const IntTable& t, const IntProblem& p, int threads) {
    const int64_t panels = std::max<int64_t>(1, ceil_div(p.n, t.nr));
    const int64_t most = std::clamp<int64_t>(kRowBytes / std::max<int64_t>(1, p.row_bytes) / t.mr * t.mr, 2 * t.mr, 1020 / t.mr * t.mr);
    const int64_t row_blocks = std::max<int64_t>(1, ceil_div(p.m, most)), depth = p.segments * p.k;
    const double work = double(p.m) * double(p.n) * double(depth);
    if (threads > 1 && work > 128 * 1024) {
        const int64_t wanted = std::min<int64_t>(4 * threads, int64_t(work / (64 * 1024)) + 1);
        return cut_product({p.m, panels, row_blocks, 4 * t.mr, wanted, threads, p.n > p.m && p.n * depth > kDearWeights});
    }
    GemmPlan plan;
    plan.row_block = std::max<int64_t>(1, round_up(ceil_div(std::max<int64_t>(p.m, 1), row_blocks), t.mr));
    plan.row_blocks = std::max<int64_t>(1, ceil_div(p.m, plan.row_block));
    plan.panel_group = panels, plan.panel_groups = 1;
    return plan;
}

void run_int_task(const IntTable& t, const IntProblem& p, const GemmPlan& plan, int64_t task) {
    const int64_t row0 = plan.row_of(task) * plan.row_block, row1 = std::min(p.m, row0 + plan.row_block);
    const int64_t col0 = plan.group_of(task) * plan.panel_group * t.nr;
    const int64_t col1 = std::min(p.n, col0 + plan.panel_group * t.nr);
    if (row0 >= row1 || col0 >= col1) return;
    if (p.segments * t.mr > kTable) throw std::invalid_argument("an integer convolution of " + std::to_string(p.segments) + " taps");

    const void* table[kTable];
    int32_t sums[1024];
    const int64_t most = std::min<int64_t>(1020 / t.mr * t.mr, kTable / std::max<int64_t>(p.segments, 1) / t.mr * t.mr);
    for (int64_t m0 = row0; m0 < row1; m0 += most) {
        IntBlock g;
        g.rows = table, g.stride = g.m = std::min(most, row1 - m0);
        p.rows->fill(table, g.stride, 0, p.segments, m0, m0 + g.m);
        g.segments = p.segments, g.units = units_of(t, p.k);
        g.panel_stride = int_panel(t, p.segments, p.k);
        g.b = p.b + col0 / t.nr * g.panel_stride, g.n = col1 - col0;
        g.ldc = p.ldc, g.c = static_cast<char*>(p.c) + (m0 * p.ldc + col0) * int64_t(item_size(p.epilogue));
        IntEpilogue e = p.epilogue;
        const auto columns = [&](auto*& pointer) { if (pointer) pointer += col0; };
        columns(e.col), columns(e.w_zero), columns(e.col_sum), columns(e.scale), columns(e.bias), columns(e.factor);
        if (e.row_shift) e.row_shift += m0;
        if (e.row_scale) e.row_scale += m0;
        if (e.r) e.r = static_cast<const char*>(e.r) + m0 * e.ldr + col0;
        if (e.added) e.added += m0 * e.ldr + col0;
        if (e.w_zero) {
            for (int64_t m = 0; m < g.m; m++) {
                sums[m] = -p.sum_shift + (e.row_shift ? int32_t(p.segments * p.k) * e.row_shift[m] : 0);
                for (int64_t s = 0; s < p.segments; s++) sums[m] += t.sum(table[s * g.stride + m], p.k);
            }
            e.row_sum = sums;
        }
        g.epilogue = e;
        t.block(g);
    }
}

}  // namespace hr
