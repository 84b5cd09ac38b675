// float16 and bfloat16 as bits, converted one by one (rounding to nearest even).
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace hr {

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

inline float to_float(BFloat16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

inline BFloat16 to_bfloat16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    if (x != x) return {uint16_t((u >> 31 << 15) | 0x7fc0)};
    return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

// Exact: a half's exponent is moved by a multiplication, which also normalises subnormals.
inline float to_float(Half h) {
    const uint32_t sign = uint32_t(h.bits & 0x8000) << 16, rest = uint32_t(h.bits & 0x7fff) << 13;
    float x = std::bit_cast<float>(rest) * 0x1p112f;
    if ((h.bits & 0x7c00) == 0x7c00) x = std::bit_cast<float>(rest | 0x7f800000);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(x) | sign);
}

inline Half to_half(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return {uint16_t(sign | 0x7e00 | (a >> 13 & 0x1ff))};
    if (a >= 0x477ff000) return {uint16_t(sign | 0x7c00)};              // rounds to infinity
    if (a < 0x38800000) {                                               // subnormal: let the addition round
        const float shifted = std::bit_cast<float>(a) + 0.5f;
        return {uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f)))};
    }
    return {uint16_t(sign | ((a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13))};
}

}  // namespace hr
