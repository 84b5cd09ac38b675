"""Sums, means, extremes, norms, running totals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import (
    METHODS,
    axes_input,
    axes_of,
    both,
    cast,
    category,
    constant,
    eager,
    floating,
    function,
    in_place,
    inplace,
    named_tuple,
    scalar,
    tensor_of,
)
from headrace.functional.logic import truth
from headrace.functional.unary import isnan
from headrace.scalar_types import dtype as Dtype
from headrace.tensors import Tensor, check_dim, wrap

max_type = named_tuple("max", "values indices")
min_type = named_tuple("min", "values indices")


def reduce(operator: str, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """One of the ReduceX operators; no axes: x itself."""
    if not axes and x._data.ndim:
        return getattr(ops, operator)(x, axes_input(()), keepdims=1, noop_with_empty_axes=1)
    return getattr(ops, operator)(x, axes_input(axes), keepdims=int(keepdim))


def _given(x: Any, dtype: Dtype | None, whole: bool) -> Tensor:
    """The operand in the dtype of the result; whole numbers and truth values add up in int64."""
    x = tensor_of(x)
    if dtype is not None:
        return cast(x, scalar_types.of(dtype))
    return cast(x, scalar_types.int64) if whole and category(x) < 2 else x


@both
def sum_(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Tensor:
    """The sum over all elements or some dimensions."""
    x = _given(input, dtype, whole=True)
    return reduce("ReduceSum", x, axes_of(dim, x._data.ndim), keepdim)


@both
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Tensor:
    """The sum with NaN counted as 0."""
    if category(input) < 2:
        return sum_(input, dim, keepdim, dtype=dtype)
    return sum_(ops.Where(isnan(input), scalar(0, input), input), dim, keepdim, dtype=dtype)


@both
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Tensor:
    """The mean over all elements or some dimensions."""
    x = _given(input, dtype, whole=False)
    if category(x) < 2:
        raise RuntimeError(
            f"mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: {x.dtype}"
        )
    return reduce("ReduceMean", x, axes_of(dim, x._data.ndim), keepdim)


@both
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Tensor:
    """The mean of what is not NaN."""
    if category(input) < 2 and dtype is None:
        raise RuntimeError(f"nanmean(): expected input to have floating point or complex dtype but got {input.dtype}")
    count = sum_(cast(ops.Not(isnan(input)), input.dtype), dim, keepdim)
    return ops.Div(nansum(input, dim, keepdim, dtype=dtype), count)


@both
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Tensor:
    """The product over all elements or one dimension."""
    x = _given(input, dtype, whole=True)
    if dim is None and x._data.ndim > 1:
        from headrace.functional.shape import reshape

        x = reshape(x, (-1,))
    return reduce("ReduceProd", x, axes_of(dim, x._data.ndim), keepdim)


def _extreme(operator: str, input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    x = tensor_of(input)
    axes = axes_of(dim, x._data.ndim)
    if type(x._data) is np.ndarray and any(x._data.shape[a] == 0 for a in axes):
        name = "amax" if operator == "ReduceMax" else "amin"
        raise IndexError(f"{name}(): Expected reduction dim {axes[0]} to have non-zero size.")
    if x._data.dtype.kind == "b":
        return cast(reduce(operator, cast(x, scalar_types.uint8), axes, keepdim), scalar_types.bool_)
    return reduce(operator, x, axes, keepdim)


@both
def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The largest element; its gradient is shared among equal ones."""
    return _extreme("ReduceMax", input, dim, keepdim)


@both
def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The smallest element; its gradient is shared among equal ones."""
    return _extreme("ReduceMin", input, dim, keepdim)


@both
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Smallest and largest element."""
    return named_tuple("aminmax", "min max")(
        amin(input, () if dim is None else dim, keepdim), amax(input, () if dim is None else dim, keepdim)
    )


