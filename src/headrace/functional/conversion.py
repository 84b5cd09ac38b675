"""Other dtypes and devices; questions about tensors."""

from __future__ import annotations

from typing import Any

from headrace import scalar_types
from headrace.devices import check_device
from headrace.functional.base import FUNCTIONS, METHODS, cast, function, method
from headrace.layouts import check_format
from headrace.tensors import Tensor


@method
def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    copy: bool = False,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """The tensor in another dtype (or that of another tensor); itself where nothing changes."""
    for value in args:
        if isinstance(value, Tensor):
            dtype = value.dtype
        elif isinstance(value, scalar_types.dtype) or value in (float, int, bool):
            dtype = scalar_types.of(value)
        elif isinstance(value, str) or type(value).__name__ == "device":
            device = value
    check_device(device)
    check_format(memory_format, self._data.ndim)
    found = self if dtype is None else cast(self, scalar_types.of(dtype))
    return found.clone() if copy and found is self else found


def _conversion(name: str, dtype: scalar_types.dtype) -> None:
    def call(self: Tensor, memory_format: Any = None) -> Tensor:
        check_format(memory_format, self._data.ndim)
        return cast(self, dtype)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"The tensor as {dtype.name}."
    METHODS[name] = call


for _name, _dtype in {
    "float": scalar_types.float32, "double": scalar_types.float64, "half": scalar_types.float16, "bfloat16": scalar_types.bfloat16,
    "long": scalar_types.int64, "int": scalar_types.int32, "short": scalar_types.int16, "char": scalar_types.int8,
    "byte": scalar_types.uint8, "bool": scalar_types.bool_, "cfloat": scalar_types.complex64, "cdouble": scalar_types.complex128,
}.items():  # fmt: skip
    _conversion(_name, _dtype)


@method
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor in the dtype of another."""
    return cast(self, other.dtype)


@method
def type_(self: Tensor, dtype: Any = None) -> Any:
    """The name of the tensor's type, or the tensor in another dtype."""
    return f"headrace.{self.dtype.name}" if dtype is None else cast(self, scalar_types.of(dtype))


for _query in ("is_floating_point", "is_complex", "numel", "is_signed"):

    def _ask(input: Tensor, _name: str = _query) -> Any:
        return getattr(input, _name)()

    FUNCTIONS[_query] = _ask


@function
def is_nonzero(input: Tensor) -> bool:
    """Whether the only element is not 0."""
    return bool(input)


@function
def detach(input: Tensor) -> Tensor:
    """The same memory without history."""
    return input.detach()
