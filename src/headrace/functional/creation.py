"""Tensors from Python values, from arrays, from nothing, and from random numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.devices import check_device
from headrace.functional.base import (
    both,
    cast,
    constant,
    function,
    is_symbolic,
    method,
    shape_args,
    shape_input,
    tensor_of,
)
from headrace.generators import stream
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


# -------------------------------------------------------------------- random numbers


def _uniform(size: Any, dtype: Any, generator: Any) -> np.ndarray:
    draw = stream(generator)
    if dtype == np.float64:
        return draw.random(size)
    return np.asarray(draw.random(size, dtype=np.float32)).astype(dtype, copy=False)


def _normal(size: Any, dtype: Any, generator: Any) -> np.ndarray:
    draw = stream(generator)
    if dtype == np.float64:
        return np.asarray(draw.standard_normal(size))
    return np.asarray(draw.standard_normal(size, dtype=np.float32)).astype(dtype, copy=False)


@function
def rand(
    *size: Any,
    generator: Any = None,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return finish(_uniform(shape_args(size), _numpy(dtype), generator), requires_grad, device)


@function
def randn(
    *size: Any,
    generator: Any = None,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """Numbers of the standard normal distribution."""
    return finish(_normal(shape_args(size), _numpy(dtype), generator), requires_grad, device)


@function
def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Any = None,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """Whole numbers in [low, high): `randint(high, size)` or `randint(low, high, size)`."""
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    wanted = np.dtype(np.int64) if dtype is None else _numpy(dtype)
    return finish(
        np.asarray(stream(generator).integers(low, high, shape_args((size,)))).astype(wanted), requires_grad, device
    )


@function
def randperm(
    n: int,
    *,
    generator: Any = None,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    return finish(
        stream(generator).permutation(n).astype(np.int64 if dtype is None else _numpy(dtype)), requires_grad, device
    )


@function
def rand_like(
    input: Tensor, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Uniform numbers in the shape and dtype of a tensor."""
    return finish(
        _uniform(input._data.shape, input._data.dtype if dtype is None else _numpy(dtype), None), requires_grad, device
    )


@function
def randn_like(
    input: Tensor, *, dtype: Dtype | None = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Normal numbers in the shape and dtype of a tensor."""
    return finish(
        _normal(input._data.shape, input._data.dtype if dtype is None else _numpy(dtype), None), requires_grad, device
    )


@function
def randint_like(
    input: Tensor,
    low: int,
    high: Any = None,
    *,
    dtype: Dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """Whole numbers in [low, high) in the shape and dtype of a tensor."""
    if high is None:
        low, high = 0, low
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    wanted = input._data.dtype if dtype is None else _numpy(dtype)
    return finish(np.asarray(stream().integers(low, high, input._data.shape)).astype(wanted), requires_grad, device)


@function
def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None, dtype: Dtype | None = None, **_: Any
) -> Tensor:
    """Normal numbers of a mean and standard deviation, each a number or a tensor."""
    shapes = [v._data.shape for v in (mean, std) if isinstance(v, Tensor)]
    shape = shape_args((size,)) if size is not None else np.broadcast_shapes(*shapes)
    if (not isinstance(std, Tensor) and std < 0) or (isinstance(std, Tensor) and np.any(std._data < 0)):
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    kind = next((v._data.dtype for v in (mean, std) if isinstance(v, Tensor)), _numpy(dtype))
    mean, std = (v._data if isinstance(v, Tensor) else v for v in (mean, std))
    return wrap(np.asarray(_normal(shape, kind, generator) * std + mean).astype(kind))


@both
def bernoulli(input: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 with probability `input` (or p), else 0, in the same dtype."""
    chance = np.asarray(input._data if p is None else np.full(input._data.shape, p))
    if np.any((chance < 0) | (chance > 1)):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    return wrap(np.asarray(stream(generator).random(chance.shape) < chance.astype(np.float64), input._data.dtype))


@both
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices drawn from each row in proportion to its weights."""
    if not input.is_floating_point():
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {input.dtype}")
    weights = input._data.astype(np.float64)
    if weights.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > weights.shape[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    rows = weights.reshape(-1, weights.shape[-1])
    if np.any(rows.sum(-1) <= 0):
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    draw = stream(generator)
    if replacement:
        edges = np.cumsum(rows, -1) / rows.sum(-1, keepdims=True)
        found = (draw.random((len(rows), num_samples))[:, :, None] >= edges[:, None, :-1]).sum(-1)
    else:  # the largest of log-weight plus Gumbel noise, in order, are a sample without replacement
        with np.errstate(divide="ignore"):
            keys = np.log(rows) - np.log(-np.log(draw.random(rows.shape)))
        found = np.argsort(-keys, -1)[:, :num_samples]
    return wrap(found.astype(np.int64).reshape(*weights.shape[:-1], num_samples))


def _redraw(self: Tensor, values: np.ndarray) -> Tensor:
    from headrace.autograd.tape import adopt

    return adopt(self, wrap(np.asarray(values, self._data.dtype)))


@method
def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None, **named: Any) -> Tensor:
    """Fill with uniform numbers in [from, to)."""
    low = named.get("from", from_)
    if low > to:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low} > to={to}")
    return _redraw(
        self,
        _uniform(self._data.shape, self._data.dtype, generator) * self._data.dtype.type(to - low)
        + self._data.dtype.type(low),
    )


@method
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers."""
    if std < 0:
        raise RuntimeError(f"normal_ expects std >= 0.0, but found std {std}")
    return _redraw(
        self,
        _normal(self._data.shape, self._data.dtype, generator) * self._data.dtype.type(std)
        + self._data.dtype.type(mean),
    )


@method
def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with 1 with probability p, else 0."""
    chance = p._data if isinstance(p, Tensor) else p
    return _redraw(self, stream(generator).random(self._data.shape) < chance)


@method
def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with numbers of the exponential distribution."""
    return _redraw(self, stream(generator).standard_exponential(self._data.shape) / lambd)


@method
def random_(self: Tensor, from_: int = 0, to: int | None = None, *, generator: Any = None) -> Tensor:
    """Fill with whole numbers in [from, to)."""
    if to is None:
        from_, to = (
            (0, from_)
            if from_
            else (0, 2**24 if self._data.dtype.kind in "fV" else int(np.iinfo(self._data.dtype).max))
        )
    return _redraw(self, stream(generator).integers(from_, to, self._data.shape))


@both
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy; gradients flow through."""
    from headrace.functional.shape import copy_of

    return copy_of(tensor_of(input))
