"""What stands for the array of a traced tensor: dtype and shape are known, values are not."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from headrace.jit.errors import TraceError, here, refuse_value
from headrace.jit.sizes import size_of
from headrace.runtime import dtypes
from headrace.runtime.graph import Value
from headrace.runtime.types import TensorType


class Abstract:
    """The data of a traced tensor. It offers those attributes of an array that say nothing about values; whatever else
    is asked for is a TraceError that names the place in the user's code."""

    __slots__ = ("dtype", "shape", "value")

    def __init__(self, value: Value) -> None:
        if not isinstance(value.type, TensorType):
            raise TraceError(f"{here()}the result is a {value.type}; a trace knows tensors only")
        if value.type.shape is None:
            raise TraceError(f"{here()}the rank of the result is not known before the graph runs")
        self.value = value
        self.dtype = dtypes.of(value.type.dtype).numpy
        self.shape = tuple(map(size_of, value.type.shape))

    @property
    def ndim(self) -> int:
        return len(self.shape)

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

    @property
    def strides(self) -> tuple[Any, ...]:
        """Those of a contiguous array."""
        found: list[Any] = []
        step: Any = self.dtype.itemsize
        for dim in reversed(self.shape):
            found.append(step)
            step = step * dim
        return tuple(reversed(found))

    @property
    def flags(self) -> _Flags:
        return _Flags()

    def refuse(self, construct: str) -> NoReturn:
        refuse_value(construct)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        refuse_value("numpy()")

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what NumPy and copy probe for
            raise AttributeError(name)
        refuse_value("a function that runs outside of the graph")

    def __repr__(self) -> str:
        return f"<traced {self.value!r}>"

    def _refuse_all(self, *_: Any) -> Any:
        refuse_value("a function that runs outside of the graph")

    __hash__ = object.__hash__
    __getitem__ = __setitem__ = __iter__ = __bool__ = __int__ = __float__ = __index__ = _refuse_all
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse_all
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse_all
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _refuse_all
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = __neg__ = __abs__ = _refuse_all
    __array_ufunc__ = __array_function__ = _refuse_all


class _Flags:
    c_contiguous = True
    writeable = False
