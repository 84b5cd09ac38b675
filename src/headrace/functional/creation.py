"""Tensors from Python values, from arrays, and from nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.devices import check_device
from headrace.functional.base import (
    cast,
    constant,
    function,
    is_symbolic,
    method,
    shape_args,
    shape_input,
)
from headrace.scalar_types import dtype as Dtype
from headrace.tensors import Tensor, as_number, concrete, wrap


def finish(array: np.ndarray, requires_grad: bool = False, device: Any = None) -> Tensor:
    """Wrap a fresh array."""
    check_device(device)
    found = wrap(array)
    return found.requires_grad_() if requires_grad else found


def _numpy(dtype: Dtype | None) -> Any:
    return (scalar_types.get_default_dtype() if dtype is None else scalar_types.of(dtype)).numpy


@function
def tensor(
    data: Any, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A new tensor with a copy of `data` (numbers, nested lists, an array, a tensor). Python floats get the default dtype."""
    return finish(_array(data, dtype, copy=True), requires_grad, device)


def _array(data: Any, dtype: Dtype | None, copy: bool) -> np.ndarray:
    if isinstance(data, Tensor):
        data = concrete(data, "tensor()")
    if isinstance(data, np.ndarray | np.generic):
        array = np.asarray(data)
        scalar_types.of(array.dtype if dtype is None else _numpy(dtype))  # TypeError for what has no dtype
        wanted = array.dtype if dtype is None else _numpy(dtype)
        if array.dtype.byteorder not in "=|":
            raise ValueError("given numpy array has byte order different from the native byte order")
        return np.array(array, wanted, copy=True) if copy else array.astype(wanted, copy=False)
    values = as_number(data) if isinstance(data, list | tuple) else data
    try:
        if dtype is not None:
            with np.errstate(all="ignore"):
                return (
                    np.array(np.array(values), _numpy(dtype))
                    if _numpy(dtype).kind in "iub"
                    else np.array(values, _numpy(dtype))
                )
        array = np.array(values)
    except ValueError as error:
        raise ValueError(f"expected nested sequences of equal length: {error}") from None
    if array.dtype.kind == "f" and not _has_array(values):
        return array.astype(_numpy(None))
    if array.dtype.kind == "c":
        return array.astype(scalar_types.get_default_dtype().to_complex().numpy)
    if array.dtype.kind in "OUS":
        raise TypeError(f"new(): invalid data type {type(data).__name__}")
    return array


def _has_array(values: Any) -> bool:
    """Whether a nested list holds NumPy numbers, whose dtype counts."""
    while isinstance(values, list | tuple) and values:
        values = values[0]
    return isinstance(values, np.ndarray | np.generic)


@function
def as_tensor(data: Any, dtype: Dtype | None = None, device: Any = None) -> Tensor:
    """A tensor of `data`, without a copy where it is possible."""
    check_device(device)
    if isinstance(data, Tensor):
        return data if dtype is None else cast(data, scalar_types.of(dtype))
    return wrap(_array(data, dtype, copy=False))