def _max_or_min(input: Tensor, dim: Any, keepdim: bool, largest: bool) -> Any:
    from headrace.functional.binary import maximum, minimum

    if isinstance(dim, Tensor):
        return maximum(input, dim) if largest else minimum(input, dim)
    if dim is None:
        if input._data.size == 0:
            raise RuntimeError(
                f"{'max' if largest else 'min'}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with the 'dim' argument."
            )
        return amax(input) if largest else amin(input)
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        found, place = input.clone(), wrap(np.zeros((), np.int64))
    else:
        place = argmax(input, axis, keepdim=True) if largest else argmin(input, axis, keepdim=True)
        found = ops.GatherElements(input, place, axis=axis)
        if not keepdim:
            found, place = (ops.Squeeze(v, axes_input((axis,))) for v in (found, place))
    return (max_type if largest else min_type)(found, place)


@both
def max_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; along a dimension (values, indices); of two tensors the larger elements."""
    return _max_or_min(input, dim, keepdim, True)


@both
def min_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; along a dimension (values, indices); of two tensors the smaller elements."""
    return _max_or_min(input, dim, keepdim, False)


def _place(operator: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    from headrace.functional.shape import reshape

    x = tensor_of(input)
    name = operator.lower()
    if category(x) == 0:
        x = cast(x, scalar_types.uint8)
    if dim is None:
        if x._data.size == 0:
            raise IndexError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with the 'dim' argument."
            )
        flat = getattr(ops, operator)(reshape(x, (-1,)), axis=0, keepdims=0)
        return reshape(flat, (1,) * x._data.ndim) if keepdim else flat
    axis = check_dim(dim, x._data.ndim)
    if x._data.ndim == 0:
        return wrap(np.zeros((), np.int64))
    if type(x._data) is np.ndarray and x._data.shape[axis] == 0:
        raise IndexError(f"{name}(): Expected reduction dim {axis} to have non-zero size.")
    return getattr(ops, operator)(x, axis=axis, keepdims=int(keepdim))


@both
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the first largest element is."""
    return _place("ArgMax", input, dim, keepdim)


@both
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the first smallest element is."""
    return _place("ArgMin", input, dim, keepdim)


