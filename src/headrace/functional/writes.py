"""Values written into a tensor, and in-place changes of its shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.autograd.mode import MODE
from headrace.autograd.tape import adopt, ops, rebase
from headrace.functional.base import (
    METHODS,
    both,
    cast,
    function,
    method,
    recorded,
    scalar,
    shadow,
    tensor_of,
)
from headrace.functional.shape import copy_of, expand
from headrace.tensors import Tensor, wrap


@method
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write another tensor's elements here."""
    source = cast(tensor_of(src), self.dtype)
    if source._data.shape != self._data.shape:
        source = expand(source, *self.shape)
    return adopt(self, source)


@method
def fill_(self: Tensor, value: Any) -> Tensor:
    """Write one number everywhere."""
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(
                f"fill_ only supports 0-dimension value tensor but got tensor with {value._data.ndim} dimensions."
            )
        return copy_(self, value)
    from headrace.functional.creation import full_like

    if isinstance(value, complex) and self.dtype.category < 3:
        raise RuntimeError("value cannot be converted to a real dtype without overflow")
    if recorded(self):  # the gradient of what was overwritten is zero, not absent
        return adopt(self, ops.Where(np.ones((), np.bool_), scalar(value, self), shadow(self)))
    return adopt(self, full_like(self, value))


@function
def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor of the same shape with one number everywhere."""
    return fill_(copy_of(input), value)


@both
def zero_(self: Tensor) -> Tensor:
    """Write zeros."""
    if MODE.grad and self._node is not None:
        return fill_(self, 0)
    if type(self._data) is np.ndarray:
        self._data[...] = 0
        self._storage.version += 1
        if MODE.grad and self._base is not None:
            rebase(self, wrap(self._data))
        return self
    return fill_(self, 0)


def _shape_in_place(name: str) -> None:
    def call(self: Tensor, *args: Any) -> Tensor:
        found = METHODS[name](self, *args)
        self._data, self._node, self._index = found._data, found._node, found._index
        return self

    call.__name__ = call.__qualname__ = f"{name}_"
    call.__doc__ = f"In-place version of `{name}`: the tensor takes the new shape."
    METHODS[f"{name}_"] = call


for _name in ("squeeze", "unsqueeze", "transpose", "t", "swapaxes"):
    _shape_in_place(_name)
