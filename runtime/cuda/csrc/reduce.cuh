// Reductions over a block, always in the same order.
#pragma once
#include "hr.cuh"

namespace hr {

// The values of all threads together, in every thread; `shared` holds one T a warp and is free again on return.
template <class T, class F> HR_DEVICE T block_reduce(T value, T empty, T* shared, F join) {
    for (int step = 16; step > 0; step /= 2) value = join(value, shfl_xor(value, step));
    const int warps = int(blockDim.x) / 32;
    if (lane_id() == 0) shared[warp_id()] = value;
    __syncthreads();
    value = lane_id() < warps ? shared[lane_id()] : empty;
    for (int step = 16; step > 0; step /= 2) value = join(value, shfl_xor(value, step));
    __syncthreads();
    return value;
}

HR_DEVICE float block_sum(float value, float* shared) {
    return block_reduce(value, 0.0f, shared, [](float a, float b) { return a + b; });
}

}  // namespace hr
