#include "kernels/conv/window.h"

#include <algorithm>
#include <stdexcept>

namespace hr {

Window make_window(const WindowAttributes& a, int64_t n, int64_t c, const int64_t* spatial, const int64_t* kernel, int rank) {
    if (rank < 1 || rank > 3) throw std::invalid_argument("a window of " + std::to_string(rank) + " spatial axes; allowed: 1 to 3");
    const auto listed = [&](const std::vector<int64_t>& v, int i, const char* name) {
        if (v.empty()) return int64_t(1);
        if (int(v.size()) != rank) throw std::invalid_argument(std::string(name) + " must hold " + std::to_string(rank) + " integers");
        if (v[i] < 1) throw std::invalid_argument(std::string(name) + " must be positive");
        return v[i];
    };
    Window w;
    w.n = n, w.c = c;
    for (int i = 0; i < rank; i++) {
        const int at = 3 - rank + i;
        w.in[at] = spatial[i], w.kernel[at] = kernel[i];
        w.stride[at] = listed(a.strides, i, "strides"), w.dilation[at] = listed(a.dilations, i, "dilations");
        const int64_t extent = (kernel[i] - 1) * w.dilation[at] + 1, size = spatial[i], stride = w.stride[at];
        if (a.auto_pad.rfind("SAME", 0) == 0) {
            const int64_t out = ceil_div(size, stride), total = std::max<int64_t>(0, (out - 1) * stride + extent - size);
            w.begin[at] = a.auto_pad == "SAME_LOWER" ? total - total / 2 : total / 2;
            w.end[at] = total - w.begin[at];
            w.out[at] = out;
            continue;
        }
        if (!a.pads.empty() && a.auto_pad != "VALID") {
            if (int(a.pads.size()) != 2 * rank) throw std::invalid_argument("pads must hold " + std::to_string(2 * rank) + " integers");
            w.begin[at] = a.pads[i], w.end[at] = a.pads[rank + i];
        }
        const int64_t span = size + w.begin[at] + w.end[at] - extent;
        if (span < 0 && span <= -stride)
            throw std::invalid_argument("spatial axis " + std::to_string(i) + " has size " + std::to_string(size) + ", padded by " + std::to_string(w.begin[at]) +
                                        " and " + std::to_string(w.end[at]) + ": too small for a window of " + std::to_string(extent));
        const auto floor_div = [](int64_t x, int64_t y) { return x >= 0 ? x / y : -ceil_div(-x, y); };
        // A window that would begin in the padding behind the data is left out.
        w.out[at] = a.ceil ? std::min(floor_div(span + stride - 1, stride) + 1, floor_div(size + w.begin[at] - 1, stride) + 1) : floor_div(span, stride) + 1;
        w.out[at] = std::max<int64_t>(0, w.out[at]);
    }
    return w;
}

void fill_columns(const void** table, int64_t n, int64_t first, int64_t step, const char* line, int64_t width, int64_t pixel, const void* outside) {
    int64_t j = 0;
    if (line) {
        for (; j < n && first < 0; j++, first += step) table[j] = outside;
        const int64_t inside = first < width ? std::min(n, j + ceil_div(width - first, step)) : j;
        const char* at = line + first * pixel;
        for (const int64_t apart = step * pixel; j < inside; j++, at += apart) table[j] = at;
    }
    std::fill(table + j, table + n, outside);
}

void WindowRows::fill(const void** table, int64_t stride, int64_t s0, int64_t s1, int64_t m0, int64_t m1) const {
    for (int64_t s = s0; s < s1; s++) {
        const int64_t k[3] = {s / (w.kernel[1] * w.kernel[2]), s / w.kernel[2] % w.kernel[1], s % w.kernel[2]};
        const void** to = table + (s - s0) * stride;
        int64_t o2 = m0 % w.out[2], o1 = m0 / w.out[2] % w.out[1], o0 = m0 / (w.out[2] * w.out[1]) % w.out[0], image = m0 / w.pixels();
        for (int64_t m = m0; m < m1;) {
            const int64_t run = std::min(m1 - m, w.out[2] - o2);
            const int64_t i0 = o0 * w.stride[0] - w.begin[0] + k[0] * w.dilation[0], i1 = o1 * w.stride[1] - w.begin[1] + k[1] * w.dilation[1];
            const bool inside = uint64_t(i0) < uint64_t(w.in[0]) && uint64_t(i1) < uint64_t(w.in[1]);
            const char* line = inside ? x + ((image * w.in[0] + i0) * w.in[1] + i1) * w.in[2] * pixel : nullptr;
            fill_columns(to, run, o2 * w.stride[2] - w.begin[2] + k[2] * w.dilation[2], w.stride[2], line, w.in[2], pixel, outside);
            to += run, m += run, o2 = 0;
            if (++o1 == w.out[1]) {
                o1 = 0;
                if (++o0 == w.out[0]) o0 = 0, image++;
            }
        }
    }
}

Window padded(const Window& w) {
    Window p = w;
    for (int i = 0; i < 3; i++) {
        // Behind, as much as the last window reaches; a window need not reach the end of the image.
        const int64_t needed = std::max<int64_t>(1, (w.out[i] - 1) * w.stride[i] + (w.kernel[i] - 1) * w.dilation[i] + 1);
        p.in[i] = needed, p.begin[i] = p.end[i] = 0;
    }
    return p;
}

}  // namespace hr
