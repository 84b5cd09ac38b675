// One axis of a tensor as [outer, size, inner], and the kernel class for the type of a node's first input.
#pragma once
#include <cstdint>
#include <memory>

#include "kernel.h"
#include "types.h"

#define HR_INTEGERS int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

namespace hr::HR_TIER {
namespace {

struct Along {
    int64_t outer, size, inner;
};

Along along(const Shape& shape, int axis) { return {shape.count(0, axis), shape.d[axis], shape.count(axis + 1, shape.rank)}; }

template <template <class> class K, class... Ts>
std::unique_ptr<Kernel> make(const NodeInfo& node) {
    std::unique_ptr<Kernel> found;
    ((node.inputs[0] == code_of<Ts> ? void(found = std::make_unique<K<Ts>>(node)) : void()), ...);
    return found;
}

}  // namespace
}  // namespace hr::HR_TIER
