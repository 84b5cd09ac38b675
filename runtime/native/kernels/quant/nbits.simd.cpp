// The tiles of nbits.h, built once for every tier.
#include "kernels/quant/nbits.h"

#include "kernels/quant/igemm.inc.h"

namespace hr::HR_TIER {

#if HR_TIER_RANK == 2
constexpr int kFewRows = 3, kMostRows = 8;  // few rows take two panels at once, to keep enough chains in flight
#else
constexpr int kFewRows = 1, kMostRows = 3;
#endif
constexpr int kNbitsVecs = 2, kNbitsCols = kNbitsVecs * kLanes;
constexpr int64_t kFar = 1024;              // bytes of weights asked for ahead, where each is met once

HR_INLINE vi load_dwords(const uint32_t* p) { vi v; memcpy(&v, p, sizeof v); return v; }

// Number i of every dword as a float, the middle taken off or not.
template <int BITS, bool kZeros> struct Levels {
#if HR_TIER_RANK == 2 && !defined(HR_EMULATE_VNNI)
    vf table = {};
    Levels() { for (int i = 0; i < 16; i++) table[i] = float(kZeros ? i : i - 8); }
    HR_INLINE vf at(vi v, const Levels& t) {
        if constexpr (BITS == 4) return (vf)_mm512_permutexvar_ps((__m512i)v, (__m512)t.table);     // reads four bits of each lane
        else return kZeros ? to_float(v & 255) : to_float((v & 255) - 128);
    }
#else
    HR_INLINE vf at(vi v, const Levels&) {
        const vi q = v & ((1 << BITS) - 1);
        return to_float(kZeros ? q : q - (1 << (BITS - 1)));
    }
#endif
};

HR_INLINE vi shifted(vi v, int by) { return (vi)((__attribute__((vector_size(sizeof(vi)))) uint32_t)v >> by); }

template <int BITS, int MR, int NV, bool kZeros>
static __attribute__((noinline)) void real_tile(const NbitsBlock& g, int64_t m, const uint32_t* b, const float* scale, const uint8_t* zero, float* sums) {
    constexpr int kPer = 32 / BITS;
    const Levels<BITS, kZeros> levels;
    const int64_t groups = g.block / kPer;
    const float* a[MR];
    HR_UNROLL for (int i = 0; i < MR; i++) a[i] = reinterpret_cast<const float*>(static_cast<const char*>(g.a) + (m + i) * g.lda);
    for (int64_t block = 0; block < g.blocks; block++, scale += kNbitsCols, zero += kZeros ? kNbitsCols : 0) {
        vf acc[MR][NV], shift[NV];
        HR_UNROLL for (int i = 0; i < MR; i++) HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vf{};
        if constexpr (kZeros)
            HR_UNROLL for (int j = 0; j < NV; j++)
                shift[j] = to_float(widen(zero + j / kNbitsVecs * g.panel_scale + j % kNbitsVecs * kLanes, false));
        for (int64_t group = 0; group < groups; group++, b += kNbitsCols) {
            vi v[NV];
            HR_UNROLL for (int j = 0; j < NV; j++) {
                const uint32_t* from = b + j / kNbitsVecs * g.panel_b + j % kNbitsVecs * kLanes;
                v[j] = load_dwords(from);
                if constexpr (MR <= kFewRows) _mm_prefetch(reinterpret_cast<const char*>(from) + kFar, _MM_HINT_T0);
            }
            HR_UNROLL for (int k = 0; k < kPer; k++) {
                vf w[NV];
                HR_UNROLL for (int j = 0; j < NV; j++) {
                    w[j] = levels.at(shifted(v[j], BITS * k), levels);
                    if constexpr (kZeros) w[j] -= shift[j];
                }
                HR_UNROLL for (int i = 0; i < MR; i++) {
                    const vf x = splat(a[i][k]);
                    HR_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = fma(x, w[j], acc[i][j]);
                }
            }
            HR_UNROLL for (int i = 0; i < MR; i++) a[i] += kPer;
        }
        HR_UNROLL for (int j = 0; j < NV; j++) {
            const vf s = load(scale + j / kNbitsVecs * g.panel_scale + j % kNbitsVecs * kLanes);
            HR_UNROLL for (int i = 0; i < MR; i++) {
                float* sum = sums + (i * NV + j) * kLanes;
                store(sum, fma(acc[i][j], s, load(sum)));
            }
        }
    }
}

// Four unsigned bytes of each lane of w times four signed ones of x. Short sums of two products fit 16 bits where weights have
// four of them (15 * 127 * 2); else factors are widened.
template <int BITS> HR_INLINE void dot_levels(vi& acc, vi w, vi x) {
#if HR_TIER_RANK == 2
    dot(acc, w, x);
#elif HR_TIER_RANK == 1
    if constexpr (BITS == 4) {
        acc += (vi)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)w, (__m256i)x), _mm256_set1_epi16(1));
    } else {
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)x, 8), 8), odd = _mm256_srai_epi16((__m256i)x, 8);
        acc += (vi)_mm256_madd_epi16((__m256i)(w & 0x00ff00ff), even) + (vi)_mm256_madd_epi16((__m256i)(shifted(w, 8) & 0x00ff00ff), odd);
    }
