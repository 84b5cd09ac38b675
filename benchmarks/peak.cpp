// Arithmetic throughput of one core, for benchmarks/kernels.py: chains of independent multiply-adds in registers. Answers
// G operations/s (a multiply and an add are two) over thread CPU time. In assembly, because a compiler that sees the
// numbers leaves steps out, and one that does not keeps them in memory.
#include <time.h>

namespace {

double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace

#define HR_TWELVE(STEP) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11) STEP(12) STEP(13)
#define HR_SSE(i) "mulps %%xmm0, %%xmm" #i "\n\taddps %%xmm1, %%xmm" #i "\n\t"
#define HR_AVX2(i) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #i "\n\t"
#define HR_AVX512(i) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define HR_CLEAR(i) "xorps %%xmm" #i ", %%xmm" #i "\n\t"
#define HR_REGISTERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13"

#define HR_PEAK(name, STEP, end, operations)                                                    \
    extern "C" double name(long n) {                                                            \
        const double start = now();                                                             \
        asm volatile(HR_CLEAR(0) HR_CLEAR(1) HR_TWELVE(HR_CLEAR) ::: HR_REGISTERS);             \
        for (long i = 0; i < n; i++) asm volatile(HR_TWELVE(STEP) ::: HR_REGISTERS);            \
        asm volatile(end);                                                                      \
        return 12.0 * operations * double(n) / (now() - start) / 1e9;                           \
    }

HR_PEAK(peak_baseline, HR_SSE, "", 8)
HR_PEAK(peak_avx2, HR_AVX2, "vzeroupper", 16)
HR_PEAK(peak_avx512_vnni, HR_AVX512, "vzeroupper", 32)
HR_PEAK(peak_avx512_bf16, HR_AVX512, "vzeroupper", 32)
