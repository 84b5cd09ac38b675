// Pools over windows; one thread an output element, grid ceil(elements / 256), block 256.
//
//   max_pool_{f32,u8,s8}(x, y, Window)            NaN wins, padding never
//   average_pool_f32(x, y, Window, include_pad)   divided by the window's data, with include_pad by its explicit padding too
#include "functions.cuh"
#include "window.cuh"

namespace hr {

template <class T> HR_DEVICE void max_pool(const T* x, T* y, T lowest, const Window& g) {
    const long long i = global_id(), m = i / g.features;
    if (m >= pixels(g)) return;
    const int c = int(i - m * g.features);
    const Pixel p = pixel(g, m);
    T best = lowest;
    for (int kh = 0; kh < g.kernel_h; kh++)
        for (int kw = 0; kw < g.kernel_w; kw++) {
            const int h = in_h(g, p, kh), w = in_w(g, p, kw);
            if (!inside(g, h, w)) continue;
            const T value = x[x_at(g, p.n, c, h, w)];
            if (value > best || value != value) best = value;
        }
    y[y_at(g, p, c)] = best;
}

}  // namespace hr

using namespace hr;

#define HR_MAX_POOL(name, T, LOWEST) \
    extern "C" __global__ void __launch_bounds__(256) name(const T* x, T* y, Window g) { max_pool<T>(x, y, LOWEST, g); } \
    HR_EXPORT(name)
HR_MAX_POOL(max_pool_f32, float, -INFINITY)
HR_MAX_POOL(max_pool_u8, uint8_t, 0)
HR_MAX_POOL(max_pool_s8, int8_t, -128)

extern "C" __global__ void __launch_bounds__(256) average_pool_f32(const float* x, float* y, Window g, int include_pad) {
    const long long i = global_id(), m = i / g.features;
    if (m >= pixels(g)) return;
    const int c = int(i - m * g.features);
    const Pixel p = pixel(g, m);
    float sum = 0;
    int count = 0;
    for (int kh = 0; kh < g.kernel_h; kh++)
        for (int kw = 0; kw < g.kernel_w; kw++) {
            const int h = in_h(g, p, kh), w = in_w(g, p, kw);
            if (inside(g, h, w)) sum += x[x_at(g, p.n, c, h, w)];
            count += include_pad ? h < g.h + g.end_h && w < g.w + g.end_w : inside(g, h, w);
        }
    y[y_at(g, p, c)] = sum / float(count > 0 ? count : 1);
}
HR_EXPORT(average_pool_f32)
