"""Comparison, logic, bits, and choice by truth values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import (
    _FITS,
    METHODS,
    alias,
    both,
    cast,
    category,
    convert,
    function,
    in_place,
    inplace,
    pair,
    result,
    scalar,
    tensor_of,
)
from headrace.tensors import Tensor, wrap


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
