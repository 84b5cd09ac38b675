// headrace.QLookup: a table of 256 bytes, held in four registers where the CPU permutes bytes across them.
#include <cstring>

#include "cpu.h"
#include "kernels/gemm/common.h"
#include "pool.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hr {

namespace {

void look_up(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y) {
    for (int64_t i = 0; i < n; i++) y[i] = table[x[i]];
}

#if defined(__x86_64__) && !defined(HR_EMULATE_VNNI)
// Each of two permutations picks among 128 entries by the low seven bits; the top bit chooses between them.
__attribute__((target("avx512f,avx512bw,avx512vbmi"))) void look_up_vbmi(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y) {
    __m512i t[4];
    for (int i = 0; i < 4; i++) t[i] = _mm512_loadu_si512(table + 64 * i);
    for (int64_t i = 0; i < n; i += 64) {
        const __mmask64 some = n - i >= 64 ? ~__mmask64(0) : (__mmask64(1) << (n - i)) - 1;
        const __m512i v = _mm512_maskz_loadu_epi8(some, x + i);
        const __m512i low = _mm512_permutex2var_epi8(t[0], v, t[1]), high = _mm512_permutex2var_epi8(t[2], v, t[3]);
        _mm512_mask_storeu_epi8(y + i, some, _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), low, high));
    }
}
#endif

class Lookup final : public Kernel {
public:
    Lookup(DType type) : type_(type) {
#if defined(__x86_64__) && !defined(HR_EMULATE_VNNI)
        if (cpu_tier() >= kAvx512Vnni && __builtin_cpu_supports("avx512vbmi")) row_ = look_up_vbmi;
#endif
    }
    bool in_place(int input) const override { return input == 0; }
    void shape(ShapeContext& c) const override {
        if (c.in(1).count() != 256) throw std::invalid_argument("the table is " + text(c.in(1).shape) + "; allowed: [256]");
        c.out(0, type_, c.in(0).shape);
    }
    void run(RunContext& c) const override {
        const uint8_t* x = c.in(0).as<uint8_t>();
        uint8_t* y = c.out(0).as<uint8_t>();
        c.pool->parallel(c.in(0).count(), 65536, [&](int64_t begin, int64_t end) { row_(c.in(1).as<uint8_t>(), x + begin, end - begin, y + begin); });
    }

private:
    DType type_;
    void (*row_)(const uint8_t*, const uint8_t*, int64_t, uint8_t*) = look_up;
};

std::unique_ptr<Kernel> make_lookup(const NodeInfo& node) { return std::make_unique<Lookup>(node.outputs[0]); }

HR_KERNEL("headrace.QLookup", make_lookup);

}  // namespace

}  // namespace hr
