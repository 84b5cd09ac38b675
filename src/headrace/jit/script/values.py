"""What the compiler computes with beside tensors: numbers and lists that are known only when the graph runs."""

from __future__ import annotations

from typing import Any, NoReturn

from headrace.jit.errors import refuse_value
from headrace.runtime.graph import Value
from headrace.tensors import Tensor

DTYPES = {"bool": "bool", "int": "int64", "float": "float64"}  # kinds of Python numbers -> how the graph holds them
KINDS = {bool: "bool", int: "int", float: "float"}
ORDER = ("bool", "int", "float")


class Number:
    """A Python int, float or bool that is known only when the graph runs: a traced tensor of rank 0.

    It keeps Python's rules: a float beside a float32 tensor does not make it a float64 one.
    """

    __slots__ = ("kind", "opposite", "tensor")

    def __init__(self, kind: str, tensor: Tensor) -> None:
        self.kind, self.tensor = kind, tensor
        self.opposite: Number | None = None  # what this is the `not` of

    def _refuse(self, *_: Any) -> NoReturn:
        refuse_value({"bool": "bool()", "int": "int()", "float": "float()"}[self.kind])

    __bool__ = __int__ = __float__ = __index__ = _refuse

    def __repr__(self) -> str:
        return f"<{self.kind} {self.tensor._data!r}>"


class List(list[Any]):
    """A list of the compiled program. While its length is known it is an ordinary list; after that it is a sequence of
    the graph (`sequence`, with elements of the spec `element`) and holds nothing itself."""

    sequence: Value | None = None
    element: Any = None

    def become(self, other: List) -> None:
        """Take the contents of another list."""
        self[:] = other
        self.sequence, self.element = other.sequence, other.element


class Maybe:
    """A value, or None, as the graph decides: `present` tells."""

    __slots__ = ("present", "value")

    def __init__(self, present: Any, value: Any) -> None:
        self.present, self.value = present, value


class Undefined:
    """Takes the place of a variable that cannot be read: the text says why, and what to write instead."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Missing:
    """The answer of a function that has not returned yet."""

    def __repr__(self) -> str:
        return "<missing>"


MISSING = _Missing()
