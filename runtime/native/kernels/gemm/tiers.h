// Tables of leaf kernels, one per instruction-set tier: a `.simd.cpp` file defines `const Table name` in hr::HR_TIER, plain
// files choose among them.
#pragma once
#include "cpu.h"

#if defined(__x86_64__) && !defined(HR_EMULATE_VNNI)
#define HR_HAS_BF16     // namespace avx512_bf16 has tables
#endif

#if defined(__x86_64__)
#define HR_TIER_TABLE(Table, name)                                                                        \
    namespace baseline { extern const Table name; }                                                       \
    namespace avx2 { extern const Table name; }                                                           \
    namespace avx512_vnni { extern const Table name; }
#define HR_OF_TIER(name, tier) \
    ((tier) >= ::hr::kAvx512Vnni ? avx512_vnni::name : (tier) == ::hr::kAvx2 ? avx2::name : baseline::name)
#else
#define HR_TIER_TABLE(Table, name) namespace baseline { extern const Table name; }
#define HR_OF_TIER(name, tier) ((void)(tier), baseline::name)
#endif
