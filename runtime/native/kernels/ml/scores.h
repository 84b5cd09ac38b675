// What the kernels of ai.onnx.ml share: rows of any number type, and the transforms of scores.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernel.h"

namespace hr {

enum class Transform { none, softmax, logistic, softmax_zero, probit };

// Of the attribute post_transform; nothing where the name is unknown.
std::optional<Transform> transform_of(const NodeInfo& node);
// In place, over one row of n scores.
void apply(Transform transform, float* scores, int64_t n);

inline bool is_feature(DType t) { return t == DType::f32 || t == DType::f64 || t == DType::i64 || t == DType::i32; }

// [N, C] or [C].
inline int64_t rows_of(const Shape& x) { return x.rank == 2 ? x.d[0] : 1; }
void check_rows(const Shape& x, int64_t columns);   // columns < 0: any

// Row `row` of a matrix of any feature type, as T.
template <class T>
void read_row(const Tensor& x, int64_t row, T* to) {
    const int64_t n = x.shape[-1];
    const auto copy = [&](auto* from) { for (int64_t i = 0; i < n; i++) to[i] = T(from[row * n + i]); };
    switch (x.dtype) {
        case DType::f32: return copy(x.as<float>());
        case DType::f64: return copy(x.as<double>());
        case DType::i64: return copy(x.as<int64_t>());
        default: return copy(x.as<int32_t>());
    }
}

// The attribute as float32 numbers.
std::vector<float> floats32(const NodeInfo& node, const std::string& key);

}  // namespace hr
