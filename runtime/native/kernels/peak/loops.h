// Twelve independent chains of multiply-adds in registers. In assembly, because a compiler that sees the numbers leaves
// steps out, and one that does not keeps them in memory.
#pragma once
#include "kernel.h"
#include "peak.h"

#define HR_TWELVE(STEP) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11) STEP(12) STEP(13) STEP(14) STEP(15)
#define HR_CLEAR(i) "xorps %%xmm" #i ", %%xmm" #i "\n\t"
#define HR_REGISTERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

// `operations`: of one step in one chain. `end`: leaves the wide registers clean.
#define HR_PEAK(name, precision, STEP, operations, end)                                                      \
    static double name(long steps) {                                                                         \
        asm volatile(HR_CLEAR(0) HR_CLEAR(1) HR_CLEAR(2) HR_CLEAR(3) HR_TWELVE(HR_CLEAR)::: HR_REGISTERS);    \
        for (long i = 0; i < steps; i++) asm volatile(HR_TWELVE(STEP)::: HR_REGISTERS);                      \
        asm volatile(end);                                                                                   \
        return 12.0 * operations * double(steps);                                                            \
    }                                                                                                        \
    static ::hr::PeakRegistration HR_CAT(registration_, __COUNTER__)(precision, name, HR_TIER_RANK)

// Reads the same lines again and again; or'ed in pairs, so that loads and not sums are the limit.
typedef unsigned long long HrLine __attribute__((vector_size(64), may_alias));
static void hr_read_lines(const void* memory, long lines, long times) {
    const HrLine* line = static_cast<const HrLine*>(memory);
    for (long i = 0; i < times; i++) {
        HrLine sums[2]{};
        for (long at = 0; at + 4 <= lines; at += 4) {
            sums[0] |= line[at] | line[at + 1];
            sums[1] |= line[at + 2] | line[at + 3];
        }
        asm volatile("" ::"m"(sums));
    }
}
static ::hr::ReadRegistration HR_CAT(registration_, __COUNTER__)(hr_read_lines, HR_TIER_RANK);
