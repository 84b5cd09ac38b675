"""Functions of each element of one tensor."""

from __future__ import annotations

import math

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional import complexes
from headrace.functional.arithmetic import mul, positive
from headrace.functional.base import (
    alias,
    both,
    cast,
    category,
    floating,
    inplace,
    scalar,
    tensor_of,
)
from headrace.functional.logic import ne
from headrace.tensors import _CATEGORY, Tensor, wrap

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
        x = ops.Clip(x, scalar(eps, x), scalar(1 - eps, x))
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
