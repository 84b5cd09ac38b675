"""Activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import adopt, ops
from headrace.functional.base import cast, category, is_symbolic, scalar, shadow
from headrace.functional.exports import exported
from headrace.tensors import Tensor, check_dim


def _place(input: Tensor, inplace: bool, call: Any) -> Tensor:
    """The result, or the input after it took the result's values."""
    return adopt(input, call(shadow(input))) if inplace else call(input)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    if category(input) == 0:
        raise RuntimeError("Boolean inputs not supported for relu")
    return adopt(input, ops.Relu(shadow(input))) if inplace else ops.Relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return _place(input, inplace, lambda x: ops.Clip(x, scalar(min_val, x), scalar(max_val, x)))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x above 0, negative_slope * x below."""
    return _place(input, inplace, lambda x: ops.LeakyRelu(x, alpha=float(negative_slope)))


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x above 0, weight * x below; one weight, or one a channel (dimension 1)."""
    if weight._data.ndim > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight._data.ndim}")
    if weight._data.size != 1:
        if input._data.ndim < 1:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input._data.shape[1] if input._data.ndim > 1 else 1
        if not is_symbolic(channels) and weight._data.size != channels:
            raise RuntimeError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {weight.numel()} and channel size = {channels}."
            )
    shape = [1] * input._data.ndim
    if weight._data.size != 1 and input._data.ndim > 1:
        shape[1] = -1
    return ops.PRelu(input, weight.reshape(shape) if input._data.ndim else weight.reshape(()))


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, alpha * (exp(x) - 1) below."""
    return _place(input, inplace, lambda x: ops.Elu(x, alpha=float(alpha)))


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, alpha * (exp(x / alpha) - 1) below."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _place(input, inplace, lambda x: ops.Celu(x, alpha=float(alpha)))


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """The self-normalizing unit."""
    return _place(input, inplace, lambda x: ops.Selu(x))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), exact ("none") or by tanh."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, not {approximate}")
    return ops.Gelu(input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    if category(input) == 3:
        return _place(input, inplace, lambda x: x / (ops.Exp(ops.Neg(x)) + 1))
    return _place(input, inplace, lambda x: ops.Swish(x))


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    return _place(input, inplace, lambda x: ops.Mish(x))


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return input.sigmoid()


def tanh(input: Tensor) -> Tensor:
    return input.tanh()


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x / 6 + 1/2, 0), 1)."""
    return _place(input, inplace, lambda x: ops.HardSigmoid(x, alpha=1 / 6, beta=0.5))


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x)."""
    return _place(input, inplace, lambda x: ops.HardSwish(x))


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """0 in [-lambd, lambd], x elsewhere."""
    return ops.Where(ops.LessOrEqual(ops.Abs(input), scalar(lambd, input)), scalar(0, input), input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved toward 0 by lambd."""
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}.")
    return ops.Shrink(input, lambd=float(lambd), bias=float(lambd))


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return ops.Sub(input, ops.Tanh(input)) if category(input) >= 2 else input - input.tanh()


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return ops.Softsign(input) if category(input) >= 2 else input / (1 + input.abs())


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold."""
    if beta == 1:
        soft = ops.Softplus(input)
        scaled = input
    else:
        scaled = ops.Mul(input, scalar(beta, input))
        soft = ops.Div(ops.Softplus(scaled), scalar(beta, input))
    if threshold >= 20 and beta == 1 and input._data.dtype.itemsize <= 4:
        return soft  # float32 gives x itself from there on
    return ops.Where(ops.Greater(scaled, scalar(threshold, input)), input, soft)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x above the threshold, `value` elsewhere."""
    return _place(input, inplace, lambda x: ops.Where(ops.Greater(x, scalar(threshold, x)), x, scalar(value, x)))


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)) without overflow."""
    return ops.Neg(ops.Softplus(ops.Neg(input)))


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half times the sigmoid of the second."""
    if input._data.ndim == 0:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    axis = check_dim(dim, input._data.ndim)
    if input._data.shape[axis] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {axis} is size {input.shape[axis]}")
    a, b = input.chunk(2, axis)
    return ops.Mul(a, ops.Sigmoid(b))


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """leaky_relu whose slope is random while training."""
    from headrace.functional.creation import finish
    from headrace.generators import stream

    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    slope = finish(stream().uniform(lower, upper, input._data.shape).astype(input._data.dtype))
    return _place(input, inplace, lambda x: ops.Where(ops.Less(x, scalar(0, x)), ops.Mul(x, slope), x))


def _default_dim(rank: int) -> int:
    return 0 if rank in (0, 1, 3) else 1


def _along(operator: str, input: Tensor, dim: int | None, dtype: Any) -> Tensor:
    x = input if dtype is None else cast(input, scalar_types.of(dtype))
    if category(x) < 2:
        raise RuntimeError(f'"{operator.lower()}" not implemented for {x.dtype}')
    axis = check_dim(_default_dim(x._data.ndim) if dim is None else dim, x._data.ndim)
    if x._data.ndim == 0:
        return getattr(ops, operator)(x.reshape(1), axis=0).reshape(())
    return getattr(ops, operator)(x, axis=axis)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along a dimension."""
    return _along("Softmax", input, dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(x))."""
    return _along("LogSoftmax", input, dim, dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x)."""
    return softmax(ops.Neg(input if dtype is None else cast(input, scalar_types.of(dtype))), dim)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample of the Gumbel-softmax distribution; `hard` makes it one-hot with the soft gradient."""
    from headrace.functional.creation import finish
    from headrace.generators import stream

    noise = finish(-np.log(stream().standard_exponential(logits._data.shape)).astype(logits._data.dtype))
    soft = softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    index = soft.max(dim, keepdim=True)[1]
    one = finish(np.zeros_like(soft._data)).scatter_(dim, index, 1.0)
    return one - soft.detach() + soft


def relu_(input: Tensor) -> Tensor:
    return relu(input, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    return elu(input, alpha, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    return leaky_relu(input, negative_slope, inplace=True)


__all__ = exported(globals())