def _truth_fold(operator: str, input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    x = truth(input)
    axes = axes_of(dim, x._data.ndim)
    whole = reduce(operator, cast(x, scalar_types.int32), axes, keepdim)
    found = cast(whole, scalar_types.bool_)
    return cast(found, scalar_types.uint8) if input.dtype is scalar_types.uint8 else found


@both
def all_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are not 0."""
    return (
        _truth_fold("ReduceMin", input, dim, keepdim) if input._data.size else _empty_truth(input, dim, keepdim, True)
    )


@both
def any_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether one element is not 0."""
    return (
        _truth_fold("ReduceMax", input, dim, keepdim) if input._data.size else _empty_truth(input, dim, keepdim, False)
    )


def _empty_truth(input: Tensor, dim: Any, keepdim: bool, value: bool) -> Tensor:
    fold = np.all if value else np.any
    found = np.asarray(fold(input._data, axis=axes_of(dim, input._data.ndim) or None, keepdims=keepdim))
    return wrap(found.astype(np.uint8) if input.dtype is scalar_types.uint8 else found)


@both
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """How many elements are not 0."""
    return sum_(cast(truth(input), scalar_types.int64), dim)


def _spread(x: Tensor, dim: Any, correction: Any, keepdim: bool) -> tuple[Tensor, Tensor]:
    if category(x) < 2:
        raise RuntimeError("std and var only support floating point and complex dtypes")
    axes = axes_of(dim, x._data.ndim)
    average = reduce("ReduceMean", x, axes, True)
    gap = ops.Sub(x, average)
    total = reduce("ReduceSum", ops.Mul(gap, gap), axes, keepdim)
    count: Any = 1
    for axis in axes:
        count = count * x._data.shape[axis]
    from headrace.functional.arithmetic import sub
    from headrace.functional.base import is_symbolic, size_tensor
    from headrace.functional.binary import clamp_min

    if is_symbolic(count):
        divisor: Any = clamp_min(sub(cast(size_tensor(count), x.dtype), correction), 0)
    else:
        divisor = scalar(max(0.0, float(count - correction)), x)
    if not keepdim:
        average = ops.Squeeze(average, axes_input(axes)) if axes else average
    return ops.Div(total, divisor), average


def _correction(dim: Any, unbiased: Any, correction: Any) -> tuple[Any, Any]:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    return dim, correction


@both
def var(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Tensor:
    """The variance, divided by n - correction (1)."""
    dim, correction = _correction(dim, unbiased, correction)
    return _spread(input, dim, correction, keepdim)[0]


@both
def std(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Tensor:
    """The standard deviation, with n - correction (1)."""
    return ops.Sqrt(var(input, dim, unbiased, keepdim, correction=correction))


@function
def var_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> tuple[Tensor, Tensor]:
    """Variance and mean."""
    dim, correction = _correction(dim, unbiased, correction)
    return _spread(input, dim, correction, keepdim)


@function
def std_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean."""
    found, average = var_mean(input, dim, unbiased, keepdim, correction=correction)
    return ops.Sqrt(found), average


@both
def logsumexp(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) without overflow."""
    x = floating(input)
    return reduce("ReduceLogSumExp", x, axes_of(dim, x._data.ndim), keepdim)


@both
def norm(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Dtype | None = None
) -> Tensor:
    """The p-norm of all elements or along dimensions ("fro": 2, "nuc": the sum of singular values)."""
    x = input if dtype is None else cast(input, scalar_types.of(dtype))
    if p == "nuc":
        from headrace.linalg import matrix_norm

        return matrix_norm(x, "nuc", (-2, -1) if dim is None else dim, keepdim)
    return vector_norm(x, 2 if p in ("fro", None) else p, dim, keepdim)


def vector_norm(
    x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Dtype | None = None
) -> Tensor:
    """(sum |x|^ord)^(1/ord) along dimensions."""
    if dtype is not None:
        x = cast(x, scalar_types.of(dtype))
    if category(x) < 2:
        raise RuntimeError(f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {x.dtype}")
    axes = axes_of(dim, x._data.ndim)
    ord = float(ord)
    size = ops.Abs(x) if category(x) < 3 else x.abs()
    if ord == math.inf:
        return _extreme("ReduceMax", size, axes, keepdim) if axes else size
    if ord == -math.inf:
        return _extreme("ReduceMin", size, axes, keepdim) if axes else size
    if ord == 0:
        count = reduce("ReduceSum", cast(truth(x), x.dtype), axes, keepdim)
        return ops.Add(
            count, reduce("ReduceSum", ops.Mul(x, scalar(0, x)), axes, keepdim)
        )  # its gradient is zero, not absent
    if ord == 1:
        return reduce("ReduceSum", size, axes, keepdim)
    if ord == 2:
        return reduce("ReduceL2", size, axes, keepdim) if axes else size
    return _general_norm(size, ord, axes, keepdim)


def _general_norm(size: Tensor, ord: float, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """The power of a sum of powers, with gradient 0 (not NaN) where a power of 0 has no slope."""
    none, zero, one = ops.Equal(size, scalar(0, size)), scalar(0, size), scalar(1, size)
    powers = ops.Pow(ops.Where(none, one, size), scalar(ord, size))
    total = reduce("ReduceSum", ops.Where(none, zero if ord > 0 else scalar(math.inf, size), powers), axes, keepdim)
    flat = ops.Or(ops.Equal(total, zero), ops.Equal(total, scalar(math.inf, size)))
    root = ops.Pow(ops.Where(flat, one, total), scalar(1.0 / ord, size))
    edge = ops.Pow(ops.Where(flat, total, one).detach(), scalar(1.0 / ord, size))
    return ops.Where(flat, edge, root)


@both
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of the difference."""
    return vector_norm(ops.Sub(input, other), p)


# -------------------------------------------------------------------- running totals


def _running(operator: str, input: Tensor, dim: int, dtype: Dtype | None) -> Tensor:
    x = _given(input, dtype, whole=True)
    axis = check_dim(dim, x._data.ndim)
    if x._data.ndim == 0:
        return x.clone()
    return getattr(ops, operator)(x, constant(axis, np.dtype(np.int64)))


@inplace
def cumsum(input: Tensor, dim: int, *, dtype: Dtype | None = None) -> Tensor:
    """Running sums along a dimension."""
    return _running("CumSum", input, dim, dtype)


@inplace
def cumprod(input: Tensor, dim: int, *, dtype: Dtype | None = None) -> Tensor:
    """Running products along a dimension."""
    return _running("CumProd", input, dim, dtype)


@both
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """log of running sums of exp along a dimension."""
    x = floating(input)
    axis = check_dim(dim, x._data.ndim)
    if x._data.ndim == 0 or x._data.size == 0:
        return x.clone()
    from headrace.autograd.mode import MODE
    from headrace.autograd.tape import PythonNode, edge_of

    if not eager(x):
        return _by_operators(x, axis)
    with np.errstate(all="ignore"):
        found = wrap(np.logaddexp.accumulate(x.detach().numpy().astype(np.float64), axis=axis).astype(x._data.dtype))
    if MODE.grad and x._node is not None:
        values = found.detach()

        def backward(grads: list[Any]) -> list[Any]:
            if MODE.grad:  # to be differentiated again
                from headrace.autograd.engine import grad

                return list(grad(_by_operators(x, axis), x, grads[0], create_graph=True))
            return [_logcumsumexp_gradient(grads[0], x.detach(), values, axis)]

        found._node = PythonNode("LogcumsumexpBackward", [edge_of(x)], 1, backward)
    return found


def _by_operators(x: Tensor, axis: int) -> Tensor:
    """log(cumsum(exp(x - max))) + max."""
    high = amax(x, axis, True).detach()
    return ops.Add(ops.Log(_running("CumSum", ops.Exp(ops.Sub(x, high)), axis, None)), high)


def _logcumsumexp_gradient(g: Any, x: Tensor, y: Tensor, axis: int) -> Tensor:
    """sum over i >= j of g_i exp(x_j - y_i), in log space for the positive and the negative part of g."""
    low = scalar(-math.inf, x)
    parts = []
    for part in (g, ops.Neg(g)):
        logs = ops.Where(ops.Greater(part, scalar(0, x)), ops.Log(part), low)
        total = logcumsumexp(ops.Sub(logs, y).flip(axis), axis).flip(axis)
        parts.append(ops.Exp(ops.Add(total, x)))
    return ops.Sub(*parts)


def _running_extreme(input: Tensor, dim: int, largest: bool) -> Any:
    axis = check_dim(dim, input._data.ndim)
    kind = named_tuple("cummax" if largest else "cummin", "values indices")
    data = input.detach().numpy()
    if data.ndim == 0:
        return kind(input.clone(), wrap(np.zeros((), np.int64)))
    wide = data.astype(np.float32) if data.dtype.kind == "V" else data
    fold = (np.maximum if largest else np.minimum).accumulate(wide, axis=axis)
    same = (wide == fold) | (np.isnan(wide) if wide.dtype.kind == "f" else False)
    steps = np.arange(data.shape[axis]).reshape([-1 if i == axis else 1 for i in range(data.ndim)])
    place = np.maximum.accumulate(np.where(same, steps, 0), axis=axis).astype(np.int64)
    return kind(ops.GatherElements(input, place, axis=axis), wrap(place))


@both
def cummax(input: Tensor, dim: int) -> Any:
    """Running maxima along a dimension, and where the last of each is."""
    return _running_extreme(input, dim, True)


@both
def cummin(input: Tensor, dim: int) -> Any:
    """Running minima along a dimension, and where the last of each is."""
    return _running_extreme(input, dim, False)


METHODS["cumsum_"] = in_place(cumsum, "cumsum")
