// A row of a depthwise convolution's result, from wherever the lines that its windows see lie.
#pragma once
#include <algorithm>

#include "kernels/conv/conv.h"
#include "kernels/conv/window.h"

namespace hr {

constexpr int64_t kDepthwiseTaps = 4096;    // of a window, at most

// Pixels [m0, m1) of a row; `block` has what does not depend on pixels, and the first one's output and residual. `line(i)` is the
// input row that row i of the window's taps (of all but the last axis) sees, null where that lies in the padding.
template <class Line>
void depthwise_row(const ConvTable& table, const Window& w, DepthwiseBlock block, int64_t m0, int64_t m1, const void* zeros, const Line& line) {
    const void* columns[kDepthwiseTaps];
    const int64_t lines = w.kernel[0] * w.kernel[1], kernel = w.kernel[2], pixel = w.c * (block.low ? 2 : 4);
    const bool shared = w.dilation[2] == 1 && w.stride[2] <= kernel;
    block.columns = columns, block.lines = shared ? lines : lines * kernel, block.taps = shared ? kernel : 1, block.step = shared ? w.stride[2] : 1;
    const int64_t most = (kDepthwiseTaps / block.lines - block.taps) / block.step + 1;
    for (int64_t m = m0; m < m1; m += block.m) {
        block.m = std::min(most, m1 - m), block.stride = (block.m - 1) * block.step + block.taps;
        for (int64_t i = 0; i < block.lines; i++) {
            const int64_t tap = shared ? 0 : i % kernel * w.dilation[2];
            fill_columns(columns + i * block.stride, block.stride, m * w.stride[2] - w.begin[2] + tap, shared ? 1 : w.stride[2], line(shared ? i : i / kernel),
                         w.in[2], pixel, zeros);
        }
        table.depthwise(block);
        block.out = block.out + block.m * block.ldo;
        if (block.epilogue.residual) block.epilogue.residual += block.m * block.epilogue.ldr;
    }
}

}  // namespace hr