#else
    const __m128i even = _mm_srai_epi16(_mm_slli_epi16((__m128i)x, 8), 8), odd = _mm_srai_epi16((__m128i)x, 8);
    acc += (vi)_mm_madd_epi16((__m128i)(w & 0x00ff00ff), even) + (vi)_mm_madd_epi16((__m128i)(shifted(w, 8) & 0x00ff00ff), odd);
#endif
}

template <int BITS, int MR, int NV, bool kZeros>
static __attribute__((noinline)) void int_tile_nbits(const NbitsBlock& g, int64_t m, const uint32_t* b, const float* scale, const uint8_t* zero, float* sums) {
    constexpr int kDots = 8 / BITS;
    const int64_t groups = g.block * BITS / 32;
    const char* a[MR];
    HR_UNROLL for (int i = 0; i < MR; i++) a[i] = static_cast<const char*>(g.a) + (m + i) * g.lda;
    for (int64_t block = 0; block < g.blocks; block++, scale += kNbitsCols, zero += kZeros ? kNbitsCols : 0) {
        vi acc[MR][NV];
        HR_UNROLL for (int j = 0; j < NV; j++) {
            vi shift = splat(1 << (BITS - 1));
            if constexpr (kZeros) shift = widen(zero + j / kNbitsVecs * g.panel_scale + j % kNbitsVecs * kLanes, false);
            HR_UNROLL for (int i = 0; i < MR; i++) acc[i][j] = shift * splat(-g.a_sum[(m + i) * g.ld_scale + block]);
        }
        for (int64_t group = 0; group < groups; group++, b += kNbitsCols) {
            vi v[NV];
            HR_UNROLL for (int j = 0; j < NV; j++) {
                const uint32_t* from = b + j / kNbitsVecs * g.panel_b + j % kNbitsVecs * kLanes;
                v[j] = load_dwords(from);
                if constexpr (MR <= kFewRows) _mm_prefetch(reinterpret_cast<const char*>(from) + kFar, _MM_HINT_T0);
            }
            HR_UNROLL for (int d = 0; d < kDots; d++) {
                vi w[NV];
                HR_UNROLL for (int j = 0; j < NV; j++) w[j] = BITS == 8 ? v[j] : shifted(v[j], 4 * d) & 0x0f0f0f0f;
                HR_UNROLL for (int i = 0; i < MR; i++) {
                    int32_t four;
                    memcpy(&four, a[i] + 4 * d, 4);
                    const vi x = splat(four);
                    HR_UNROLL for (int j = 0; j < NV; j++) dot_levels<BITS>(acc[i][j], w[j], x);
                }
            }
            HR_UNROLL for (int i = 0; i < MR; i++) a[i] += 4 * kDots;
        }
        HR_UNROLL for (int j = 0; j < NV; j++) {
            const vf s = load(scale + j / kNbitsVecs * g.panel_scale + j % kNbitsVecs * kLanes);
            HR_UNROLL for (int i = 0; i < MR; i++) {
                float* sum = sums + (i * NV + j) * kLanes;
                store(sum, load(sum) + to_float(acc[i][j]) * (splat(g.a_scale[(m + i) * g.ld_scale + block]) * s));
            }
        }
    }
}

