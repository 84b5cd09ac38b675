"""Binary operators with NumPy broadcasting, one row each. Gradients are for the broadcast inputs; the table sums them back."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.runtime import dtypes, shapes
from headrace.runtime.ops.base import REQUIRED, Attr
from headrace.runtime.ops.common import is_float
from headrace.runtime.ops.elementwise.legacy import LegacyBroadcast
from headrace.runtime.ops.table import Binary, binary_operators


def divide(a: Any, b: Any) -> Any:
    """Floats: IEEE division. Integers: truncation toward zero; x / 0 is 0, and the most negative / -1 wraps."""
    if a.dtype.kind == "f":
        return a / b
    safe = np.where(b == 0, np.ones_like(b), b)
    quotient = np.floor_divide(a, safe)
    if a.dtype.kind == "i":
        inexact = quotient * safe != a
        quotient = quotient + (inexact & ((a < 0) != (safe < 0))).astype(a.dtype)
    return np.where(b == 0, np.zeros_like(quotient), quotient)


def modulo(a: Any, b: Any, fmod: int) -> Any:
    """fmod 0: sign of the divisor; fmod 1: sign of the dividend. An integer modulo 0 is 0."""
    if a.dtype.kind == "f":
        return np.fmod(a, b) if fmod else np.mod(a, b)
    safe = np.where(b == 0, np.ones_like(b), b)
    return np.where(b == 0, 0, np.fmod(a, safe) if fmod else np.mod(a, safe))


def shift(x: Any, y: Any, direction: str) -> Any:
    """A shift by less than 0 or by all the bits and more leaves what sign extension leaves."""
    bits = x.dtype.itemsize * 8
    out = (y < 0) | (y >= bits)
    amount = np.where(out, 0, y).astype(x.dtype)
    if direction == "LEFT":
        return np.where(out, 0, np.left_shift(x, amount))
    sign = np.where(x < 0, ~np.zeros_like(x), np.zeros_like(x))
    return np.where(out, sign, np.right_shift(x, amount))


def _div_gradient(F: Any, g: Any, a: Any, b: Any, y: Any, attributes: Any) -> Any:
    for_a = F.Div(g, b)
    return for_a, F.Neg(F.Mul(for_a, y))


def _mod_gradient(F: Any, g: Any, a: Any, b: Any, y: Any, attributes: Any) -> Any:
    if not is_float(F, a):
        return None, None
    quotient = F.Round(F.Div(F.Sub(a, y), b))
    return g, F.Neg(F.Mul(g, quotient))


def _dim_quotient(a: Any, b: Any) -> Any:
    """Truncation is floor where both are known not to be negative."""
    positive = shapes.compare(b, 0) == 1 if isinstance(b, int) else True
    if not positive or shapes.compare(a, -1) != 1:
        return None
    return shapes.floordiv(a, b)


def _dim_modulo(a: Any, b: Any) -> Any:
    return shapes.modulo(a, b) if isinstance(b, int) and b > 0 and shapes.compare(a, -1) == 1 else None


def _dim_compare(accept: tuple[int, ...]) -> Any:
    """A comparison of dimensions: 1, 0, or None where it is not certain."""

    def compare(a: Any, b: Any) -> int | None:
        sign = shapes.compare(a, b)
        return None if sign is None else int(sign in accept)

    return compare


LOGIC, BOOL = dtypes.INTEGER, frozenset({"bool"})
COMPARABLE = dtypes.NUMERIC | BOOL | {"string"}
L7 = (1, 7)


def _equal(a: Any, b: Any) -> Any:
    return np.asarray(a == b, np.bool_)


ARITHMETIC = (
    Binary("Add", np.add, lambda F, g, a, b, y, _: (g, g), mixin=LegacyBroadcast, symbolic=lambda a, b: a + b),
    Binary("Sub", np.subtract, lambda F, g, a, b, y, _: (g, F.Neg(g)), mixin=LegacyBroadcast, symbolic=lambda a, b: a - b),
    Binary("Mul", np.multiply, lambda F, g, a, b, y, _: (F.Mul(g, b), F.Mul(g, a)), mixin=LegacyBroadcast, symbolic=lambda a, b: a * b),
    Binary("Div", divide, _div_gradient, positive=True, mixin=LegacyBroadcast, symbolic=_dim_quotient),
    Binary("Mod", modulo, _mod_gradient, versions=(10, 13, 28), attributes={"fmod": Attr("int", 0, (0, 1))},
           cases=({}, {"fmod": 1}), positive=True, symbolic=lambda a, b, **_: _dim_modulo(a, b)),
)  # fmt: skip
BITS = (
    Binary("BitwiseAnd", np.bitwise_and, types=LOGIC, versions=(18,)),
    Binary("BitwiseOr", np.bitwise_or, types=LOGIC, versions=(18,)),
    Binary("BitwiseXor", np.bitwise_xor, types=LOGIC, versions=(18,)),
    Binary("BitShift", shift, types=LOGIC, versions=(11, 28), cases=({"direction": "LEFT"}, {"direction": "RIGHT"}),
           attributes={"direction": Attr("string", REQUIRED, ("LEFT", "RIGHT"))}),
)  # fmt: skip
LOGICAL = (
    Binary("And", np.logical_and, types=BOOL, versions=L7, mixin=LegacyBroadcast),
    Binary("Or", np.logical_or, types=BOOL, versions=L7, mixin=LegacyBroadcast),
    Binary("Xor", np.logical_xor, types=BOOL, versions=L7, mixin=LegacyBroadcast),
    Binary("Equal", _equal, types=COMPARABLE, result="bool", versions=(1, 7, 11, 13, 19), mixin=LegacyBroadcast, symbolic=_dim_compare((0,))),
    Binary("Less", np.less, result="bool", versions=(1, 7, 9, 13), mixin=LegacyBroadcast, symbolic=_dim_compare((-1,))),
    Binary("LessOrEqual", np.less_equal, result="bool", versions=(12, 16), symbolic=_dim_compare((-1, 0))),
    Binary("Greater", np.greater, result="bool", versions=(1, 7, 9, 13), mixin=LegacyBroadcast, symbolic=_dim_compare((1,))),
    Binary("GreaterOrEqual", np.greater_equal, result="bool", versions=(12, 16), symbolic=_dim_compare((0, 1))),
)  # fmt: skip

globals().update(binary_operators(__name__, ARITHMETIC + BITS + LOGICAL))
