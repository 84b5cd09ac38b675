// The convolution family's leaf kernels. With HR_BF16 rows and results may be bf16 as well; sums are float32.
#pragma once
#include "kernels/conv/conv.h"
#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/bf16.inc.h"

namespace hr::HR_TIER {

// The first n values of a vector, the missing ones zero.
template <class X> HR_INLINE vf load_part(const X* p, int64_t n) {
    if (n >= kLanes) return load(p);
    X some[kLanes] = {};
    memcpy(some, p, size_t(n) * sizeof(X));
    return load(some);
}
HR_INLINE vf load_part(const Reals& r, int64_t i, int64_t n) {
#ifdef HR_BF16
    if (r.low) return load_part(static_cast<const BFloat16*>(r.data) + i, n);
#endif
    return load_part(static_cast<const float*>(r.data) + i, n);
}
template <class Y> HR_INLINE void store_part(Y* p, int64_t n, vf v) {
    if (n >= kLanes) return store(p, v);
    Y some[kLanes];
    store(some, v);
    memcpy(p, some, size_t(n) * sizeof(Y));
}

// Where pointers to values are X*, of float or BFloat16: the first vector at channel c.
template <class X> HR_INLINE vf load_at(const void* row, int64_t c) { return load(static_cast<const X*>(row) + c); }

// A row of V vectors through an activation that is no clamp.
template <int V, class Y> HR_INLINE void finish_row(const Activation& act, const vf (&acc)[V], Y* out) {
    alignas(64) float y[V * kLanes];
    HR_UNROLL for (int j = 0; j < V; j++) store(y + j * kLanes, acc[j]);
    activate_row(act, y, V * kLanes);
    HR_UNROLL for (int j = 0; j < V; j++) store(out + j * kLanes, load(y + j * kLanes));
}

// The sums of P pixels by V vectors of channels begin with the bias.
template <int P, int V> HR_INLINE void depthwise_start(const DepthwiseBlock& d, vf (&acc)[P][V], int64_t c) {
    HR_UNROLL for (int j = 0; j < V; j++) {
        const vf start = d.epilogue.bias ? load(d.epilogue.bias + c + j * kLanes) : vf{};
        HR_UNROLL for (int i = 0; i < P; i++) acc[i][j] = start;
    }
}

// What becomes of them.
template <int P, int V, class Y>
HR_INLINE void depthwise_finish(const DepthwiseBlock& d, vf (&acc)[P][V], int64_t m, int64_t c) {
    const Epilogue& e = d.epilogue;
    Y* out = static_cast<Y*>(d.out.data) + m * d.ldo + c;
    const int64_t ldo = d.ldo;
    if (e.residual) {
        const Reals r = e.residual + (m * e.ldr + c);
        HR_UNROLL for (int i = 0; i < P; i++) HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] += load(r, i * e.ldr + j * kLanes);
    }
    const vf lo = splat(e.act.lo), hi = splat(e.act.hi);
    HR_UNROLL for (int i = 0; i < P; i++) HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = vmin(hi, vmax(lo, acc[i][j]));
    if (e.act.kind == Act::none) {
        HR_UNROLL for (int i = 0; i < P; i++) store_row(out + i * ldo, acc[i]);
    } else {
        HR_UNROLL for (int i = 0; i < P; i++) finish_row(e.act, acc[i], out + i * ldo);
    }
}

// Every weight that is loaded serves P products.
template <int P, int V, class X, class Y> static void depthwise_tile(const DepthwiseBlock& d, int64_t m, int64_t c) {
    const float* w = d.w + c;
    vf acc[P][V];
    depthwise_start(d, acc, c);
    for (int64_t l = 0; l < d.lines; l++)
        for (int64_t t = 0; t < d.taps; t++, w += d.ldw) {
            const void* const* columns = d.columns + l * d.stride + m * d.step + t;
            vf wv[V];
            HR_UNROLL for (int j = 0; j < V; j++) wv[j] = load(w + j * kLanes);
            HR_UNROLL for (int i = 0; i < P; i++)
                HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = fma(load_at<X>(columns[i * d.step], c + j * kLanes), wv[j], acc[i][j]);
        }
    depthwise_finish<P, V, Y>(d, acc, m, c);
}

