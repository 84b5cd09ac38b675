"""Random tensors, and random numbers written into tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.functional.base import (
    both,
    function,
    method,
    shape_args,
    tensor_of,
)
from headrace.functional.creation import _numpy, finish
from headrace.generators import stream
from headrace.scalar_types import dtype as Dtype
from headrace.tensors import Tensor, wrap


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
