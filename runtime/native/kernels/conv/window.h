// Sliding windows over channels-last images of one to three spatial axes (missing ones have size 1).
#pragma once
#include <cstring>
#include <string>

#include "kernels/gemm/common.h"
#include "kernels/gemm/gemm.h"

namespace hr {

// What a node's attributes say of a window; pads may follow from the sizes (auto_pad).
struct WindowAttributes {
    std::vector<int64_t> kernel, strides, dilations, pads;
    std::string auto_pad;
    bool ceil = false;

    WindowAttributes() = default;
    explicit WindowAttributes(const NodeInfo& node)
        : kernel(node.ints("kernel_shape")), strides(node.ints("strides")), dilations(node.ints("dilations")), pads(node.ints("pads")),
          auto_pad(node.s("auto_pad", "NOTSET")), ceil(node.i("ceil_mode", 0) != 0) {}
};

struct Window {
    int64_t n = 1, c = 1;                   // images, channels
    int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1};
    int64_t kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1};
    int64_t begin[3] = {}, end[3] = {};     // pads; negative ones crop

    int64_t pixels() const { return out[0] * out[1] * out[2]; }     // of one image
    int64_t in_pixels() const { return in[0] * in[1] * in[2]; }
    int64_t rows() const { return n * pixels(); }
    int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
    bool pointwise() const {
        for (int i = 0; i < 3; i++)
            if (kernel[i] != 1 || stride[i] != 1 || begin[i] != 0 || end[i] != 0) return false;
        return true;
    }
};

// For sizes `spatial` (as many as the node has) and kernel sizes `kernel`; throws std::invalid_argument where they do not fit.
Window make_window(const WindowAttributes& a, int64_t n, int64_t c, const int64_t* spatial, const int64_t* kernel, int rank);

// table[j]: column first + j * step of the input row at `line`; `outside` beyond its `width` columns, and where there is no row.
void fill_columns(const void** table, int64_t n, int64_t first, int64_t step, const char* line, int64_t width, int64_t pixel, const void* outside);

// The pixel of every (output pixel, tap); `outside` where the tap lies in the padding.
struct WindowRows final : Rows {
    Window w;
    const char* x;
    int64_t pixel;          // bytes from one pixel to the next
    const void* outside;
    WindowRows(const Window& window, const void* data, int64_t pixel_bytes, const void* padding)
        : w(window), x(static_cast<const char*>(data)), pixel(pixel_bytes), outside(padding) {}
    void fill(const void** table, int64_t stride, int64_t s0, int64_t s1, int64_t m0, int64_t m1) const override;
};

// The window over an image that was copied with its padding, one row of taps (kw * c neighbours in memory) to a segment.
// Possible without dilation along the last axis.
inline bool can_merge(const Window& w) {
    return w.dilation[2] == 1 && w.begin[0] >= 0 && w.begin[1] >= 0 && w.begin[2] >= 0;
}
Window padded(const Window& w);     // the same windows over the padded image: no pads left
inline Window merged(Window w) { return w.kernel[2] = 1, w; }

}  // namespace hr
