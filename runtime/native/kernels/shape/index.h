// Index tensors (int32 or int64), and kernels chosen by the size or the type of an element.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernel.h"
#include "types.h"

namespace hr {

inline bool is_index(DType t) { return t == DType::i32 || t == DType::i64; }

// Element i of an index tensor, counted from the front of an axis of `size` entries.
inline int64_t index_at(const Tensor& t, int64_t i, int64_t size) {
    const int64_t x = t.dtype == DType::i32 ? t.as<int32_t>()[i] : t.as<int64_t>()[i];
    if (x < -size || x >= size) throw std::out_of_range("index " + std::to_string(x) + " is outside [" + std::to_string(-size) + ", " + std::to_string(size - 1) + "]");
    return x < 0 ? x + size : x;
}

// Walks an index tensor of GatherElements or ScatterElements row by row (its last axis): each(first, count, offset), where
// `offset` is that of the row's first element in data of these strides, the indexed axis left out.
template <class Each>
void each_index_row(const Shape& index, const int64_t* strides, int axis, int64_t begin, int64_t end, const Each& each) {
    const int64_t width = index.rank ? index[-1] : 1;
    for (int64_t row = begin; row < end; row++) {
        int64_t offset = 0, rest = row;
        for (int d = index.rank - 2; d >= 0; d--) {
            if (d != axis) offset += rest % index.d[d] * strides[d];
            rest /= index.d[d];
        }
        each(row * width, width, offset);
    }
}

// K<unsigned type of that many bytes>, made from the node: for kernels that only move elements.
template <template <class> class K>
std::unique_ptr<Kernel> by_size(size_t item, const NodeInfo& node) {
    switch (item) {
        case 1: return std::make_unique<K<uint8_t>>(node);
        case 2: return std::make_unique<K<uint16_t>>(node);
        case 4: return std::make_unique<K<uint32_t>>(node);
        case 8: return std::make_unique<K<uint64_t>>(node);
        default: return nullptr;
    }
}

// K<T> for the first T that is the type of input 0; null where none is.
template <template <class> class K, class... Ts>
std::unique_ptr<Kernel> by_type(const NodeInfo& node) {
    std::unique_ptr<Kernel> found;
    ((node.inputs[0] == code_of<Ts> ? void(found = std::make_unique<K<Ts>>(node)) : void()), ...);
    return found;
}

}  // namespace hr
