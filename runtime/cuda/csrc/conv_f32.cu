// conv_f32(x, w, bias, r, y, Window, function, a, b): y = function(conv(x, w) + bias[feature] + r), float32. w [features,
// channels of a group, kernel_h, kernel_w]; r, if not null, has the layout of y. An implicit matrix product: grid
// (ceil(pixels / 64), ceil(features of a group / 64), groups), block 256, 8704 bytes.
//
// conv_transpose_f32(x, w, bias, y, Window, function, a, b): the gradient of a convolution from y to x, w [c, features of a
// group, kernel_h, kernel_w]; strides, pads and dilations are those of that convolution. One thread an element of y, grid
// ceil(elements / 256), block 256.
#include "gemm_f32.cuh"
#include "window.cuh"

using namespace hr;

extern "C" __global__ void __launch_bounds__(256) conv_f32(const float* x, const float* w, const float* bias, const float* r, float* y, Window g,
                                                           int function, float a, float b) {
    const int channels = g.c / g.group, features = g.features / g.group, taps = g.kernel_h * g.kernel_w, depth = channels * taps;
    const int first_channel = int(blockIdx.z) * channels, first_feature = int(blockIdx.z) * features;
    const float* weights = w + static_cast<long long>(first_feature) * depth;
    float sums[4][4] = {};
    f32_tile::sum(
        sums,
        [&](long long m, int k) {
            const Pixel p = pixel(g, m);
            const int c = k / taps, t = k - c * taps, kh = t / g.kernel_w, h = in_h(g, p, kh), at = in_w(g, p, t - kh * g.kernel_w);
            return inside(g, h, at) ? x[x_at(g, p.n, first_channel + c, h, at)] : 0.0f;
        },
        [&](int k, int n) { return weights[static_cast<long long>(n) * depth + k]; }, pixels(g), features, depth);
    const auto at = [&](long long m, int n) { return y_at(g, pixel(g, m), first_feature + n); };
    f32_tile::finish(sums, pixels(g), features, y, function, a, b, at, [&](long long m, int n, float sum) {
        if (bias) sum += bias[first_feature + n];
        return r ? sum + r[at(m, n)] : sum;
    });
}
HR_EXPORT(conv_f32)

extern "C" __global__ void __launch_bounds__(256) conv_transpose_f32(const float* x, const float* w, const float* bias, float* y, Window g, int function,
                                                                     float a, float b) {
    const long long i = global_id(), m = i / g.features;
    if (m >= pixels(g)) return;
    const int feature = int(i - m * g.features), channels = g.c / g.group, features = g.features / g.group, of_group = feature / features;
    const Pixel p = pixel(g, m);
    float sum = 0;
    for (int kh = 0; kh < g.kernel_h; kh++)
        for (int kw = 0; kw < g.kernel_w; kw++) {
            const int down = p.h + g.pad_h - kh * g.dilation_h, right = p.w + g.pad_w - kw * g.dilation_w;
            const int h = down / g.stride_h, at = right / g.stride_w;
            if (down < 0 || right < 0 || h * g.stride_h != down || at * g.stride_w != right || !inside(g, h, at)) continue;
            for (int c = of_group * channels; c < (of_group + 1) * channels; c++)
                sum = fmaf(x[x_at(g, p.n, c, h, at)],
                           w[((static_cast<long long>(c) * features + feature - of_group * features) * g.kernel_h + kh) * g.kernel_w + kw], sum);
        }
    y[y_at(g, p, feature)] = apply_unary(function, bias ? sum + bias[feature] : sum, a, b);
}
HR_EXPORT(conv_transpose_f32)
