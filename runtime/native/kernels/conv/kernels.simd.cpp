// The convolution family's leaf kernels, built once for every tier.
#include "kernels/conv/conv.h"
#include "kernels/gemm/activation.inc.h"
#include "kernels/gemm/simd.h"

namespace hr::HR_TIER {

// What becomes of the sums of P pixels by V vectors of channels.
template <int P, int V>
HR_INLINE void depthwise_finish(const DepthwiseBlock& d, vf (&acc)[P][V], const float* bias, float* out, const float* r) {
    const Epilogue& e = d.epilogue;
    const vf lo = splat(e.act.lo), hi = splat(e.act.hi);
    HR_UNROLL for (int i = 0; i < P; i++) {
        HR_UNROLL for (int j = 0; j < V; j++) {
            if (bias) acc[i][j] += load(bias + j * kLanes);
            if (r) acc[i][j] += load(r + i * e.ldr + j * kLanes);
            store(out + i * d.ldo + j * kLanes, vmin(hi, vmax(lo, acc[i][j])));
        }
        if (e.act.kind != Act::none) activate_row(e.act, out + i * d.ldo, V * kLanes);
    }
}

// Every weight that is loaded serves P products.
template <int P, int V>
static void depthwise_tile(const DepthwiseBlock& d, int64_t m, int64_t c, const float* w, const float* bias, float* out, const float* r) {
    vf acc[P][V];
    HR_UNROLL for (int i = 0; i < P; i++) HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = vf{};
    for (int64_t t = 0; t < d.taps; t++, w += d.ldw) {
        const void* const* rows = d.rows + t * d.stride + m;
        vf wv[V];
        HR_UNROLL for (int j = 0; j < V; j++) wv[j] = load(w + j * kLanes);
        HR_UNROLL for (int i = 0; i < P; i++) {
            const float* x = static_cast<const float*>(rows[i]) + c;
            HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = fma(load(x + j * kLanes), wv[j], acc[i][j]);
        }
    }
    depthwise_finish(d, acc, bias, out, r);
}

// Four pixels of a row, 3 x 3 taps S apart: a column that several of them see is loaded once. The same order of products.
template <int S, int V>
static void depthwise_square(const DepthwiseBlock& d, int64_t m, int64_t c, const float* w, const float* bias, float* out, const float* r) {
    constexpr int P = 4;
    vf acc[P][V];
    HR_UNROLL for (int i = 0; i < P; i++) HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = vf{};
    for (int64_t t = 0; t < 9; t += 3, w += 3 * d.ldw) {
        vf wv[3][V];
        HR_UNROLL for (int k = 0; k < 3; k++) HR_UNROLL for (int j = 0; j < V; j++) wv[k][j] = load(w + k * d.ldw + j * kLanes);
        HR_UNROLL for (int column = 0; column < S * (P - 1) + 3; column++) {
            // Any tap that looks at this column knows where it lies: that of the first pixel that can.
            const int first = column < 3 ? 0 : (column - 3) / S + 1;
            const float* x = static_cast<const float*>(d.rows[(t + column - S * first) * d.stride + m + first]) + c;
            vf xv[V];
            HR_UNROLL for (int j = 0; j < V; j++) xv[j] = load(x + j * kLanes);
            HR_UNROLL for (int i = 0; i < P; i++)
                HR_UNROLL for (int k = 0; k < 3; k++)
                    if (S * i + k == column) HR_UNROLL for (int j = 0; j < V; j++) acc[i][j] = fma(xv[j], wv[k][j], acc[i][j]);
        }
    }
    depthwise_finish(d, acc, bias, out, r);
}

// Channels beyond the last whole vector, one by one; the same chain of multiply-adds in a vector's first lane.
static void depthwise_tail(const DepthwiseBlock& d, int64_t m, int64_t c) {
    const int64_t width = d.c - c;
    const Epilogue& e = d.epilogue;
    float x[kLanes] = {}, y[kLanes];
    vf acc = {};
    for (int64_t t = 0; t < d.taps; t++) {
        memcpy(x, static_cast<const float*>(d.rows[t * d.stride + m]) + c, size_t(width) * 4);
        acc = fma(load(x), load(d.w + t * d.ldw + c), acc);
    }
    if (e.bias) acc += load(e.bias + c);
    if (e.residual) {
        memcpy(x, e.residual + m * e.ldr + c, size_t(width) * 4);
        acc += load(x);
    }
    store(y, vmin(splat(e.act.hi), vmax(splat(e.act.lo), acc)));
    if (e.act.kind != Act::none) activate_row(e.act, y, width);
    memcpy(d.out + m * d.ldo + c, y, size_t(width) * 4);
}

// Channels in stripes of 256 bytes a pixel, so that the rows of a window stay in L1 for all the windows they belong to.
static void depthwise(const DepthwiseBlock& d) {
    constexpr int64_t kStripe = 64;
    const Epilogue& e = d.epilogue;
    for (int64_t c0 = 0; c0 < d.c; c0 += kStripe) {
        const int64_t c1 = d.c < c0 + kStripe ? d.c : c0 + kStripe;
        for (int64_t m = 0; m < d.m;) {
            const bool four = d.m - m >= 4;
            int64_t c = c0;
            for (; c + kLanes <= c1;) {
                const bool two = c + 2 * kLanes <= c1;
                const float* w = d.w + c;
                const float* bias = e.bias ? e.bias + c : nullptr;
                const float* r = e.residual ? e.residual + m * e.ldr + c : nullptr;
                float* out = d.out + m * d.ldo + c;
                const bool row = four && d.step && (d.first + m) % d.width + 4 <= d.width;
                if (row && d.step == 1) two ? depthwise_square<1, 2>(d, m, c, w, bias, out, r) : depthwise_square<1, 1>(d, m, c, w, bias, out, r);
                else if (row) two ? depthwise_square<2, 2>(d, m, c, w, bias, out, r) : depthwise_square<2, 1>(d, m, c, w, bias, out, r);
                else if (four) two ? depthwise_tile<4, 2>(d, m, c, w, bias, out, r) : depthwise_tile<4, 1>(d, m, c, w, bias, out, r);
                else two ? depthwise_tile<1, 2>(d, m, c, w, bias, out, r) : depthwise_tile<1, 1>(d, m, c, w, bias, out, r);
                c += two ? 2 * kLanes : kLanes;
            }
            for (int64_t i = 0; c < c1 && i < (four ? 4 : 1); i++) depthwise_tail(d, m + i, c);
            m += four ? 4 : 1;
        }
    }
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

extern const ConvTable conv_kernels;
#define HR_TEXT2(x) #x
#define HR_TEXT(x) HR_TEXT2(x)
const ConvTable conv_kernels = {HR_TEXT(HR_TIER), kLanes, depthwise, max_f32, sum_f32, max_int<uint8_t>, max_int<int8_t>, gather};

}  // namespace hr::HR_TIER
