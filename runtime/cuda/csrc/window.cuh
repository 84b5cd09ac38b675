// The geometry of convolutions and pools over two spatial axes (one axis: height 1), in any layout.
#pragma once
#include "hr.cuh"

namespace hr {

// Strides in elements; Python packs it as kernels.window.WINDOW.
struct Window {
    long long x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w;
    int n, c, h, w, features, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, end_h, end_w, dilation_h, dilation_w,
        group;
};

struct Pixel { int n, h, w; };

// Pixel m of the output, images first. The host keeps their number below 2^31: 64-bit divisions are long.
HR_DEVICE Pixel pixel(const Window& g, long long m) {
    const uint32_t row = uint32_t(m) / uint32_t(g.out_w), n = row / uint32_t(g.out_h);
    return {int(n), int(row - n * g.out_h), int(uint32_t(m) - row * g.out_w)};
}

HR_DEVICE long long pixels(const Window& g) { return static_cast<long long>(g.n) * g.out_h * g.out_w; }
HR_DEVICE long long y_at(const Window& g, const Pixel& p, int feature) { return p.n * g.y_n + feature * g.y_c + p.h * g.y_h + p.w * g.y_w; }
HR_DEVICE long long x_at(const Window& g, int n, int c, int h, int w) { return n * g.x_n + c * g.x_c + h * g.x_h + w * g.x_w; }
HR_DEVICE int in_h(const Window& g, const Pixel& p, int tap) { return p.h * g.stride_h - g.pad_h + tap * g.dilation_h; }
HR_DEVICE int in_w(const Window& g, const Pixel& p, int tap) { return p.w * g.stride_w - g.pad_w + tap * g.dilation_w; }
HR_DEVICE bool inside(const Window& g, int h, int w) { return h >= 0 && h < g.h && w >= 0 && w < g.w; }

}  // namespace hr
