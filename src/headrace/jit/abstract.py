"""What stands for data while a program is traced: `Abstract` for an array, `SymInt` for a size.

Both know what holds for every run (dtype, symbolic shape) and refuse, naming file, line and a rewrite, what would need
the values themselves.
"""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from headrace.runtime import shapes
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Value
from headrace.runtime.shapes import Dim, Expr

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_REWRITES = {
    "bool()": "a Python `if`, `while`, `and`, `or` or `not` on traced data cannot be captured; write headrace.where(condition, a, b)",
    "int()": "the value is only known when the graph runs; keep it as a tensor",
    "item()": "the value is only known when the graph runs; keep it as a 0-d tensor",
    "numpy()": "NumPy cannot see traced data; use headrace's functions of the same name",
    "tolist()": "the values are only known when the graph runs; use tensor operations in place of lists",
}


class TraceError(HeadraceError):
    """The program does something while it is traced that a graph cannot say; the text names file, line and a rewrite."""


def place() -> str:
    """file:line and the source line of the innermost frame outside of headrace."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        inside = str(Path(file).resolve()).startswith(_PACKAGE) or "/runtime/" in file and "headrace" in frame.f_globals.get("__name__", "")
        if not inside and not file.startswith("<frozen"):
            text = linecache.getline(file, frame.f_lineno).strip()
            return f"{file}:{frame.f_lineno}" + (f": {text}" if text else "")
        frame = frame.f_back
    return "the traced program"


class Abstract:
    """A traced array: a value of the graph with its dtype and shape (ints and SymInts)."""

    __slots__ = ("dtype", "ndim", "shape", "value")

    def __init__(self, value: Value, dtype: np.dtype, shape: tuple[Any, ...]) -> None:
        self.value, self.dtype, self.shape, self.ndim = value, dtype, shape, len(shape)

    @property
    def size(self) -> int:
        """The number of elements; -1 where it is symbolic (Tensor.numel() has the expression)."""
        total = 1
        for dim in self.shape:
            if not isinstance(dim, int):
                return -1
            total *= dim
        return total

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def refuse(self, construct: str) -> NoReturn:
        """Raise TraceError for something that needs the values."""
        rewrite = _REWRITES.get(construct, "it needs values that are only known when the graph runs")
        raise TraceError(f"{place()}: {construct} on traced data %{self.value.name}: {rewrite}")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self.refuse("numpy()")

    def __bool__(self) -> NoReturn:
        self.refuse("bool()")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.refuse(f"the array attribute .{name}")

    def __getitem__(self, index: Any) -> NoReturn:
        self.refuse("an array read")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self.refuse("an array write")


class SymInt:
    """A size that is only known when the graph runs. Arithmetic gives further sizes; what is certain compares."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def refuse(self, construct: str) -> NoReturn:
        """Raise TraceError for something that needs the number."""
        raise TraceError(
            f"{place()}: {construct} needs the size {self.expr}, which differs from run to run; keep it symbolic (x.shape[i] in"
            " shapes and arithmetic), or make the dimension static with trace(..., dynamic={name: ()})"
        )

    def _with(self, other: Any, operation: Any, swap: bool = False) -> Any:
        from headrace.tensors import Tensor

        if isinstance(other, Tensor):
            return NotImplemented
        if isinstance(other, SymInt):
            dim: Dim = other.expr
        elif isinstance(other, int):
            dim = int(other)
        elif isinstance(other, float):
            self.refuse("arithmetic with a float")
        else:
            return NotImplemented
        return size(operation(dim, self.expr) if swap else operation(self.expr, dim))

    def __add__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a - b, swap=True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._with(other, shapes.floordiv)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with(other, shapes.floordiv, swap=True)

    def __mod__(self, other: Any) -> Any:
        return self._with(other, shapes.modulo)

    def __neg__(self) -> Any:
        return size(-self.expr)

    def _compare(self, other: Any, accept: tuple[int, ...], text: str) -> bool:
        dim = other.expr if isinstance(other, SymInt) else other
        if not isinstance(dim, int | Expr):
            return NotImplemented
        sign = shapes.compare(self.expr, dim)
        if sign is None:
            at_least = shapes.compare(self.expr, dim - 1)  # names stand for sizes >= 0
            if at_least == 1 and accept in ((0, 1), (-1,)):
                return accept == (0, 1)
            self.refuse(f"the comparison `{self.expr} {text} {dim}`")
        return sign in accept

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, SymInt) and other.expr == self.expr:
            return True
        if other is None or not isinstance(other, int | SymInt):
            return False
        if isinstance(other, int) and other < 0:
            return False
        return self._compare(other, (0,), "==")

    def __ne__(self, other: Any) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return self._compare(other, (-1,), "<")

    def __le__(self, other: Any) -> bool:
        return self._compare(other, (-1, 0), "<=")

    def __gt__(self, other: Any) -> bool:
        return self._compare(other, (1,), ">")

    def __ge__(self, other: Any) -> bool:
        return self._compare(other, (0, 1), ">=")

    def __hash__(self) -> int:
        return hash(self.expr)

    def __bool__(self) -> bool:
        self.refuse("bool()")

    def __index__(self) -> int:
        self.refuse("int() or range()")

    __int__ = __index__

    def __float__(self) -> float:
        self.refuse("float()")

    def __truediv__(self, other: Any) -> Any:
        from headrace.tensors import Tensor

        if isinstance(other, Tensor):
            return NotImplemented
        self.refuse("/ (use // for whole sizes)")

    def __repr__(self) -> str:
        return str(self.expr)


def size(dim: Dim) -> Any:
    """A dimension as an int or a SymInt."""
    return SymInt(dim) if isinstance(dim, Expr) else int(dim)


def dim_of(value: Any) -> Dim:
    """An int or a SymInt as a dimension."""
    return value.expr if isinstance(value, SymInt) else int(value)
