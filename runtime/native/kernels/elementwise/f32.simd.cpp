// float32 elementwise kernels of one tier; float16 and bfloat16 run them on converted chunks.
#include "half.h"
#include "kernels/elementwise/rows.inc.h"
#include "kernels/elementwise/vector_math.inc.h"

namespace hr::HR_TIER {
namespace {

// Runs F on whole vectors; the tail goes through a padded vector: the same code, the same bits at any length.
template <class F>
void vector_row(const Row& row) {
    const F f(row.f);
    const float* x = static_cast<const float*>(row.in[0]);
    float* y = static_cast<float*>(row.out);
    if (!row.moves[0]) {
        float value[kLanes];
        store(value, f(splat(x[0])));
        for (int64_t i = 0; i < row.n; i++) y[i] = value[0];
        return;
    }
    int64_t i = 0;
    for (; i + kLanes <= row.n; i += kLanes) store(y + i, f(load(x + i)));
    if (i < row.n) {
        float tail[kLanes] = {};
        std::memcpy(tail, x + i, size_t(row.n - i) * 4);
        store(tail, f(load(tail)));
        std::memcpy(y + i, tail, size_t(row.n - i) * 4);
    }
}

#define HR_VECTOR(name, expression) \
    struct name { explicit name(const double*) {} vf operator()(vf x) const { return expression; } }
HR_VECTOR(VExp, exp(x));
HR_VECTOR(VLog, log(x));
HR_VECTOR(VErf, erf(x));
HR_VECTOR(VTanh, tanh(x));
HR_VECTOR(VSigmoid, sigmoid(x));
HR_VECTOR(VSoftplus, softplus(x));
HR_VECTOR(VMish, x * tanh(softplus(x)));
HR_VECTOR(VGelu, gelu(x));
HR_VECTOR(VGeluTanh, splat(0.5f) * x * (splat(1.0f) + tanh(splat(0.79788456080286536f) * (x + splat(0.044715f) * x * x * x))));
HR_VECTOR(VSoftsign, x / (splat(1.0f) + (vf)((vi)x & 0x7fffffff)));
struct VSwish {
    float alpha;
    explicit VSwish(const double* f) : alpha(float(f[0])) {}
    vf operator()(vf x) const { return x * sigmoid(x * splat(alpha)); }
};
struct VElu {
    float alpha;
    explicit VElu(const double* f) : alpha(float(f[0])) {}
    vf operator()(vf x) const { return select((vi)(x > vf{}), x, splat(alpha) * expm1(vmin(vf{}, x))); }
};
struct VSelu {
    VElu elu;
    float gamma;
    explicit VSelu(const double* f) : elu(f), gamma(float(f[1])) {}
    vf operator()(vf x) const { return splat(gamma) * elu(x); }
};
struct VCelu {
    float alpha;
    explicit VCelu(const double* f) : alpha(float(f[0])) {}
    vf operator()(vf x) const { return select((vi)(x > vf{}), x, splat(alpha) * expm1(vmin(vf{}, x / splat(alpha)))); }
};

// bfloat16 as bits, a vector at a time; rounded to nearest even as to_bfloat16 does.
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));
HR_INLINE vf widened(const BFloat16* p) {
    vh bits;
    std::memcpy(&bits, p, sizeof bits);
    return (vf)(__builtin_convertvector(bits, vi) << 16);
}
HR_INLINE void narrowed(BFloat16* p, vf x) {
    const vi u = (vi)x, rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    const vi whole = (vi)(x != x) ? ((u >> 16 & 0x8000) | 0x7fc0) : rounded;
    const vh bits = __builtin_convertvector(whole, vh);
    std::memcpy(p, &bits, sizeof bits);
}

// A row of bfloat16 by the row of float32, chunk by chunk.
void bf16_row(const Row& row) {
    constexpr int64_t kChunk = 1024;
    alignas(64) float wide[kMaxOperands][kChunk], result[kChunk];
    const RowFn inner = reinterpret_cast<RowFn>(const_cast<void*>(row.inner));
    const int operands = row.in[2] ? 3 : row.in[1] ? 2 : 1;
    for (int64_t at = 0; at < row.n; at += kChunk) {
        Row part = row;
        part.n = row.n - at < kChunk ? row.n - at : kChunk, part.out = result;
        for (int k = 0; k < operands; k++) {
            const BFloat16* x = static_cast<const BFloat16*>(row.in[k]) + (row.moves[k] ? at : 0);
            const int64_t n = row.moves[k] ? part.n : 1;
            int64_t i = 0;
            for (; i + kLanes <= n; i += kLanes) store(wide[k] + i, widened(x + i));
            for (; i < n; i++) wide[k][i] = to_float(x[i]);
            part.in[k] = wide[k];
        }
        inner(part);
        BFloat16* y = static_cast<BFloat16*>(row.out) + at;
        int64_t i = 0;
        for (; i + kLanes <= part.n; i += kLanes) narrowed(y + i, load(result + i));
        for (; i < part.n; i++) y[i] = to_bfloat16(result[i]);
    }
}

