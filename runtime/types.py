"""Types of graph values: Tensor, Sequence, Optional, Map (the four of ONNX)."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runtime.shapes import Dim, Shape, dim_text


@dataclass(frozen=True)
class TensorType:
    """A dense array: element type name and shape. `shape` None means that even the rank is not known."""

    dtype: str
    shape: Shape | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    def with_shape(self, shape: tuple[Dim, ...] | None) -> TensorType:
        return TensorType(self.dtype, shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{', '.join(map(dim_text, self.shape))}]"


@dataclass(frozen=True)
class SequenceType:
    """A list of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True)
class OptionalType:
    """A value or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True)
class MapType:
    """A mapping from keys (string or integer) to values; at run time a dict."""

    key: str
    value: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"


Type = TensorType | SequenceType | OptionalType | MapType
