"""Parameters and buffers of modules."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.tensors import Storage, Tensor


class Parameter(Tensor):
    """A tensor that a Module finds among its attributes and that requires a gradient."""

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        if data is None:
            data = np.zeros(0, np.float32)
        if isinstance(data, Tensor):
            self._data, self._storage = data._data, data._storage
        else:
            from headrace.functional.creation import tensor

            self._data, self._storage = tensor(data)._data, Storage()
        if requires_grad:
            self.requires_grad_(True)


class Buffer(Tensor):
    """A tensor that a Module registers as a buffer when it is assigned."""

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        if data is None:
            data = Tensor()
        self._data, self._storage = data._data, data._storage
        self.persistent = persistent


class UninitializedParameter(Parameter):
    """A parameter whose shape is not known before the first call of its layer."""

    def materialize(self, shape: tuple[int, ...]) -> None:
        """Give it a shape; the values are zeros until they are initialized."""
        self._data = np.zeros(shape, np.float32)
        self.__class__ = Parameter  # type: ignore[assignment]
