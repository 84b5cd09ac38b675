#include "kernels/gemm/gemm.h"

#include <algorithm>
#include <vector>

#include "kernels/gemm/common.h"
#include "cpu.h"
#include "half.h"
#include "pool.h"
#include "kernels/gemm/tiers.h"

namespace hr {

HR_TIER_TABLE(GemmTable, gemm_kernels);

namespace {

constexpr int64_t kRowBytes = 192 << 10;    // rows per block times that depth: a third of L2, and 128 rows at once
constexpr int64_t kTable = 4096;            // row pointers on the stack
constexpr int64_t kSums = 32 << 10;         // sums between ranges of k, where C is bf16

}  // namespace

const GemmTable& gemm_table_of(int tier) { return HR_OF_TIER(gemm_kernels, tier); }

const GemmTable& gemm_table() { return gemm_table_of(cpu_tier()); }

#ifdef HR_HAS_BF16
namespace avx512_bf16 { extern const GemmTable gemm_kernels; }
#endif

const GemmTable* bf16_gemm_table() {
#ifdef HR_HAS_BF16
    if (cpu_tier() >= kAvx512Bf16) return &avx512_bf16::gemm_kernels;
#endif
    return nullptr;
}

const GemmTable& gemm_table_for(const NodeInfo& node) {
    const GemmTable* low = node.s("precision", "") == "bf16" ? bf16_gemm_table() : nullptr;
    return low ? *low : gemm_table();
}

Ranges::Ranges(const GemmTable& t, int64_t all, int64_t length) : segments(all), k(length) {
    pieces = k > t.depth ? ceil_div(k, t.depth) : 1;
    piece = ceil_div(k, pieces);
    // Short segments are shared out evenly: 9 taps of 80 go 3, 3, 3, not 4, 4, 1.
    const int64_t most = std::clamp<int64_t>(t.depth / std::max<int64_t>(k, 1), 1, 64);
    several = pieces > 1 ? 1 : std::max<int64_t>(1, ceil_div(segments, std::max<int64_t>(1, ceil_div(segments, most))));
}

int64_t Ranges::count() const { return std::max<int64_t>(1, pieces > 1 ? segments * pieces : ceil_div(segments, several)); }

Ranges::Range Ranges::operator[](int64_t i) const {
    if (pieces > 1) {
        const int64_t s = i / pieces, k0 = i % pieces * piece;
        return {s, s + 1, k0, std::min(k, k0 + piece), s * k + k0};
    }
    return {i * several, std::min(segments, (i + 1) * several), 0, k, i * several * k};
}

int64_t packed_floats(const GemmTable& t, int64_t segments, int64_t k, int64_t n) {
    return ceil_div(n, t.nr) * segments * k * t.nr;
}

void pack_matrix(const GemmTable& t, const Ranges& ranges, const float* b, int64_t ldk, int64_t ldn, int64_t n, float* out,
                 int64_t panel0, int64_t panel1) {
    const int64_t panels = ceil_div(n, t.nr);
    for (int64_t i = 0; i < ranges.count(); i++) {
        const auto r = ranges[i];
        const int64_t rows = (r.s1 - r.s0) * (r.k1 - r.k0);
        t.pack(b + r.start * ldk, ldk, ldn, rows, n, out + r.start * panels * t.nr, rows * t.nr, panel0, panel1);
    }
}

std::vector<float> paired(const float* b, int64_t ldk, int64_t ldn, int64_t k, int64_t n) {
    std::vector<float> out(size_t(pairs_of(k) * n));
    for (int64_t i = 0; i < pairs_of(k); i++)
        for (int64_t j = 0; j < n; j++) {
            const BFloat16 pair[2] = {to_bfloat16(b[2 * i * ldk + j * ldn]), 2 * i + 1 < k ? to_bfloat16(b[(2 * i + 1) * ldk + j * ldn]) : BFloat16{}};
            std::memcpy(&out[size_t(i * n + j)], pair, 4);
        }
    return out;
}

GemmPlan plan_gemm(const GemmTable& t, int64_t m, int64_t n, int64_t depth, int threads) {
    const int64_t panels = std::max<int64_t>(1, ceil_div(n, t.nr));
    const int64_t most = std::clamp<int64_t>(kRowBytes / 4 / std::max<int64_t>(1, std::min<int64_t>(depth, t.depth)) / t.mr * t.mr,
                                             t.mr, 1024 / t.mr * t.mr);
    const int64_t row_blocks = std::max<int64_t>(1, ceil_div(m, most));
    const double work = double(m) * double(n) * double(depth);
    if (threads > 1 && work > 64 * 1024) {
        const int64_t wanted = std::min<int64_t>(4 * threads, int64_t(work / (32 * 1024)) + 1);
        return cut_product({m, panels, row_blocks, 4 * t.mr, wanted, threads, n > m && n * depth * 4 > kDearWeights});
    }
    GemmPlan plan;
    plan.row_block = std::max<int64_t>(1, ceil_div(ceil_div(std::max<int64_t>(m, 1), row_blocks), t.mr) * t.mr);
    plan.row_blocks = std::max<int64_t>(1, ceil_div(m, plan.row_block));
    plan.panel_group = panels, plan.panel_groups = 1;
    return plan;
}

void run_gemm_task(const GemmTable& t, const GemmProblem& p, const GemmPlan& plan, int64_t task) {
    const int64_t row0 = plan.row_of(task) * plan.row_block, row1 = std::min(p.m, row0 + plan.row_block);
    const int64_t col0 = plan.group_of(task) * plan.panel_group * t.nr;
    const int64_t col1 = std::min(p.n, col0 + plan.panel_group * t.nr);
    if (row0 >= row1 || col0 >= col1) return;

    const Ranges ranges(t, p.segments, p.k);
    const int64_t panels = ceil_div(p.n, t.nr), last = ranges.count() - 1;
    const void* table[kTable];
    GemmBlock g;
    g.ldc = p.ldc, g.ldb = t.nr, g.low = nullptr, g.ldlow = p.ldc, g.epilogue = p.epilogue;
    const int64_t most = std::max<int64_t>(t.mr, kTable / ranges.several / t.mr * t.mr);
    // Sums that have to wait for later ranges lie in C, or where C is bf16 here, for so many columns at a time.
    alignas(64) float sums[kSums];
    const int64_t columns = p.low && last ? std::max<int64_t>(t.nr, kSums / std::min(most, row1 - row0) / t.nr * t.nr) : col1 - col0;
    for (int64_t m0 = row0; m0 < row1; m0 += most)
    for (int64_t col = col0; col < col1; col += columns) {
        const int64_t m1 = std::min(row1, m0 + most);
        g.rows = table, g.stride = g.m = m1 - m0, g.n = std::min(columns, col1 - col);
        if (p.low) g.low = p.low + m0 * p.ldc + col, g.c = sums, g.ldc = columns;
        else g.c = p.c + m0 * p.ldc + col;
        if (p.epilogue.bias) g.epilogue.bias = p.epilogue.bias + col;
        if (p.epilogue.residual) g.epilogue.residual = p.epilogue.residual + (m0 * p.epilogue.ldr + col);
        for (int64_t i = 0; i <= last; i++) {
            const auto r = ranges[i];
            if (r.k0 == 0) p.rows->fill(table, g.stride, r.s0, r.s1, m0, m1);
            g.segments = r.s1 - r.s0, g.offset = r.k0, g.k = r.k1 - r.k0;
            g.first = i == 0, g.last = i == last;
            g.panel_stride = g.segments * g.k * t.nr;
            g.b = p.b + r.start * panels * t.nr + col / t.nr * g.panel_stride;
            t.block(g);
        }
    }
}

void run_gemm(const GemmTable& t, const GemmProblem& p, ThreadPool& pool) {
    const GemmPlan plan = plan_gemm(t, p.m, p.n, p.segments * p.k, pool.threads());
    pool.parallel(plan.tasks(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) run_gemm_task(t, p, plan, task);
    });
}

}  // namespace hr