// T taps a line, S columns from one pixel to the next: a column that several pixels see is loaded once. The same order of products.
template <int T, int S, int P, int V, class X, class Y> static void depthwise_window(const DepthwiseBlock& d, int64_t m, int64_t c) {
    const float* w = d.w + c;
    vf acc[P][V];
    depthwise_start(d, acc, c);
    const void* const* columns = d.columns + m * S;
    for (int64_t l = 0; l < d.lines; l++, w += T * d.ldw, columns += d.stride) {
        vf wv[T][V];
        HR_UNROLL for (int k = 0; k < T; k++) HR_UNROLL for (int j = 0; j < V; j++) wv[k][j] = load(w + k * d.ldw + j * kLanes);
        HR_UNROLL for (int column = 0; column < S * (P - 1) + T; column++) {
            vf xv[V];
            HR_UNROLL for (int j = 0; j < V; j++) xv[j] = load_at<X>(columns[column], c + j * kLanes);
            HR_UNROLL for (int i = 0; i < P; i++)
                HR_UNROLL for (int k = 0; k < T; k++)
                    if (S * i + k == column) HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = fma(xv[j], wv[k][j], acc[i][j]);
        }
    }
    depthwise_finish<P, V, Y>(d, acc, m, c);
}

// Channels beyond the last whole vector, one by one; the same chain of multiply-adds in a vector's first lane.
template <class X, class Y> static void depthwise_tail(const DepthwiseBlock& d, int64_t m, int64_t c) {
    const int64_t width = d.c - c;
    const Epilogue& e = d.epilogue;
    X x[kLanes] = {};
    Y y[kLanes];
    vf acc[1] = {e.bias ? load(e.bias + c) : vf{}};
    const float* w = d.w + c;
    for (int64_t l = 0; l < d.lines; l++)
        for (int64_t t = 0; t < d.taps; t++, w += d.ldw) {
            memcpy(x, static_cast<const X*>(d.columns[l * d.stride + m * d.step + t]) + c, size_t(width) * sizeof(X));
            acc[0] = fma(load(x), load(w), acc[0]);
        }
    if (e.residual) {
        float r[kLanes] = {};
        memcpy(r, (e.residual + (m * e.ldr + c)).data, size_t(width * (e.residual.low ? 2 : 4)));
        acc[0] += load(Reals(r, e.residual.low), 0);
    }
    acc[0] = vmin(splat(e.act.hi), vmax(splat(e.act.lo), acc[0]));
    if (e.act.kind != Act::none) finish_row(e.act, acc, y);
    else store(y, acc[0]);
    memcpy(static_cast<Y*>(d.out.data) + m * d.ldo + c, y, size_t(width) * sizeof(Y));
}

// Tiles of P pixels by one vector of channels and by two.
struct DepthwiseTiles {
    int pixels;
    void (*one)(const DepthwiseBlock&, int64_t, int64_t);
    void (*two)(const DepthwiseBlock&, int64_t, int64_t);
};
// Pixels of the widest tile: sums, weights of a line, a column. Common widths are multiples of seven.
constexpr int kWidest = HR_TIER_RANK >= 2 ? 7 : 4;

// Channels in stripes of 256 bytes a pixel, so that the columns of a window stay in L1 for all the windows they belong to.
template <class X, class Y> static void depthwise_tiles(const DepthwiseBlock& d, const DepthwiseTiles* tiles) {
    constexpr int64_t kStripe = 256 / sizeof(X);
    for (int64_t c0 = 0; c0 < d.c; c0 += kStripe) {
        const int64_t c1 = d.c < c0 + kStripe ? d.c : c0 + kStripe;
        for (int64_t m = 0; m < d.m;) {
            const DepthwiseTiles* tile = tiles;
            while (tile->pixels > d.m - m || (tile->pixels == 7 && d.m - m == 8)) tile++;
            int64_t c = c0;
            for (; c + 2 * kLanes <= c1; c += 2 * kLanes) tile->two(d, m, c);
            if (c + kLanes <= c1) tile->one(d, m, c), c += kLanes;
            for (int64_t i = 0; c < c1 && i < tile->pixels; i++) depthwise_tail<X, Y>(d, m + i, c);
            m += tile->pixels;
        }
    }
}

template <int T, int S, class X, class Y> static void depthwise_windows(const DepthwiseBlock& d) {
    static constexpr DepthwiseTiles tiles[] = {{kWidest, depthwise_window<T, S, kWidest, 1, X, Y>, depthwise_window<T, S, kWidest, 2, X, Y>},
                                               {4, depthwise_window<T, S, 4, 1, X, Y>, depthwise_window<T, S, 4, 2, X, Y>},
                                               {2, depthwise_window<T, S, 2, 1, X, Y>, depthwise_window<T, S, 2, 2, X, Y>},
                                               {1, depthwise_tile<1, 1, X, Y>, depthwise_tile<1, 2, X, Y>}};
    depthwise_tiles<X, Y>(d, tiles);
}

