"""Arithmetic with torch's promotion and broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional import complexes
from headrace.functional.base import (
    both,
    category,
    constant,
    convert,
    inplace,
    pair,
    scalar,
    tensor_of,
)
from headrace.tensors import Tensor, wrap


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
        return ops.Trunc(ops.Div(a, b)) if category(a) >= 2 else _whole_quotient(a, b, down=False)
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
