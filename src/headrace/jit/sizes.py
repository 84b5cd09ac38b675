"""Symbolic sizes: what `x.shape[0]` is while a model is traced.

A SymInt wraps a dimension of `runtime.shapes` and computes as a whole number does. What cannot be decided for all sizes
(`n == 1`, `range(n)`, `int(n)`) is a TraceError with advice, never a guess from the example.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from headrace.jit.errors import refuse_size
from headrace.runtime.shapes import Dim, Expr, bounds, dim_text, equal, floordiv, modulo


def size_of(dim: Dim) -> Any:
    """A dimension as the user sees it: an int, or a SymInt."""
    return dim if isinstance(dim, int) else SymInt(dim)


def dim_of(size: Any) -> Dim | None:
    """The dimension behind a size; None for what is no size."""
    if isinstance(size, SymInt):
        return size.expr
    return int(size) if isinstance(size, int | np.integer) else None


class SymInt:
    """A whole number from 0 on that is known only when the graph runs."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def refuse(self, construct: str) -> NoReturn:
        refuse_size(construct, self)

    # ---------------------------------------------------------------- arithmetic

    def __add__(self, other: Any) -> Any:
        return _apply(self, other, lambda a, b: a + b, "__add__")

    def __sub__(self, other: Any) -> Any:
        return _apply(self, other, lambda a, b: a - b, "__sub__")

    def __rsub__(self, other: Any) -> Any:
        return _apply(self, other, lambda a, b: b - a, "__rsub__")

    def __mul__(self, other: Any) -> Any:
        return _apply(self, other, lambda a, b: a * b, "__mul__")

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Any) -> Any:
        return _apply(self, other, floordiv, "__floordiv__")

    def __rfloordiv__(self, other: Any) -> Any:
        return _apply(self, other, lambda a, b: floordiv(b, a), "__rfloordiv__")

    def __mod__(self, other: Any) -> Any:
        return _apply(self, other, modulo, "__mod__")

    def __rmod__(self, other: Any) -> Any:
        return _apply(self, other, lambda a, b: modulo(b, a), "__rmod__")

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __pow__(self, power: Any) -> Any:
        if not isinstance(power, int) or not 0 <= power <= 16:
            return self._tensor() ** power
        total: Any = 1
        for _ in range(power):
            total = total * self
        return total

    def __neg__(self) -> Any:
        return size_of(-self.expr)

    def __pos__(self) -> SymInt:
        return self

    def __abs__(self) -> Any:
        low, high = bounds(self.expr)
        return self if low >= 0 else -self if high <= 0 else self.refuse("abs()")

    def __truediv__(self, other: Any) -> Any:
        return self._tensor() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._tensor()

    def _tensor(self) -> Any:
        """The size as a traced tensor: what true division and floats make of it."""
        from headrace.functional.base import size_tensor

        return size_tensor(self)

    # ---------------------------------------------------------------- comparison

    def __eq__(self, other: object) -> Any:
        dim = dim_of(other)
        if dim is None:
            return NotImplemented
        found = equal(self.expr, dim)
        return self.refuse(f"the comparison {self} == {dim_text(dim)}") if found is None else found

    def __ne__(self, other: object) -> Any:
        found = self.__eq__(other)
        return found if found is NotImplemented else not found

    def __hash__(self) -> int:
        return hash(self.expr)

    def __lt__(self, other: Any) -> Any:
        return _order(self, other, "<")

    def __ge__(self, other: Any) -> Any:
        found = _order(self, other, "<", shown=">=")
        return found if found is NotImplemented else not found

    def __gt__(self, other: Any) -> Any:
        return _order(self, other, ">")

    def __le__(self, other: Any) -> Any:
        found = _order(self, other, ">", shown="<=")
        return found if found is NotImplemented else not found

    # ---------------------------------------------------------------- to Python

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __index__(self) -> int:
        self.refuse("an index")

    def __int__(self) -> int:
        self.refuse("int()")

    def __float__(self) -> float:
        self.refuse("float()")

    def __repr__(self) -> str:
        return dim_text(self.expr)


def _apply(left: SymInt, right: Any, function: Any, name: str) -> Any:
    dim = dim_of(right)
    if dim is not None:
        return size_of(function(left.expr, dim))
    return getattr(left._tensor(), name)(right) if isinstance(right, float | np.floating) else NotImplemented


def _order(left: SymInt, right: Any, sign: str, shown: str = "") -> Any:
    """Whether left < right (or >), for all sizes."""
    dim = dim_of(right)
    if dim is None:
        return NotImplemented
    low, high = bounds(left.expr - dim) if sign == "<" else bounds(dim - left.expr)
    if high < 0:
        return True
    return False if low >= 0 else left.refuse(f"the comparison {left} {shown or sign} {dim_text(dim)}")


# -------------------------------------------------------------------- len()

_lock = threading.Lock()
_users = 0
_plain_len = builtins.len


@contextlib.contextmanager
def symbolic_len() -> Iterator[None]:
    """Let `len(x)` answer a SymInt while a trace runs: CPython's own takes nothing but an int. For everything that is not
    traced, and in every other thread, the answer is what it always is."""
    global _users
    with _lock:
        _users += 1
        builtins.len = _len
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                builtins.len = _plain_len


def _len(obj: Any, /) -> Any:
    data = getattr(obj, "_data", None)
    shape = getattr(data, "shape", None) if data is not None and type(data) is not np.ndarray else None
    if type(shape) is tuple and shape and isinstance(shape[0], SymInt):
        return shape[0]
    return _plain_len(obj)
