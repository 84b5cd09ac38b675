"""Arithmetic and functions element by element, with torch's promotion and broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional import complexes
from headrace.functional.base import (
    _FITS,
    METHODS,
    alias,
    both,
    cast,
    constant,
    convert,
    floating,
    function,
    in_place,
    inplace,
    is_symbolic,
    pair,
    scalar,
    tensor_of,
)
from headrace.tensors import _CATEGORY, Tensor, wrap


def category(x: Any) -> int:
    """0 truth, 1 whole, 2 floating, 3 complex."""
    return _CATEGORY[(x._data if isinstance(x, Tensor) else x).dtype]


def result(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else wrap(x)


# -------------------------------------------------------------------- arithmetic


@inplace
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input + alpha * other."""
    a, b = pair(input, other)
    if alpha != 1:
        b = _scaled(b, alpha)
    return ops.Add(a, b)


@inplace
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input - alpha * other. Truth values are refused."""
    a, b = pair(input, other)
    if category(a) == 0:
        raise RuntimeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. Use the `^` or `logical_xor()` operator instead."
        )
    if alpha != 1:
        b = _scaled(b, alpha)
    return ops.Sub(a, b)


def _scaled(b: Any, alpha: Any) -> Any:
    kind = category(b)
    if isinstance(alpha, float) and kind < 2:
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    if isinstance(alpha, bool) and kind:
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    return ops.Mul(b, constant(alpha, b._data.dtype if isinstance(b, Tensor) else b.dtype))


@both
def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """other - alpha * input."""
    return sub(other, input, alpha=alpha)


@inplace
def mul(input: Any, other: Any) -> Tensor:
    """input * other."""
    a, b = pair(input, other)
    return complexes.multiply(a, b) if category(a) == 3 else ops.Mul(a, b)


@inplace
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other: true division, or rounded toward zero ("trunc") or down ("floor")."""
    a, b = pair(input, other)
    if rounding_mode is None:
        if category(a) < 2:
            a, b = (convert(v, scalar_types.get_default_dtype()) for v in (a, b))
        return complexes.divide(a, b) if category(a) == 3 else ops.Div(a, b)
    if rounding_mode == "trunc":
        return trunc(ops.Div(a, b)) if category(a) >= 2 else _whole_quotient(a, b, down=False)
    if rounding_mode == "floor":
        return _floor_quotient(a, b) if category(a) >= 2 else _whole_quotient(a, b, down=True)
    raise RuntimeError(f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found {rounding_mode!r}")


def _whole_quotient(a: Any, b: Any, down: bool) -> Tensor:
    divisor = b._data if isinstance(b, Tensor) else b
    if isinstance(divisor, np.ndarray) and not np.all(divisor):
        raise RuntimeError("ZeroDivisionError")
    if category(a) == 0:
        a, b = (convert(v, scalar_types.uint8) for v in (a, b))
    return ops.Div(ops.Sub(a, ops.Mod(a, b)), b) if down else ops.Div(a, b)


def _floor_quotient(a: Any, b: Any) -> Tensor:
    """floor(a / b) that agrees with the remainder, as Python's // does."""
    quotient = ops.Div(ops.Sub(a, ops.Mod(a, b)), b)
    rounded = ops.Round(quotient)
    zero = ops.Equal(b, np.zeros((), (b._data if isinstance(b, Tensor) else b).dtype))
    return ops.Where(zero, ops.Div(a, b), rounded)


@both
def floor_divide(input: Any, other: Any) -> Tensor:
    """input // other, rounded down."""
    return div(input, other, rounding_mode="floor")


@inplace
def remainder(input: Any, other: Any) -> Tensor:
    """input % other with the sign of the divisor."""
    a, b = pair(input, other)
    return ops.Mod(a, b)


@inplace
def fmod(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the dividend."""
    a, b = pair(input, other)
    if category(a) < 2 and isinstance(b, np.ndarray) and not np.all(b):
        raise RuntimeError("ZeroDivisionError")
    return ops.Mod(a, b, fmod=1)


@inplace
def pow_(input: Any, exponent: Any) -> Tensor:
    """input ** exponent."""
    if isinstance(input, Tensor) and isinstance(exponent, int | float) and not isinstance(exponent, bool):
        quick = _simple_power(input, exponent)
        if quick is not None:
            return quick
    a, b = pair(input, exponent)
    if category(a) < 2:
        negative = b._data if isinstance(b, Tensor) else b
        if not isinstance(exponent, Tensor) and np.any(negative < 0):
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        return _whole_power(a, b)
    return ops.Pow(a, b)


pow_.__name__ = "pow"


def _simple_power(x: Tensor, exponent: float) -> Tensor | None:
    if exponent == 2:
        return ops.Mul(x, x)
    if exponent == 1 and category(x) >= 2:
        from headrace.functional.shape import copy_of

        return copy_of(x)
    if exponent == 0.5 and category(x) >= 2:
        return ops.Sqrt(x)
    if exponent == -1 and category(x) >= 2:
        return ops.Reciprocal(x)
    return None


def _whole_power(a: Any, b: Any) -> Tensor:
    left, right = (v._data if isinstance(v, Tensor) else v for v in (a, b))
    if type(left) is not np.ndarray or type(right) is not np.ndarray:
        return ops.Pow(a, b)
    with np.errstate(all="ignore"):
        if left.dtype.kind == "b":
            return wrap(left | ~right)
        safe = np.where(right < 0, np.zeros_like(right), right)
        found = np.power(left, safe)
        inverse = (
            np.where(left == 1, 1, np.where(left == -1, np.where(right % 2 == 0, 1, -1), 0))
            if left.dtype.kind == "i"
            else found
        )
        return wrap(np.where(right < 0, inverse, found).astype(left.dtype))


@both
def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent in float64."""
    found = scalar_types.result_type(input, exponent)
    wide = scalar_types.complex128 if found.is_complex else scalar_types.float64
    return ops.Pow(convert(input, wide), convert(exponent, wide))


@inplace
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return add(input, mul(mul(tensor1, tensor2), value) if value != 1 else mul(tensor1, tensor2))


@inplace
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 / tensor2. Integer division is refused."""
    if category(tensor1) < 2 and category(tensor2) < 2:
        raise RuntimeError("Integer division with addcdiv is no longer supported")
    quotient = div(tensor1, tensor2)
    return add(input, mul(quotient, value) if value != 1 else quotient)


@inplace
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight * (end - input)."""
    return add(input, mul(sub(end, input), weight))


@inplace
def neg(input: Tensor) -> Tensor:
    """-input. Truth values are refused."""
    if category(tensor_of(input)) == 0:
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported.")
    return ops.Neg(input) if input._data.dtype.kind != "u" else ops.Sub(scalar(0, input), input)


@both
def positive(input: Tensor) -> Tensor:
    """The tensor itself. Truth values are refused."""
    if category(input) == 0:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


# -------------------------------------------------------------------- functions of one tensor

# torch's name -> the operator; integers become the default float first.
_FLOAT_UNARY = {
    "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh", "atan": "Atan", "atanh": "Atanh", "cos": "Cos", "cosh": "Cosh",
    "erf": "Erf", "exp": "Exp", "log": "Log", "reciprocal": "Reciprocal", "sigmoid": "Sigmoid", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt",
    "tan": "Tan", "tanh": "Tanh", "expm1": "Expm1", "log1p": "Log1p", "erfc": "Erfc", "erfinv": "Erfinv", "lgamma": "Lgamma",
    "digamma": "Digamma", "rsqrt": "Rsqrt", "exp2": "Exp2", "log2": "Log2", "log10": "Log10", "sinc": "Sinc",
}  # fmt: skip


def _unary(name: str, operator: str) -> None:
    def call(input: Tensor) -> Tensor:
        x = input if isinstance(input, Tensor) else tensor_of(input)
        if _CATEGORY[x._data.dtype] < 2:
            x = cast(x, scalar_types.get_default_dtype())
        return getattr(ops, operator)(x)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"{operator} of each element; whole numbers become the default float type first."
    globals()[name] = inplace(call)


for _name, _operator in _FLOAT_UNARY.items():
    _unary(_name, _operator)
alias("acos", "arccos")
alias("acosh", "arccosh")
alias("asin", "arcsin")
alias("asinh", "arcsinh")
alias("atan", "arctan")
alias("atanh", "arctanh")


def _identity_on_integers(name: str, operator: str) -> None:
    def call(input: Tensor) -> Tensor:
        from headrace.functional.shape import copy_of

        x = tensor_of(input)
        if _CATEGORY[x._data.dtype] == 0:
            raise RuntimeError(f'"{name}" not implemented for Bool')
        return getattr(ops, operator)(x) if _CATEGORY[x._data.dtype] >= 2 else copy_of(x)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"{operator} of each element; whole numbers stay as they are."
    globals()[name] = inplace(call)


_identity_on_integers("ceil", "Ceil")
_identity_on_integers("floor", "Floor")


@inplace
def trunc(input: Tensor) -> Tensor:
    """Each element rounded toward zero."""
    if category(input) < 2:
        return positive(input).clone()
    return ops.Mul(ops.Sign(input), ops.Floor(ops.Abs(input))) if not ops.has("Trunc") else ops.Trunc(input)


alias("trunc", "fix")


@inplace
def round_(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Each element rounded, halves to even, to a number of decimals."""
    if category(input) < 2:
        return positive(input).clone()
    if decimals == 0:
        return ops.Round(input)
    factor = scalar(10.0 ** abs(decimals), input)
    return (
        ops.Div(ops.Round(ops.Mul(input, factor)), factor)
        if decimals > 0
        else ops.Mul(ops.Round(ops.Div(input, factor)), factor)
    )


round_.__name__ = "round"


@inplace
def frac(input: Tensor) -> Tensor:
    """input - trunc(input)."""
    return ops.Sub(input, trunc(input))


@inplace
def abs_(input: Tensor) -> Tensor:
    """The absolute value."""
    x = tensor_of(input)
    return complexes.size(x) if category(x) == 3 else ops.Abs(x)


abs_.__name__ = "abs"
alias("abs", "absolute")


@inplace
def square(input: Tensor) -> Tensor:
    """input * input."""
    return ops.Mul(input, input)


@inplace
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return ops.Sign(input) if category(input) else input.clone()


@inplace
def sgn(input: Tensor) -> Tensor:
    """The sign; of a complex number, the number of the same angle and size 1."""
    if category(input) == 3:
        return complexes.direction(input)
    return sign(input)


@both
def signbit(input: Tensor) -> Tensor:
    """Whether the sign bit is set."""
    data = input._data
    if type(data) is np.ndarray:
        return wrap(
            np.signbit(data.astype(np.float32) if data.dtype.kind == "V" else data)
            if data.dtype.kind != "b"
            else np.zeros_like(data)
        )
    return ops.Less(input, scalar(0, input))


@inplace
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians."""
    return mul(floating(input), math.pi / 180.0)


@inplace
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees."""
    return mul(floating(input), 180.0 / math.pi)


@inplace
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), x clamped to [eps, 1 - eps]."""
    x = floating(input)
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    return ops.Log(ops.Div(x, ops.Sub(scalar(1, x), x)))


@inplace
def nan_to_num(
    input: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN replaced by `nan` (0), infinities by the largest and smallest numbers unless given."""
    if category(input) < 2:
        return input.clone()
    info = scalar_types.finfo(input.dtype)
    found = ops.Where(ops.IsNaN(input), scalar(nan or 0.0, input), input)
    found = ops.Where(
        ops.Equal(input, scalar(math.inf, input)), scalar(info.max if posinf is None else posinf, input), found
    )
    return ops.Where(
        ops.Equal(input, scalar(-math.inf, input)), scalar(info.min if neginf is None else neginf, input), found
    )


@both
def isnan(input: Tensor) -> Tensor:
    """Whether NaN."""
    return ops.IsNaN(input) if category(input) == 2 else ne(input, input)


@both
def isinf(input: Tensor) -> Tensor:
    """Whether infinite."""
    if category(input) < 2:
        return _constant_like(input, False)
    return ops.Equal(ops.Abs(input), scalar(math.inf, input))


@both
def isfinite(input: Tensor) -> Tensor:
    """Whether neither infinite nor NaN."""
    if category(input) < 2:
        return _constant_like(input, True)
    return ops.Less(ops.Abs(input), scalar(math.inf, input))


@both
def isposinf(input: Tensor) -> Tensor:
    """Whether +infinity."""
    return ops.Equal(input, scalar(math.inf, input)) if category(input) >= 2 else _constant_like(input, False)


@both
def isneginf(input: Tensor) -> Tensor:
    """Whether -infinity."""
    return ops.Equal(input, scalar(-math.inf, input)) if category(input) >= 2 else _constant_like(input, False)


@both
def isreal(input: Tensor) -> Tensor:
    """Whether the imaginary part is 0."""
    return _constant_like(input, True) if category(input) < 3 else wrap(np.isreal(input._data))


def _constant_like(input: Tensor, value: bool) -> Tensor:
    from headrace.functional.creation import full_like

    return full_like(input, value, dtype=scalar_types.bool_)


# -------------------------------------------------------------------- two tensors


@inplace
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input)."""
    a, b = pair(input, other)
    return ops.Atan2(*(convert(v, scalar_types.get_default_dtype()) if category(a) < 2 else v for v in (a, b)))


alias("atan2", "arctan2")


@both
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two; NaN where one is NaN."""
    a, b = pair(input, other)
    return ops.Max(a, b) if category(a) else logical_or(a, b)


@both
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two; NaN where one is NaN."""
    a, b = pair(input, other)
    return ops.Min(a, b) if category(a) else logical_and(a, b)


@both
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two; the other one where one is NaN."""
    a, b = pair(input, other)
    if category(a) < 2:
        return maximum(a, b)
    return ops.Where(logical_or(isnan(b), ops.GreaterOrEqual(a, b)), a, b)


@both
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two; the other one where one is NaN."""
    a, b = pair(input, other)
    if category(a) < 2:
        return minimum(a, b)
    return ops.Where(logical_or(isnan(b), ops.LessOrEqual(a, b)), a, b)


@inplace
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """sqrt(input² + other²) without overflow."""
    a, b = pair(input, other)
    if ops.has("Hypot"):
        return ops.Hypot(a, b)
    return ops.Sqrt(ops.Add(ops.Mul(a, a), ops.Mul(b, b)))


@both
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """log(exp(input) + exp(other)) without overflow."""
    a, b = pair(input, other)
    high = ops.Max(a, b)
    gap = ops.Neg(ops.Abs(ops.Sub(a, b)))
    found = ops.Add(high, ops.Log1p(ops.Exp(gap)))
    return ops.Where(logical_and(isinf(high), ops.Equal(a, b)), a, found)


@inplace
def copysign(input: Tensor, other: Any) -> Tensor:
    """The size of input with the sign of other."""
    a, b = pair(floating(input), other)
    negative = signbit(b if isinstance(b, Tensor) else wrap(b))
    same = ops.Where(ops.Equal(signbit(a), negative), scalar(1, a), scalar(-1, a))
    return ops.Mul(a, same)


@inplace
def xlogy(input: Any, other: Any) -> Tensor:
    """input * log(other), 0 where input is 0 and other is not NaN."""
    a, b = pair(input, other)
    if category(a) < 2:
        a, b = (convert(v, scalar_types.get_default_dtype()) for v in (a, b))
    zero = scalar(0, result(a))
    off = ops.Equal(a, zero)
    off = logical_and(off, logical_not(isnan(result(b))))
    return ops.Where(off, ops.Mul(zero, result(a)), ops.Mul(a, ops.Log(ops.Where(off, scalar(1, result(a)), b))))


@inplace
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above, `values` at 0."""
    if input.dtype is not values.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    step = ops.Where(ops.Less(input, scalar(0, input)), scalar(0, input), scalar(1, input))
    return ops.Where(ops.Equal(input, scalar(0, input)), values, step)


@inplace
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Each element limited to [min, max]; either bound may be a number, a tensor, or absent."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    present = [v for v in (min, max) if v is not None]
    kind = scalar_types.result_type(input, *present)
    x = convert(input, kind)
    low, high = (None if v is None else convert(v, kind) for v in (min, max))
    if isinstance(low, np.ndarray | None) and isinstance(high, np.ndarray | None) and kind.category:
        return ops.Clip(x, low, high)
    if low is not None:
        x = ops.Where(ops.Less(x, low), low, x) if kind.category else ops.Or(x, low)
    if high is not None:
        x = ops.Where(ops.Greater(x, high), high, x) if kind.category else ops.And(x, high)
    return x


alias("clamp", "clip")


@inplace
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """Each element at least min."""
    return clamp(input, min=min)


@inplace
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """Each element at most max."""
    return clamp(input, max=max)


# -------------------------------------------------------------------- comparison and logic


def _comparison(name: str, operator: str, doc: str) -> Callable[[Any, Any], Tensor]:
    def call(input: Any, other: Any) -> Tensor:
        a, b = pair(input, other)
        if category(a) == 0 and operator != "Equal":
            a, b = convert(result(a), scalar_types.uint8), convert(result(b), scalar_types.uint8)
        return getattr(ops, operator)(a, b)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    globals()[name] = both(call)
    METHODS[f"{name}_"] = in_place(call, name)
    return call


eq = _comparison("eq", "Equal", "input == other")
_comparison("lt", "Less", "input < other")
_comparison("le", "LessOrEqual", "input <= other")
_comparison("gt", "Greater", "input > other")
_comparison("ge", "GreaterOrEqual", "input >= other")


@both
def ne(input: Any, other: Any) -> Tensor:
    """input != other"""
    return ops.Not(eq(input, other))


METHODS["ne_"] = in_place(ne, "ne")
alias("gt", "greater")
alias("ge", "greater_equal")
alias("lt", "less")
alias("le", "less_equal")
alias("ne", "not_equal")


def truth(x: Any) -> Tensor:
    """Whether each element is not 0."""
    x = tensor_of(x)
    return x if category(x) == 0 else cast(x, scalar_types.bool_)


@inplace
def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """Whether both are not 0."""
    return ops.And(truth(input), truth(other))


@inplace
def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """Whether one is not 0."""
    return ops.Or(truth(input), truth(other))


@inplace
def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """Whether exactly one is not 0."""
    return ops.Xor(truth(input), truth(other))


@inplace
def logical_not(input: Tensor) -> Tensor:
    """Whether 0."""
    return ops.Not(truth(input))


def _bitwise(name: str, operator: str, logical: str) -> None:
    def call(input: Any, other: Any) -> Tensor:
        a, b = pair(input, other)
        if category(a) >= 2:
            raise RuntimeError(f'"{name}" not implemented for floating-point tensors')
        return getattr(ops, logical if category(a) == 0 else operator)(a, b)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"{operator} of whole numbers, {logical} of truth values."
    globals()[name] = inplace(call)


_bitwise("bitwise_and", "BitwiseAnd", "And")
_bitwise("bitwise_or", "BitwiseOr", "Or")
_bitwise("bitwise_xor", "BitwiseXor", "Xor")


@inplace
def bitwise_not(input: Tensor) -> Tensor:
    """All bits flipped; of truth values, the other one."""
    if category(input) >= 2:
        raise RuntimeError('"bitwise_not" not implemented for floating-point tensors')
    return ops.Not(input) if category(input) == 0 else ops.BitwiseNot(input)


def _shift(name: str, left: bool) -> None:
    def call(input: Any, other: Any) -> Tensor:
        a, b = pair(input, other)
        if category(a) >= 2:
            raise RuntimeError(f'"{name}" not implemented for floating-point tensors')
        return ops.BitShift(a, b, direction="LEFT" if left else "RIGHT")

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"The bits moved {'left' if left else 'right'}."
    globals()[name] = inplace(call)


_shift("bitwise_left_shift", True)
_shift("bitwise_right_shift", False)


@both
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol * |other|."""
    if input.dtype is not other.dtype:
        raise RuntimeError(f"{input.dtype} did not match {other.dtype}")
    if rtol < 0 or atol < 0:
        raise RuntimeError("rtol and atol must be greater than or equal to zero")
    a, b = input.detach().numpy(), other.detach().numpy()
    if a.dtype.kind == "V":
        a, b = a.astype(np.float32), b.astype(np.float32)
    if a.dtype.kind == "b":
        return wrap(np.asarray(a == b))
    return wrap(np.asarray(np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan)))


@both
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close."""
    return bool(isclose(input, other, rtol, atol, equal_nan)._data.all())


@both
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have one shape and equal elements."""
    if not isinstance(other, Tensor):
        raise TypeError(f"equal(): argument 'other' must be Tensor, not {type(other).__name__}")
    return input._data.shape == other._data.shape and bool(np.all(input.detach().numpy() == other.detach().numpy()))


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """input where condition holds, else other; with one argument, the indices where it holds."""
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if condition.dtype is not scalar_types.bool_ and condition.dtype is not scalar_types.uint8:
        raise RuntimeError(
            f"where expected condition to be a boolean tensor, but got a tensor with dtype {condition.dtype}"
        )
    a, b = pair(input, other)
    return ops.Where(truth(condition), a, b)


function(where)
METHODS["where"] = lambda self, condition, other: where(condition, self, other)


@inplace
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value` where mask holds, else input."""
    if category(mask):
        raise RuntimeError(f"masked_fill only supports boolean masks, but got mask with dtype {mask.dtype}")
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(
                f"masked_fill only supports a 0-dimensional value tensor, but got tensor with {value._data.ndim} dimension(s)."
            )
        if category(value) == 3 and category(input) < 3:
            raise RuntimeError(f"value cannot be converted to type {input.dtype} without overflow")
        return ops.Where(mask, cast(value, input.dtype), input)
    if _FITS[type(value)] == 3 > category(input) or (isinstance(value, float) and category(input) < 2):
        raise RuntimeError(f"value cannot be converted to type {input.dtype} without overflow")
    return ops.Where(mask, scalar(value, input), input)


alias("sub", "subtract")
alias("mul", "multiply")
alias("div", "divide", "true_divide")
alias("neg", "negative")


# -------------------------------------------------------------------- Python's operators


def _python_operator(name: str, call: Any, swap: bool = False) -> None:
    def dunder(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor | bool | int | float | complex | np.ndarray | np.generic) and not is_symbolic(
            other
        ):
            return NotImplemented
        return call(other, self) if swap else call(self, other)

    dunder.__name__ = dunder.__qualname__ = name
    METHODS[name] = dunder


def _matmul(a: Any, b: Any) -> Tensor:
    from headrace.functional.linear import matmul

    return matmul(a, b)


for _name, _call in {
    "add": add, "sub": sub, "mul": mul, "truediv": div, "floordiv": floor_divide, "mod": remainder, "pow": pow_, "matmul": _matmul,
    "and": globals()["bitwise_and"], "or": globals()["bitwise_or"], "xor": globals()["bitwise_xor"],
    "lshift": globals()["bitwise_left_shift"], "rshift": globals()["bitwise_right_shift"],
}.items():  # fmt: skip
    _python_operator(f"__{_name}__", _call)
    _python_operator(f"__r{_name}__", _call, swap=True)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _python_operator(f"__{_name}__", globals()[_name])
METHODS["__rdiv__"] = METHODS["__rtruediv__"]
for _name, _method in {
    "add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_", "mod": "remainder_", "pow": "pow_",
    "and": "bitwise_and_", "or": "bitwise_or_", "xor": "bitwise_xor_", "lshift": "bitwise_left_shift_", "rshift": "bitwise_right_shift_",
}.items():  # fmt: skip
    METHODS[f"__i{_name}__"] = METHODS[_method]
METHODS["__neg__"] = neg
METHODS["__pos__"] = positive
METHODS["__abs__"] = abs_
METHODS["__invert__"] = bitwise_not
