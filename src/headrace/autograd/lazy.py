"""Namespaces for gradients: over arrays, and delayed, so that what nobody needs is never computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from headrace.autograd.tape import call_of, ops
from headrace.runtime import dtypes
from headrace.runtime.namespaces import Namespace, NumpyNamespace
from headrace.runtime.ops.base import Operator
from headrace.runtime.types import TensorType

ndarray = np.ndarray
_NAMES = {row.numpy: row.name for row in dtypes.TABLE}


@lru_cache(4096)
def array_type(dtype: np.dtype, shape: tuple[int, ...]) -> TensorType:
    """The type of an array; programs ask for the same few again and again."""
    return TensorType(_NAMES[dtype], shape)


class ArrayNamespace(NumpyNamespace):
    """Operators at once on NumPy arrays, by the same kernels as eager tensors."""

    def _caller(self, operator: Operator) -> Callable[..., Any]:
        call = call_of(operator)
        kernel, complete = call.kernel, call.complete

        def run(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            arrays = list(inputs)
            while arrays and arrays[-1] is None:
                arrays.pop()
            results = kernel(arrays, complete(attributes), outputs)
            if outputs == 1:
                result = results[0]
                return result if type(result) is ndarray else np.asarray(result)
            return tuple(np.asarray(r) for r in results[:outputs])

        return run

    def type(self, value: Any) -> TensorType:
        return array_type(value.dtype, value.shape)

    def dtype(self, value: Any) -> str:
        return _NAMES[value.dtype]

    def rank(self, value: Any) -> int:
        return value.ndim


class _Delayed:
    """One call that may be made later; `Lazy` is one of its outputs."""

    __slots__ = ("attributes", "call", "inputs", "outputs", "results")

    def __init__(
        self, call: Callable[..., Any], inputs: tuple[Any, ...], outputs: int, attributes: dict[str, Any]
    ) -> None:
        self.call, self.inputs, self.outputs, self.attributes = call, inputs, outputs, attributes
        self.results: Any = None

    def get(self, index: int) -> Any:
        if self.results is None:
            found = self.call(*[force(x) for x in self.inputs], outputs=self.outputs, **self.attributes)
            self.results = (found,) if self.outputs == 1 else found
            self.inputs = ()
        return self.results[index]


class Lazy:
    __slots__ = ("delayed", "index")

    def __init__(self, delayed: _Delayed, index: int) -> None:
        self.delayed, self.index = delayed, index


def force(value: Any) -> Any:
    """The value of a delayed call; anything else as it is."""
    return value.delayed.get(value.index) if type(value) is Lazy else value


class LazyNamespace(Namespace):
    """Delays every call of the namespace inside."""

    def __init__(self, inner: Namespace) -> None:
        self.inner = inner

    def _caller(self, operator: Operator) -> Callable[..., Any]:
        call = self.inner._caller(operator)

        def delay(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            delayed = _Delayed(call, inputs, outputs, attributes)
            return Lazy(delayed, 0) if outputs == 1 else tuple(Lazy(delayed, i) for i in range(outputs))

        return delay

    def constant(self, array: object) -> Any:
        return np.asarray(array)

    def type(self, value: Any) -> TensorType:
        return self.inner.type(force(value))

    def dtype(self, value: Any) -> str:
        return self.inner.dtype(force(value))

    def rank(self, value: Any) -> int:
        return self.inner.rank(force(value))


ARRAYS: Any = ArrayNamespace()
LAZY_ARRAYS: Any = LazyNamespace(ARRAYS)
LAZY_TENSORS: Any = LazyNamespace(ops)