std::unique_ptr<Kernel> finish(const NodeInfo& node, RowFn row, std::vector<double> f, int operands, int64_t grain, bool variadic = false) {
    const DType dtype = node.inputs[0];
    for (DType other : node.inputs)
        if (other != dtype) return nullptr;
    Elementwise what;
    what.operands = operands, what.row = row, what.f = std::move(f), what.grain = grain, what.variadic = variadic;
    if (node.outputs[0] == DType::boolean) what.out = DType::boolean;
    if (dtype != DType::f32) {
        if (variadic && node.inputs.size() > 2) return nullptr;     // rounds once, at the end
        if (!widen_row(dtype, what.out, what)) return nullptr;
        if (dtype == DType::bf16 && what.out != DType::boolean) what.row = bf16_row;
    }
    what.shaped_like_first = node.op == "PRelu";
    what.variant = std::string("elementwise_") + (dtype == DType::f32 ? "f32_" : "narrow_") + tier_name();
    return make_elementwise(node, std::move(what));
}

template <template <class> class F>
std::unique_ptr<Kernel> binary(const NodeInfo& node) {
    return finish(node, binary_for<F, float>(DType::f32), {}, 2, 16384);
}
template <template <class> class F>
std::unique_ptr<Kernel> folded(const NodeInfo& node) {
    return finish(node, binary_for<F, float>(DType::f32), {}, 2, 16384, true);
}
template <template <class> class F>
std::unique_ptr<Kernel> unary(const NodeInfo& node) {
    return finish(node, unary_for<F, float>(DType::f32), numbers(node, {{"alpha", 0}, {"beta", 0}}), 1, 16384);
}
template <class F>
std::unique_ptr<Kernel> vector(const NodeInfo& node) {
    return finish(node, vector_row<F>, numbers(node, {{"alpha", 1}, {"gamma", 1}}), 1, 4096);
}
std::unique_ptr<Kernel> gelu(const NodeInfo& node) {
    return node.s("approximate", "none") == "tanh" ? vector<VGeluTanh>(node) : vector<VGelu>(node);
}

// x to a power: constant 2 and 3 are products, 1/2 is a root, the rest is the C library's.
template <class T> struct Pow : Plain { using Plain::Plain; T operator()(T a, T b) const { return std::pow(a, b); } };
void power_row(const Row& row) {
    const float* x = static_cast<const float*>(row.in[0]);
    float* y = static_cast<float*>(row.out);
    const float p = *static_cast<const float*>(row.in[1]);
    if (row.moves[1] || !row.moves[0] || (p != 2 && p != 3 && p != 0.5f)) return binary_row<float, float, Pow<float>>(row);
    if (p == 2) {
#pragma GCC ivdep
        for (int64_t i = 0; i < row.n; i++) y[i] = x[i] * x[i];
    } else if (p == 3) {
#pragma GCC ivdep
        for (int64_t i = 0; i < row.n; i++) y[i] = x[i] * x[i] * x[i];
    } else {
#pragma GCC ivdep
        for (int64_t i = 0; i < row.n; i++) y[i] = x[i] == -std::numeric_limits<float>::infinity() ? -x[i] : std::sqrt(x[i] + 0.0f);
    }
}
std::unique_ptr<Kernel> power(const NodeInfo& node) { return finish(node, power_row, {}, 2, 1024); }

HR_KERNEL("Add", binary<Add>);
HR_KERNEL("Sub", binary<Sub>);
HR_KERNEL("Mul", binary<Mul>);
HR_KERNEL("Div", binary<Div>);
HR_KERNEL("Pow", power);
HR_KERNEL("PRelu", binary<PRelu>);
HR_KERNEL("Sum", folded<Add>);
HR_KERNEL("Max", folded<Max>);
HR_KERNEL("Min", folded<Min>);
HR_KERNEL("Equal", binary<Equal>);
HR_KERNEL("Less", binary<Less>);
HR_KERNEL("LessOrEqual", binary<LessOrEqual>);
HR_KERNEL("Greater", binary<Greater>);
HR_KERNEL("GreaterOrEqual", binary<GreaterOrEqual>);
HR_KERNEL("Abs", unary<Abs>);
HR_KERNEL("Neg", unary<Neg>);
HR_KERNEL("Sign", unary<Sign>);
HR_KERNEL("Relu", unary<Relu>);
HR_KERNEL("Sqrt", unary<Sqrt>);
HR_KERNEL("Reciprocal", unary<Reciprocal>);
HR_KERNEL("Floor", unary<Floor>);
HR_KERNEL("Ceil", unary<Ceil>);
HR_KERNEL("Round", unary<Round>);
HR_KERNEL("IsNaN", unary<IsNaN>);
HR_KERNEL("LeakyRelu", unary<LeakyRelu>);
HR_KERNEL("ThresholdedRelu", unary<ThresholdedRelu>);
HR_KERNEL("HardSigmoid", unary<HardSigmoid>);
HR_KERNEL("HardSwish", unary<HardSwish>);
HR_KERNEL("Exp", vector<VExp>);
HR_KERNEL("Log", vector<VLog>);
HR_KERNEL("Erf", vector<VErf>);
HR_KERNEL("Tanh", vector<VTanh>);
HR_KERNEL("Sigmoid", vector<VSigmoid>);
HR_KERNEL("Softplus", vector<VSoftplus>);
HR_KERNEL("Mish", vector<VMish>);
HR_KERNEL("Softsign", vector<VSoftsign>);
HR_KERNEL("Swish", vector<VSwish>);
HR_KERNEL("Elu", vector<VElu>);
HR_KERNEL("Selu", vector<VSelu>);
HR_KERNEL("Celu", vector<VCelu>);
HR_KERNEL("Gelu", gelu);

}  // namespace
}  // namespace hr::HR_TIER
