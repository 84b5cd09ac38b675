"""Functions of the elements of two tensors, and limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import (
    alias,
    both,
    category,
    convert,
    floating,
    inplace,
    pair,
    result,
    scalar,
)
from headrace.functional.logic import logical_and, logical_not, logical_or
from headrace.functional.unary import isinf, isnan, signbit
from headrace.tensors import Tensor, wrap


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