template <class X, class Y> static void depthwise_of(const DepthwiseBlock& d) {
    static constexpr DepthwiseTiles tiles[] = {{4, depthwise_tile<4, 1, X, Y>, depthwise_tile<4, 2, X, Y>}, {1, depthwise_tile<1, 1, X, Y>, depthwise_tile<1, 2, X, Y>}};
    if (d.taps == 3 && d.step == 1) depthwise_windows<3, 1, X, Y>(d);
    else if (d.taps == 3 && d.step == 2) depthwise_windows<3, 2, X, Y>(d);
    else if (d.taps == 5 && d.step == 1) depthwise_windows<5, 1, X, Y>(d);
    else if (d.taps == 5 && d.step == 2) depthwise_windows<5, 2, X, Y>(d);
    else depthwise_tiles<X, Y>(d, tiles);
}

static void depthwise(const DepthwiseBlock& d) {
#ifdef HR_BF16
    if (d.low && d.out.low) return depthwise_of<BFloat16, BFloat16>(d);
    if (d.low) return depthwise_of<BFloat16, float>(d);
    if (d.out.low) return depthwise_of<float, BFloat16>(d);
#endif
    depthwise_of<float, float>(d);
}

// Rows reduced vector by vector; `whole(pointers at c)` for whole vectors, the tail through a copy.
static void max_f32(const void* const* rows, int64_t n, int64_t c, float* out) {
    const auto greater = [](vf a, vf b) __attribute__((always_inline)) { return select((vi)(b != b), b, vmax(b, a)); };
    int64_t i = 0;
    for (; i + 2 * kLanes <= c; i += 2 * kLanes) {
        const float* first = static_cast<const float*>(rows[0]) + i;
        vf a = load(first), b = load(first + kLanes);
        for (int64_t r = 1; r < n; r++) {
            const float* x = static_cast<const float*>(rows[r]) + i;
            a = greater(a, load(x)), b = greater(b, load(x + kLanes));
        }
        store(out + i, a), store(out + i + kLanes, b);
    }
    for (; i < c; i++) {
        float a = static_cast<const float*>(rows[0])[i];
        for (int64_t r = 1; r < n; r++) {
            const float x = static_cast<const float*>(rows[r])[i];
            a = x != x || x > a ? x : a;    // once a is NaN no comparison is true
        }
        out[i] = a;
    }
}

static void sum_f32(const void* const* rows, int64_t n, int64_t c, float divisor, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= c; i += kLanes) {
        vf a = {};
        for (int64_t r = 0; r < n; r++) a += load(static_cast<const float*>(rows[r]) + i);
        store(out + i, a / splat(divisor));
    }
    for (; i < c; i++) {
        float a = 0;
        for (int64_t r = 0; r < n; r++) a += static_cast<const float*>(rows[r])[i];
        out[i] = a / divisor;
    }
}

#ifdef HR_BF16
static void max_bf16(const void* const* rows, int64_t n, int64_t c, BFloat16* out) {
    for (int64_t i = 0; i < c; i += kLanes) {
        vf a = load_part(static_cast<const BFloat16*>(rows[0]) + i, c - i);
        for (int64_t r = 1; r < n; r++) {
            const vf b = load_part(static_cast<const BFloat16*>(rows[r]) + i, c - i);
            a = select((vi)(b != b), b, vmax(b, a));
        }
        store_part(out + i, c - i, a);
    }
}

static void sum_bf16(const void* const* rows, int64_t n, int64_t c, float divisor, BFloat16* out) {
    for (int64_t i = 0; i < c; i += kLanes) {
        vf a = {};
        for (int64_t r = 0; r < n; r++) a += load_part(static_cast<const BFloat16*>(rows[r]) + i, c - i);
        store_part(out + i, c - i, a / splat(divisor));
    }
}
#endif

template <class T> static void max_int(const void* const* rows, int64_t n, int64_t c, T* out) {
    memcpy(out, rows[0], size_t(c));
    for (int64_t r = 1; r < n; r++) {
        const T* x = static_cast<const T*>(rows[r]);
        for (int64_t i = 0; i < c; i++) out[i] = x[i] > out[i] ? x[i] : out[i];
    }
}

static void gather(const void* const* rows, int64_t n, int64_t c, const float* bias, const Activation& act, float* out) {
    for (int64_t i = 0; i < c; i++) out[i] = bias ? bias[i] : 0.0f;
    for (int64_t r = 0; r < n; r++) {
        const float* x = static_cast<const float*>(rows[r]);
        for (int64_t i = 0; i < c; i++) out[i] += x[i];
    }
    for (int64_t i = 0; i < c; i++) {
        const float x = out[i] < act.lo ? act.lo : out[i];
        out[i] = x > act.hi ? act.hi : x;
    }
    if (act.kind != Act::none) activate_row(act, out, c);
}

}  // namespace hr::HR_TIER
