// Matrix products, the core of MatMul, Gemm, every convolution and their integer forms.
//
// One shape of work for all: C[m, n] = sum over segments s and k of A(s, m)[k] * B[s, k, n]. A is never packed: row m of
// segment s is a pointer. A plain matrix has one segment; a convolution has one per tap, and its pointers walk the image
// (an "indirect" GEMM), so nothing is ever unfolded. B is packed once, in the order in which it is read: ranges of
// (s, k), in each the panels of `nr` columns: [range][panel][s, k][nr].
//
// Batch invariance: every element of C is one chain of multiply-adds over (s, k) in rising order, whatever the tile, the
// number of rows, the blocking over k (partial sums are stored and read back exactly) or the number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "half.h"
#include "kernels/gemm/activation.h"
#include "kernels/gemm/plan.h"

namespace hr {

class ThreadPool;

// Values to read: float32, or bf16 where `low` (of tables of bf16 alone).
struct Reals {
    const void* data = nullptr;
    bool low = false;

    Reals() = default;
    Reals(const float* p) : data(p) {}
    Reals(const void* p, bool bf16) : data(p), low(bf16) {}
    explicit operator bool() const { return data; }
    Reals operator+(int64_t n) const { return {static_cast<const char*>(data) + n * (low ? 2 : 4), low}; }
    void operator+=(int64_t n) { *this = *this + n; }
};

// What happens to the sums: c = act(scale * sum + bias[n] + r[m, n]).
struct Epilogue {
    const float* bias = nullptr;    // padded to whole panels
    bool from_bias = false;         // the sums begin with it, which is one addition less; where scale is 1
    Reals residual;
    int64_t ldr = 0;
    float scale = 1;
    Activation act;
};

// One block of work for a tier's kernel: all row tiles and panels of one range of k.
struct GemmBlock {
    const void* const* rows;        // rows[s * stride + m]
    int64_t stride, m;
    int64_t segments, offset, k;    // elements [offset, offset + k) of each of these segments
    const float* b;                 // the panels at this range of k
    int64_t ldb;                    // from one k to the next: nr where packed
    int64_t panel_stride, n;        // from one panel to the next; columns
    float* c;
    int64_t ldc;
    BFloat16* low;                  // where the results go, rounded to bf16, ldlow apart; c then holds sums of earlier ranges. Else null
    int64_t ldlow;
    bool first, last;               // of the ranges of k: start from zero; apply the epilogue
    Epilogue epilogue;              // pointers already at this block's first row and column
};

// Few rows by a plain B, which stays as it lies: c[m, n] = sum over k of a[m, k] * b[k, n], no epilogue.
constexpr int64_t kStreamRows = 8;
struct GemmStream {
    const float* a;
    int64_t lda, m, k;
    const float* b;
    int64_t ldb, n;
    float* c;
    int64_t ldc;
};

// The kernels of one tier. `nr` columns to a panel, `mr` rows that work is cut at, `depth` values of k worked on at once.
struct GemmTable {
    const char* tier;
    int mr, nr, depth;
    void (*block)(const GemmBlock&);
    // Packs rows of k values by n columns: element (k, n) at b[k * ldk + n * ldn], into one panel of kn x nr each,
    // panels [panel0, panel1), `panel_stride` apart; missing columns are zero.
    void (*pack)(const float* b, int64_t ldk, int64_t ldn, int64_t k, int64_t n, float* out, int64_t panel_stride,
                 int64_t panel0, int64_t panel1);
    // out[c, r] = in[r, c] for a rows x cols block of 32-bit elements.
    void (*transpose32)(const void* in, int64_t ldi, int64_t rows, int64_t cols, void* out, int64_t ldo);
    void (*activate)(const Activation&, float* p, int64_t n);
    // The table of bf16 products: n values rounded to bf16, in pairs; the second of a last, odd one is zero. Else null.
    void (*narrow)(const float* x, int64_t n, float* out);
    void (*stream)(const GemmStream&);  // null in that table
};

// The table of the tier in use (read when a kernel is made; see cpu_tier()).
const GemmTable& gemm_table();
const GemmTable& gemm_table_of(int tier);
// Products of bf16 factors with f32 sums: the same machinery over 32-bit elements that are pairs of factors, neighbours
// in k. Null where the tier has none.
const GemmTable* bf16_gemm_table();
// That table for a node whose attribute `precision` is "bf16" where there is one, else the table of f32.
const GemmTable& gemm_table_for(const NodeInfo& node);
inline int64_t pairs_of(int64_t k) { return (k + 1) / 2; }

// Where rows come from: fills table[(s - s0) * stride + (m - m0)] for rows [m0, m1) of segments [s0, s1).
struct Rows {
    virtual void fill(const void** table, int64_t stride, int64_t s0, int64_t s1, int64_t m0, int64_t m1) const = 0;

protected:
    ~Rows() = default;
};

struct MatrixRows final : Rows {
    const char* a;
    int64_t bytes;                  // from one row to the next
    template <class T> MatrixRows(const T* data, int64_t stride) : a(reinterpret_cast<const char*>(data)), bytes(stride * int64_t(sizeof(T))) {}
    void fill(const void** table, int64_t, int64_t, int64_t, int64_t m0, int64_t m1) const override {
        for (int64_t m = m0; m < m1; m++) table[m - m0] = a + m * bytes;
    }
};

struct GemmProblem {
    int64_t m, n, segments, k;      // k: length of one segment
    const Rows* rows;
    const float* b;                 // packed
    float* c;
    int64_t ldc;
    Epilogue epilogue;
    BFloat16* low = nullptr;        // results rounded to bf16 instead of c; ldc apart. Only tables of bf16
};

// The ranges of (s, k) that are worked on at once: some of one long segment, or several whole short ones.
struct Ranges {
    int64_t segments, k;            // of the whole
    int64_t pieces, piece, several; // pieces of a long segment, their length; or how many segments at once

    Ranges(const GemmTable& t, int64_t segments, int64_t k);
    int64_t count() const;
    struct Range { int64_t s0, s1, k0, k1, start; };   // start: its first row of B, counted in s * k + k
    Range operator[](int64_t i) const;
};

// Floats of B packed, and the packing: element (row, n) of B at b[row * ldk + n * ldn], rows in the order of (s, k).
int64_t packed_floats(const GemmTable& t, int64_t segments, int64_t k, int64_t n);
void pack_matrix(const GemmTable& t, const Ranges& ranges, const float* b, int64_t ldk, int64_t ldn, int64_t n, float* out,
                 int64_t panel0, int64_t panel1);

// k x n values, element (k, n) at b[k * ldk + n * ldn], as the bf16 pairs [pairs_of(k), n] that gemm_table_for() multiplies.
std::vector<float> paired(const float* b, int64_t ldk, int64_t ldn, int64_t k, int64_t n);

// How the problem splits.
GemmPlan plan_gemm(const GemmTable& t, int64_t m, int64_t n, int64_t depth, int threads);
void run_gemm_task(const GemmTable& t, const GemmProblem& p, const GemmPlan& plan, int64_t task);
void run_gemm(const GemmTable& t, const GemmProblem& p, ThreadPool& pool);

}  // namespace hr
