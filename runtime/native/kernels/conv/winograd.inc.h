// The transforms of Winograd's convolutions, vectors of channels. With HR_BF16 pixels and results may be bf16.
#pragma once
#include "kernels/conv/kernels.inc.h"
#include "kernels/conv/winograd.h"

namespace hr::HR_TIER {

constexpr float kHalfRoot = 0.70710678118654752f, kRoot = 1.4142135623730950f;

// v = B' d, of vectors `sd` and `sv` apart.
template <int M> HR_INLINE void forward(const vf* d, int sd, vf* v, int sv) {
    if constexpr (M == 2) {
        v[0] = d[0] - d[2 * sd], v[sv] = d[sd] + d[2 * sd], v[2 * sv] = d[2 * sd] - d[sd], v[3 * sv] = d[3 * sd] - d[sd];
    } else {
        const vf d0 = d[0], d1 = d[sd], d2 = d[2 * sd], d3 = d[3 * sd], d4 = d[4 * sd], d5 = d[5 * sd];
        const vf even = fma(splat(-2.0f), d2, d4), odd = fma(splat(-2.0f), d1, d3);
        const vf even2 = fma(splat(-0.5f), d2, d4), odd2 = fma(splat(-0.5f), d1, d3);
        v[0] = fma(splat(-2.5f), d2, d0 + d4);
        v[sv] = fma(splat(kHalfRoot), odd, even), v[2 * sv] = fma(splat(-kHalfRoot), odd, even);
        v[3 * sv] = fma(splat(kRoot), odd2, even2), v[4 * sv] = fma(splat(-kRoot), odd2, even2);
        v[5 * sv] = fma(splat(-2.5f), d3, d1 + d5);
    }
}

// y = A' m.
template <int M> HR_INLINE void backward(const vf* m, int sm, vf* y, int sy) {
    if constexpr (M == 2) {
        y[0] = m[0] + (m[sm] + m[2 * sm]), y[sy] = (m[sm] - m[2 * sm]) + m[3 * sm];
    } else {
        const vf sum = m[sm] + m[2 * sm], difference = m[sm] - m[2 * sm];
        const vf sum2 = m[3 * sm] + m[4 * sm], difference2 = m[3 * sm] - m[4 * sm];
        y[0] = m[0] + (sum + sum2);
        y[sy] = fma(splat(kRoot), difference2, splat(kHalfRoot) * difference);
        y[2 * sy] = fma(splat(2.0f), sum2, splat(0.5f) * sum);
        y[3 * sy] = m[5 * sm] + fma(splat(2 * kRoot), difference2, splat(0.5f * kHalfRoot) * difference);
    }
}

template <int M, class X> static void input_of(const WinogradInput& w) {
    constexpr int N = M + 2;
    for (int64_t c = 0; c < w.c; c += kLanes) {
        const int64_t left = w.c - c;
        vf d[N * N], t[N * N];
        for (int j = 0; j < N; j++) {
            HR_UNROLL for (int i = 0; i < N; i++) d[i] = load_part(static_cast<const X*>(w.pixels[i * N + j]) + c, left);
            forward<M>(d, 1, t + j, N);
        }
        float* out = w.out + c;
        for (int i = 0; i < N; i++) {
            vf v[N];
            forward<M>(t + i * N, 1, v, 1);
            HR_UNROLL for (int j = 0; j < N; j++) store(out + (i * N + j) * w.step, v[j]);
        }
    }
}

template <int M> static void input(const WinogradInput& w) {
#ifdef HR_BF16
    if (w.low) return input_of<M, BFloat16>(w);
#endif
    input_of<M, float>(w);
}

template <int M, class Y> static void output_of(const WinogradOutput& w) {
    constexpr int N = M + 2;
    const Epilogue& e = w.epilogue;
    const vf lo = splat(e.act.lo), hi = splat(e.act.hi);
    Y* to = static_cast<Y*>(w.y.data);
    for (int64_t f = 0; f < w.f; f += kLanes) {
        const int64_t left = w.f - f;
        vf t[M * N];
        float y[M * M * kLanes];
        for (int j = 0; j < N; j++) {
            vf m[N];
            HR_UNROLL for (int i = 0; i < N; i++) m[i] = load(w.sums + (i * N + j) * w.step + f);
            backward<M>(m, 1, t + j, N);
        }
        const vf bias = e.bias ? load(e.bias + f) : vf{};
        for (int i = 0; i < M; i++) {
            vf v[M];
            backward<M>(t + i * N, 1, v, 1);
            HR_UNROLL for (int j = 0; j < M; j++) {
                const int64_t at = w.at[i * M + j];
                v[j] += bias;
                if (e.residual && at >= 0) v[j] += load_part(e.residual, at + f, left);
                v[j] = vmin(hi, vmax(lo, v[j]));
                if (e.act.kind != Act::none) store(y + (i * M + j) * kLanes, v[j]);
                else if (at >= 0) store_part(to + at + f, left, v[j]);
            }
        }
        if (e.act.kind == Act::none) continue;
        activate_row(e.act, y, M * M * kLanes);
        for (int i = 0; i < M * M; i++)
            if (w.at[i] >= 0) store_part(to + w.at[i] + f, left, load(y + i * kLanes));
    }
}

template <int M> static void output(const WinogradOutput& w) {
#ifdef HR_BF16
    if (w.y.low) return output_of<M, BFloat16>(w);
#endif
    output_of<M, float>(w);
}

// u = G g, for three values `step` apart; u[i * out].
template <int M, class V> HR_INLINE void weights_1d(const V* g, int step, V* u, int out) {
    const V ends = g[0] + g[2 * step], middle = g[step];
    if constexpr (M == 2) {
        u[0] = g[0], u[out] = (ends + middle) / 2.0, u[2 * out] = (ends - middle) / 2.0, u[3 * out] = g[2 * step];
    } else {
        constexpr double root = 1.41421356237309504880;
        const V near = g[0] + g[2 * step] / 2.0, far = g[0] + 2.0 * g[2 * step];
        u[0] = g[0];
        u[out] = (near + middle * (root / 2)) / -1.5, u[2 * out] = (near - middle * (root / 2)) / -1.5;
        u[3 * out] = (far + middle * root) / 6, u[4 * out] = (far - middle * root) / 6;
        u[5 * out] = g[2 * step];
    }
}

// u = G g in float32.
template <int M> HR_INLINE void weights_1d(const vf* g, int step, vf* u, int out) {
    const vf ends = g[0] + g[2 * step], middle = g[step], half = splat(0.5f);
    u[0] = g[0], u[(M + 1) * out] = g[2 * step];
    if constexpr (M == 2) {
        u[out] = (ends + middle) * half, u[2 * out] = (ends - middle) * half;
    } else {
        const vf near = fma(half, g[2 * step], g[0]) * splat(-2.0f / 3), far = fma(splat(2.0f), g[2 * step], g[0]) * splat(1.0f / 6);
        u[out] = fma(splat(-2.0f / 3 * kHalfRoot), middle, near), u[2 * out] = fma(splat(2.0f / 3 * kHalfRoot), middle, near);
        u[3 * out] = fma(splat(kRoot / 6), middle, far), u[4 * out] = fma(splat(-kRoot / 6), middle, far);
    }
}

template <int M> static void panel(const WinogradPanel& w) {
    constexpr int N = M + 2;
    for (int64_t c = 0; c < w.c; c++)
        for (int64_t f = 0; f < w.nr; f += kLanes) {
            vf g[9], rows[N * 3];
            HR_UNROLL for (int t = 0; t < 9; t++) g[t] = load(w.w + (c * 9 + t) * w.nr + f);
            HR_UNROLL for (int t = 0; t < 3; t++) weights_1d<M>(g + t, 3, rows + t, 3);
            float* out = w.out + c * w.nr + f;
            for (int i = 0; i < N; i++, out += N * w.step) {
                vf u[N];
                weights_1d<M>(rows + i * 3, 1, u, 1);
                HR_UNROLL for (int k = 0; k < N; k++) store(out + k * w.step, u[k]);
            }
        }
}

template <int M> static void weights(const WinogradWeights& w) {
    constexpr int N = M + 2, kTogether = 8;     // features
    typedef double Wide __attribute__((vector_size(kTogether * sizeof(double))));
    typedef float Narrow __attribute__((vector_size(kTogether * sizeof(float))));
    for (int64_t f = 0; f < w.features; f += kTogether) {
        const int64_t count = w.features - f < kTogether ? w.features - f : kTogether;
        for (int64_t c = 0; c < w.c; c++) {
            float given[9][kTogether] = {};
            for (int64_t k = 0; k < count; k++)
                for (int t = 0; t < 9; t++) given[t][k] = w.w[((f + k) * w.c + c) * 9 + t];
            Wide g[9], half[N * 3], u[N * N];
            for (int t = 0; t < 9; t++) {
                Narrow one;
                memcpy(&one, given[t], sizeof one);
                g[t] = __builtin_convertvector(one, Wide);
            }
            for (int j = 0; j < 3; j++) weights_1d<M>(g + j, 3, half + j, 3);
            for (int i = 0; i < N; i++) weights_1d<M>(half + i * 3, 1, u + i * N, 1);
            for (int i = 0; i < N * N; i++) {
                const Narrow one = __builtin_convertvector(u[i], Narrow);
                memcpy(w.out + (i * w.c + c) * w.step + f, &one, size_t(count) * sizeof(float));
            }
        }
    }
}

}  // namespace hr::HR_TIER
