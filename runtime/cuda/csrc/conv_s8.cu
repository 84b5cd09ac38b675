// Integer convolution as an implicit matrix product: rows are output pixels, columns features, depth (tap, channel).
//
//   conv_{u8,s8}s8_{dp4a,mma64}(x, w int8 [features, ldw], y, outside, Window, Epilogue, ldw)
//     w: each feature's (kernel_h, kernel_w, channel of its group), zero beyond; outside: 16 bytes of x's zero point, what a
//     tap beyond the image reads. Residual and y have the same layout. Grid (ceil(pixels / 64), ceil(features of a group / 64),
//     groups). Block, shared: dp4a 256, 4160; mma64 128, 24576. mma64 wants channels last, the channels of a group a multiple
//     of 16, and x, w, outside and ldw at multiples of 16 bytes.
//   conv_depthwise_{u8,s8}(x, w int8 [taps, features], y, x_zero, Window, Epilogue)
//     one thread an output element, any layout; zero points are subtracted while summing: `col` holds the bias only, w_zero
//     its zero points, row_sum is not read. Grid ceil(elements / 256), block 256.
#include "gemm_s8_dp4a.cuh"
#include "gemm_s8_mma.cuh"
#include "window.cuh"

namespace hr {

struct ImageRows {
    const uint8_t* x;
    const uint8_t* outside;
    const Window& g;
    int channels, first_channel, first_feature;    // of the group

    // Address of channel c under tap (h, w) of an output pixel.
    HR_DEVICE const uint8_t* tap(const Pixel& p, int kh, int kw, int c) const {
        const int h = in_h(g, p, kh), w = in_w(g, p, kw);
        return inside(g, h, w) ? x + x_at(g, p.n, first_channel + c, h, w) : outside;
    }
    HR_DEVICE const uint8_t* depth(const Pixel& p, int k) const {
        const int t = k / channels, kh = t / g.kernel_w;
        return tap(p, kh, t - kh * g.kernel_w, k - t * channels);
    }
    using Row = Pixel;
    HR_DEVICE Row row(long long m) const { return pixel(g, m); }
    HR_DEVICE uint32_t word(const Row& row, int k, int depth_of_all) const {
        uint32_t value = 0;
#pragma unroll 1
        for (int i = 0; i < 4; i++)
            if (k + i < depth_of_all) value |= uint32_t(*depth(row, k + i)) << (8 * i);
        return value;
    }
    HR_DEVICE const uint8_t* chunk(const Row& row, int k) const { return depth(row, k); }
    HR_DEVICE long long at(long long m, int n) const { return y_at(g, pixel(g, m), first_feature + n); }
    HR_DEVICE long long r_at(long long m, int n) const { return at(m, n); }
};

HR_DEVICE ImageRows image_rows(const uint8_t* x, const uint8_t* outside, const Window& g) {
    const int channels = g.c / g.group;
    return {x, outside, g, channels, int(blockIdx.z) * channels, int(blockIdx.z) * (g.features / g.group)};
}

template <bool SIGNED> HR_DEVICE void depthwise(const uint8_t* x, const int8_t* w, uint8_t* y, int x_zero, const Window& g, Epilogue e) {
    const long long i = global_id(), m = i / g.features;
    if (m >= pixels(g)) return;
    const int feature = int(i - m * g.features), c = feature / (g.features / g.c), w_zero = e.w_zero ? e.w_zero[feature] : 0;
    const Pixel p = pixel(g, m);
    int sum = 0;
    for (int kh = 0; kh < g.kernel_h; kh++)
        for (int kw = 0; kw < g.kernel_w; kw++) {
            const int h = in_h(g, p, kh), at = in_w(g, p, kw);
            if (inside(g, h, at))
                sum += (level(x, x_at(g, p.n, c, h, at), SIGNED) - x_zero) * (w[(kh * g.kernel_w + kw) * static_cast<long long>(g.features) + feature] - w_zero);
        }
    e.w_zero = nullptr;
    const long long at = y_at(g, p, feature);
    finish(e, sum, m, feature, y, at, at);
    if (activates(e)) activate(e, y, at);
}

}  // namespace hr

using namespace hr;

#define HR_CONV(name, THREADS, ...)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const uint8_t* x, const uint8_t* w, uint8_t* y, const uint8_t* outside, Window g, \
                                                               Epilogue e, long long ldw) {                                    \
        const ImageRows rows = image_rows(x, outside, g);                                                                      \
        const int features = g.features / g.group;                                                                             \
        __VA_ARGS__(rows, w + rows.first_feature * ldw, ldw, y, pixels(g), features, rows.channels * g.kernel_h * g.kernel_w, rows.first_feature, e); \
    }                                                                                                                          \
    HR_EXPORT(name)
HR_CONV(conv_u8s8_dp4a, 256, dp4a_tile::run<false>)
HR_CONV(conv_s8s8_dp4a, 256, dp4a_tile::run<true>)
HR_CONV(conv_u8s8_mma64, 128, mma_tile::run<mma_tile::Tile<64>, false>)
HR_CONV(conv_s8s8_mma64, 128, mma_tile::run<mma_tile::Tile<64>, true>)

extern "C" __global__ void __launch_bounds__(256) conv_depthwise_u8(const uint8_t* x, const int8_t* w, uint8_t* y, int x_zero, Window g, Epilogue e) {
    depthwise<false>(x, w, y, x_zero, g, e);
}
HR_EXPORT(conv_depthwise_u8)
extern "C" __global__ void __launch_bounds__(256) conv_depthwise_s8(const uint8_t* x, const int8_t* w, uint8_t* y, int x_zero, Window g, Epilogue e) {
    depthwise<true>(x, w, y, x_zero, g, e);
}
HR_EXPORT(conv_depthwise_s8)
