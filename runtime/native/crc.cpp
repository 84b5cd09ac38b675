#include "crc.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <array>
#endif

namespace hr {

#if defined(__x86_64__)

namespace {

constexpr std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        table[i] = value;
    }
    return table;
}();

#define HR_CLMUL __attribute__((target("pclmul,sse4.1")))

// `low` and `high`: powers of x modulo the polynomial that carry 128 bits over the distance to `next`.
HR_CLMUL __m128i fold(__m128i value, __m128i powers, __m128i next) {
    const __m128i low = _mm_clmulepi64_si128(value, powers, 0x00), high = _mm_clmulepi64_si128(value, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

HR_CLMUL __m128i load(const char* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }

// Of whole blocks of 16 bytes, four at least. Method and constants: Gopal et al., "Fast CRC Computation for Generic
// Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), for the bit-reflected polynomial 0xedb88320.
HR_CLMUL uint32_t folded(const char* at, size_t blocks, uint32_t crc) {
    const __m128i by_4 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), by_1 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i half = _mm_setr_epi32(~0, 0, ~0, 0);
    __m128i lane[4];
    for (int i = 0; i < 4; i++) lane[i] = load(at + 16 * i);
    lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128(int(crc)));
    for (at += 64, blocks -= 4; blocks >= 4; at += 64, blocks -= 4)
        for (int i = 0; i < 4; i++) lane[i] = fold(lane[i], by_4, load(at + 16 * i));
    __m128i sum = lane[0];
    for (int i = 1; i < 4; i++) sum = fold(sum, by_1, lane[i]);
    for (; blocks; at += 16, blocks--) sum = fold(sum, by_1, load(at));
    // 128 bits to 64, to 32 (Barrett's reduction).
    sum = _mm_xor_si128(_mm_srli_si128(sum, 8), _mm_clmulepi64_si128(sum, by_1, 0x10));
    const __m128i to_64 = _mm_set_epi64x(0, 0x0163cd6124), barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    sum = _mm_xor_si128(_mm_srli_si128(sum, 4), _mm_clmulepi64_si128(_mm_and_si128(sum, half), to_64, 0x00));
    __m128i quotient = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(sum, half), barrett, 0x10), half);
    quotient = _mm_clmulepi64_si128(quotient, barrett, 0x00);
    return uint32_t(_mm_extract_epi32(_mm_xor_si128(sum, quotient), 1));
}

}  // namespace

bool has_fast_crc() { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }

uint32_t crc32(const void* data, size_t bytes) {
    const char* at = static_cast<const char*>(data);
    uint32_t crc = ~0u;
    if (bytes >= 64) {
        crc = folded(at, bytes / 16, crc);
        at += bytes / 16 * 16, bytes %= 16;
    }
    for (; bytes; bytes--) crc = crc >> 8 ^ kTable[(crc ^ uint8_t(*at++)) & 255];
    return ~crc;
}

#else

bool has_fast_crc() { return false; }
uint32_t crc32(const void*, size_t) { return 0; }

#endif

}  // namespace hr
