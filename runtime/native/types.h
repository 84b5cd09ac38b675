// C++ type -> element type code.
#pragma once
#include "half.h"
#include "tensor.h"

namespace hr {

template <class T> constexpr DType code_of = DType::none;
template <> inline constexpr DType code_of<float> = DType::f32;
template <> inline constexpr DType code_of<double> = DType::f64;
template <> inline constexpr DType code_of<Half> = DType::f16;
template <> inline constexpr DType code_of<BFloat16> = DType::bf16;
template <> inline constexpr DType code_of<int8_t> = DType::i8;
template <> inline constexpr DType code_of<int16_t> = DType::i16;
template <> inline constexpr DType code_of<int32_t> = DType::i32;
template <> inline constexpr DType code_of<int64_t> = DType::i64;
template <> inline constexpr DType code_of<uint8_t> = DType::u8;
template <> inline constexpr DType code_of<uint16_t> = DType::u16;
template <> inline constexpr DType code_of<uint32_t> = DType::u32;
template <> inline constexpr DType code_of<uint64_t> = DType::u64;
template <> inline constexpr DType code_of<bool> = DType::boolean;

}  // namespace hr