@function
def asarray(
    obj: Any, *, dtype: Dtype | None = None, device: Any = None, copy: bool | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of any object; copied only where asked or needed."""
    found = tensor(obj, dtype=dtype, device=device) if copy else as_tensor(obj, dtype, device)
    return found.requires_grad_() if requires_grad else found


@function
def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    scalar_types.of(ndarray.dtype)
    return wrap(ndarray)


@function
def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor that shares memory with any object that speaks DLPack."""
    return wrap(np.from_dlpack(ext_tensor))


@function
def scalar_tensor(s: Any, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A 0-d tensor."""
    return finish(np.array(s, _numpy(dtype)), requires_grad, device)


def _filled(size: tuple[Any, ...], value: Any, dtype: Any, requires_grad: bool, device: Any) -> Tensor:
    if any(is_symbolic(d) for d in size):
        return ops.Expand(constant(value, dtype), shape_input(size))
    if any(d < 0 for d in size):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(size)}: {list(size)}")
    if value == 0:
        return finish(np.zeros(size, dtype), requires_grad, device)
    return finish(np.full(size, constant(value, dtype), dtype), requires_grad, device)


@function
def zeros(*size: Any, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Zeros of a shape."""
    return _filled(shape_args(size), 0, _numpy(dtype), requires_grad, device)


@function
def ones(*size: Any, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Ones of a shape."""
    return _filled(shape_args(size), 1, _numpy(dtype), requires_grad, device)


@function
def empty(*size: Any, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """A tensor of a shape whose values nobody should read (they are zeros)."""
    return _filled(shape_args(size), 0, _numpy(dtype), requires_grad, device)


@function
def full(
    size: Any, fill_value: Any, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """A tensor of a shape filled with a number, whose kind gives the dtype."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    found = scalar_types.scalar_dtype(fill_value).numpy if dtype is None else _numpy(dtype)
    return _filled(shape_args((size,)), fill_value, found, requires_grad, device)


def _like(input: Tensor, value: Any, dtype: Dtype | None, requires_grad: bool, device: Any) -> Tensor:
    return _filled(
        tuple(input.shape), value, input._data.dtype if dtype is None else _numpy(dtype), requires_grad, device
    )


@function
def zeros_like(
    input: Tensor, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Zeros in the shape and dtype of a tensor."""
    return _like(input, 0, dtype, requires_grad, device)


@function
def ones_like(
    input: Tensor, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Ones in the shape and dtype of a tensor."""
    return _like(input, 1, dtype, requires_grad, device)


@function
def empty_like(
    input: Tensor, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """A tensor in the shape and dtype of another."""
    return _like(input, 0, dtype, requires_grad, device)


@function
def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """A tensor in the shape and dtype of another, filled with a number."""
    return _like(
        input, fill_value.item() if isinstance(fill_value, Tensor) else fill_value, dtype, requires_grad, device
    )


@method
def new_zeros(
    self: Tensor, *size: Any, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Zeros of a shape in this tensor's dtype."""
    return _filled(shape_args(size), 0, self._data.dtype if dtype is None else _numpy(dtype), requires_grad, device)


@method
def new_ones(
    self: Tensor, *size: Any, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Ones of a shape in this tensor's dtype."""
    return _filled(shape_args(size), 1, self._data.dtype if dtype is None else _numpy(dtype), requires_grad, device)


@method
def new_empty(
    self: Tensor, *size: Any, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """A tensor of a shape in this tensor's dtype."""
    return _filled(shape_args(size), 0, self._data.dtype if dtype is None else _numpy(dtype), requires_grad, device)


@method
def new_full(
    self: Tensor,
    size: Any,
    fill_value: Any,
    *,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """A tensor of a shape in this tensor's dtype, filled with a number."""
    return _filled(
        shape_args((size,)), fill_value, self._data.dtype if dtype is None else _numpy(dtype), requires_grad, device
    )


@method
def new_tensor(
    self: Tensor, data: Any, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A copy of `data` in this tensor's dtype."""
    return tensor(data, dtype=self.dtype if dtype is None else dtype, device=device, requires_grad=requires_grad)


@function
def arange(
    start: Any = 0,
    end: Any = None,
    step: Any = 1,
    *,
    out: Tensor | None = None,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """start, start + step, ... below end. Whole numbers give int64. `out` takes the values, its size and dtype given."""
    if out is not None:
        return out.copy_(arange(start, end, step, dtype=out.dtype))
    if end is None:
        start, end = 0, start
    if any(is_symbolic(v) for v in (start, end, step)):
        return _symbolic_range(start, end, step, dtype)
    start, end, step = (v.item() if isinstance(v, Tensor) else v for v in (start, end, step))
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0 or math.isnan(start) or math.isnan(end) or math.isinf(start) or math.isinf(end):
        raise RuntimeError(f"upper bound and lower bound inconsistent with step sign: {start} to {end} by {step}")
    whole = all(isinstance(v, int | np.integer) for v in (start, end, step))
    found = (
        (scalar_types.int64 if whole else scalar_types.get_default_dtype()) if dtype is None else scalar_types.of(dtype)
    )
    count = max(0, math.ceil((end - start) / step))
    kind = np.int64 if whole or found.category == 1 else np.float64
    if kind is np.int64 and int(step) == 0:
        raise RuntimeError("step must be nonzero")
    values = (
        kind(start) + np.arange(count, dtype=kind) * kind(step)
        if kind is np.float64
        else np.arange(count, dtype=kind) * int(step) + int(start)
    )
    return finish(values.astype(found.numpy), requires_grad, device)


def _symbolic_range(start: Any, end: Any, step: Any, dtype: Dtype | None) -> Tensor:
    from headrace.functional.base import size_tensor

    def bound(value: Any) -> Any:
        if isinstance(value, Tensor):
            return cast(value, scalar_types.int64)
        return size_tensor(value) if is_symbolic(value) else np.asarray(value, np.int64)

    found = ops.Range(bound(start), bound(end), bound(step))
    return found if dtype is None else cast(found, scalar_types.of(dtype))


@function
def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """`steps` numbers from start to end, evenly apart."""
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    start, end = (np.asarray(v._data if isinstance(v, Tensor) else v) for v in (start, end))
    if start.ndim or end.ndim:
        raise RuntimeError("linspace only supports 0-dimensional start and end tensors")
    values = np.linspace(start, end, steps)
    wanted = _numpy(dtype)
    if dtype is None and (start.dtype.kind == "c" or end.dtype.kind == "c"):
        wanted = scalar_types.get_default_dtype().to_complex().numpy
    return finish(values.astype(wanted), requires_grad, device)


@function
def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """base ** linspace(start, end, steps)."""
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    start, end = (np.asarray(v._data if isinstance(v, Tensor) else v) for v in (start, end))
    if start.ndim or end.ndim:
        raise RuntimeError("logspace only supports 0-dimensional start and end tensors")
    wanted = _numpy(dtype)
    with np.errstate(all="ignore"):
        powers = np.linspace(start, end, steps)
        if wanted.kind in "iu":
            powers = (
                np.linspace(start, end, steps).astype(wanted).astype(np.float64) if start.dtype.kind in "iu" else powers
            )
        return finish((float(base) ** powers).astype(wanted), requires_grad, device)


@function
def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """The identity matrix."""
    if n < 0 or (m is not None and m < 0):
        raise RuntimeError("n and m must be greater or equal to 0")
    return finish(np.eye(n, m, dtype=_numpy(dtype)), requires_grad, device)
