// Elementwise functions by code. The enumerators' names and order are what Python's kernels.codes reads from this text.
#pragma once
#include "hr.cuh"

namespace hr {

enum Unary {
    identity, relu, leaky_relu, sigmoid, tanh_, erf_, gelu, gelu_tanh, exp_, log_, sqrt_, reciprocal, neg, abs_, floor_, ceil_,
    round_, sign, clip, hard_sigmoid, hard_swish, elu, celu, selu, softplus, softsign, swish, mish, sin_, cos_, thresholded_relu,
};

enum Binary { add, sub, mul, div_, pow_, min_, max_, mod_, prelu };

enum Compare { equal, less, less_equal, greater, greater_equal };

enum Logical { and_, or_, xor_, not_ };

HR_DEVICE bool is_nan(float x) { return x != x; }
HR_DEVICE float min_nan(float x, float y) { return is_nan(x) || x < y ? x : y; }    // NaN where either is, as NumPy
HR_DEVICE float max_nan(float x, float y) { return is_nan(x) || x > y ? x : y; }
HR_DEVICE float clamp_nan(float x, float lo, float hi) { return min_nan(max_nan(x, lo), hi); }

HR_DEVICE float logistic(float x) {
    const float e = expf(-fabsf(x));    // of values <= 0: no overflow
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}
HR_DEVICE float soft_plus(float x) { return max_nan(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// a, b: the function's attributes (alpha, beta, or lower and upper bound). sin and cos are not among these: reducing large
// arguments takes stack that every kernel with an epilogue would carry; only unary_f32 has them.
HR_DEVICE float apply_unary(int function, float x, float a, float b) {
    switch (function) {
        case relu: return max_nan(x, 0.0f);
        case leaky_relu: return x < 0 ? x * a : x;
        case sigmoid: return logistic(x);
        case tanh_: return tanhf(x);
        case erf_: return erff(x);
        case gelu: return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
        case gelu_tanh: return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case exp_: return expf(x);
        case log_: return logf(x);
        case sqrt_: return sqrtf(x);
        case reciprocal: return 1 / x;
        case neg: return -x;
        case abs_: return fabsf(x);
        case floor_: return floorf(x);
        case ceil_: return ceilf(x);
        case round_: return rintf(x);
        case sign: return is_nan(x) ? x : float((x > 0) - (x < 0));
        case clip: return clamp_nan(x, a, b);
        case hard_sigmoid: return clamp_nan(x * a + b, 0.0f, 1.0f);
        case hard_swish: return x * clamp_nan(x * (1.0f / 6) + 0.5f, 0.0f, 1.0f);
        case elu: return x > 0 ? x : a * expm1f(x);
        case celu: return max_nan(x, 0.0f) + min_nan(a * expm1f(x / a), 0.0f);
        case selu: return b * (x > 0 ? x : a * expm1f(x));
        case softplus: return soft_plus(x);
        case softsign: return x / (1 + fabsf(x));
        case swish: return x * logistic(x * a);
        case mish: return x * tanhf(soft_plus(x));
        case thresholded_relu: return x > a ? x : 0;
        default: return x;
    }
}

HR_DEVICE float apply_binary(int function, float x, float y) {
    switch (function) {
        case add: return x + y;
        case sub: return x - y;
        case mul: return x * y;
        case div_: return x / y;
        case pow_: return powf(x, y);
        case min_: return min_nan(x, y);
        case max_: return max_nan(x, y);
        case mod_: return fmodf(x, y);
        default: return x < 0 ? x * y : x;    // prelu
    }
}

// Integers: quotients are cut, remainders have the sign of the divisor, as ONNX says; by zero: 0.
template <class T> HR_DEVICE T apply_binary(int function, T x, T y) {
    switch (function) {
        case add: return x + y;
        case sub: return x - y;
        case mul: return x * y;
        case div_: return y == 0 ? 0 : y == -1 ? -x : x / y;
        case min_: return x < y ? x : y;
        case max_: return x > y ? x : y;
        case mod_: {
            const T r = y == 0 || y == -1 ? 0 : x % y;
            return r != 0 && (r < 0) != (y < 0) ? r + y : r;
        }
        default: {    // pow_
            T power = y < 0 ? T(x == 1) : T(1);
            for (; y > 0; y >>= 1, x *= x)
                if (y & 1) power *= x;
            return power;
        }
    }
}

template <class T> HR_DEVICE bool apply_compare(int function, T x, T y) {
    switch (function) {
        case equal: return x == y;
        case less: return x < y;
        case less_equal: return x <= y;
        case greater: return x > y;
        default: return x >= y;
    }
}

}  // namespace hr