using NbitsTile = void (*)(const NbitsBlock&, int64_t, const uint32_t*, const float*, const uint8_t*, float*);

// Tables over the number of rows: one panel, and two for few rows.
template <bool kReal, int BITS, bool kZeros> struct NbitsTiles {
    template <int MR, int NV> static constexpr NbitsTile of() {
        if constexpr (kReal) return real_tile<BITS, MR, NV, kZeros>;
        else return int_tile_nbits<BITS, MR, NV, kZeros>;
    }
    template <int NV, int... I> struct Rows { static constexpr NbitsTile tiles[] = {of<I + 1, NV>()...}; };
    template <int NV, int N, int... I> struct Up : Up<NV, N - 1, N - 1, I...> {};
    template <int NV, int... I> struct Up<NV, 0, I...> { using type = Rows<NV, I...>; };
    using One = typename Up<kNbitsVecs, kMostRows>::type;
    using Two = typename Up<2 * kNbitsVecs, kFewRows>::type;
};

template <bool kReal, int BITS, bool kZeros> static void nbits_block(const NbitsBlock& g) {
    using All = NbitsTiles<kReal, BITS, kZeros>;
    alignas(64) float sums[kMostRows * 2 * kNbitsCols];
    const int64_t tiles = (g.m + kMostRows - 1) / kMostRows;
    for (int64_t n = 0; n < g.n;) {
        const bool two = g.m <= kFewRows && g.n - n > kNbitsCols;
        const int64_t wide = two ? 2 * kNbitsCols : kNbitsCols, width = g.n - n < wide ? g.n - n : wide, panel = n / kNbitsCols;
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t m = g.m * t / tiles, rows = g.m * (t + 1) / tiles - m;
            float* c = g.c + m * g.ldc + n;
            memset(sums, 0, size_t(rows * wide) * 4);
            if (!g.first)
                for (int64_t i = 0; i < rows; i++) memcpy(sums + i * wide, c + i * g.ldc, size_t(width) * 4);
            (two ? All::Two::tiles : All::One::tiles)[rows - 1](g, m, g.b + panel * g.panel_b, g.scale + panel * g.panel_scale,
                                                               kZeros ? g.zero + panel * g.panel_scale : nullptr, sums);
            for (int64_t i = 0; i < rows; i++) {
                float* sum = sums + i * wide;
                if (g.bias)
                    for (int64_t j = 0; j < width; j++) sum[j] += g.bias[n + j];
                memcpy(c + i * g.ldc, sum, size_t(width) * 4);
            }
        }
        n += wide;
    }
}

template <bool kReal> static void nbits_of(int bits, const NbitsBlock& g) {
    if (bits == 4) g.zero ? nbits_block<kReal, 4, true>(g) : nbits_block<kReal, 4, false>(g);
    else g.zero ? nbits_block<kReal, 8, true>(g) : nbits_block<kReal, 8, false>(g);
}

extern const NbitsTable nbits_kernels;
#define HR_TEXT2(x) #x
#define HR_TEXT(x) HR_TEXT2(x)
const NbitsTable nbits_kernels = {HR_TEXT(HR_TIER), kMostRows, kNbitsCols, nbits_of<true>, nbits_of<false>};

}  // namespace hr::HR_TIER
