"""Normalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.functional.base import axes_input, is_symbolic, scalar
from headrace.functional.exports import exported
from headrace.tensors import Tensor


def _affine(value: Tensor | None, fill: float, channels: int, dtype: Any) -> Any:
    return np.full(channels, fill, dtype) if value is None else value


def _write(target: Tensor, value: np.ndarray) -> None:
    """Running statistics are no part of the history."""
    target._data[...] = value
    target._storage.version += 1


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel (dimension 1); the batch's statistics while training."""
    if input._data.ndim < 2:
        if input._data.ndim == 0:
            raise ValueError("expected at least 2D input (got 0D input)")
        return batch_norm(input.unsqueeze(0), running_mean, running_var, weight, bias, training, momentum, eps).squeeze(
            0
        )
    channels, dtype = input._data.shape[1], input._data.dtype
    w, b = _affine(weight, 1, channels, dtype), _affine(bias, 0, channels, dtype)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        return ops.BatchNormalization(input, w, b, running_mean, running_var, epsilon=float(eps))
    if type(input._data) is not np.ndarray:
        input._data.refuse("batch normalization in training mode; call model.eval() before the trace")
    count = input._data.size // max(1, channels)
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(input.shape)}")
    kind = np.float32 if dtype.itemsize == 2 else dtype
    if count == 0:
        return ops.Mul(input, np.ones(1, dtype))
    blank = np.zeros(channels, kind)
    # Momentum 0 makes the operator's running outputs the batch's own statistics.
    y, mean, var = ops.BatchNormalization(
        input, w, b, blank, blank, epsilon=float(eps), momentum=0.0, training_mode=1, outputs=3
    )
    if running_mean is not None and running_var is not None:
        _write(running_mean, (1 - momentum) * running_mean._data + momentum * mean._data)
        _write(running_var, (1 - momentum) * running_var._data + momentum * var._data * (count / (count - 1)))
    return y


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions."""
    sizes = tuple(normalized_shape)
    if not sizes:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got normalized_shape = ()"
        )
    if tuple(input._data.shape[-len(sizes) :]) != sizes:
        raise RuntimeError(
            f"Given normalized_shape={list(sizes)}, expected input with shape [*, {', '.join(map(str, sizes))}], but got input of size{list(input.shape)}"
        )
    for value, name in ((weight, "weight"), (bias, "bias")):
        if value is not None and tuple(value.shape) != sizes:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape {list(value.shape)} and normalized_shape = {list(sizes)}"
            )
    scale = np.ones(sizes, input._data.dtype) if weight is None else weight
    return ops.LayerNormalization(input, scale, bias, axis=-len(sizes), epsilon=float(eps))


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimensions."""
    sizes = tuple(normalized_shape)
    if not sizes or tuple(input._data.shape[-len(sizes) :]) != sizes:
        raise RuntimeError(
            f"Given normalized_shape={list(sizes)}, expected input with shape [*, {', '.join(map(str, sizes))}], but got input of size{list(input.shape)}"
        )
    from headrace.scalar_types import finfo

    eps = finfo(input.dtype).eps if eps is None else eps
    scale = np.ones(sizes, input._data.dtype) if weight is None else weight
    return ops.RMSNormalization(input, scale, axis=-len(sizes), epsilon=float(eps))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalization over groups of channels."""
    if input._data.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input._data.ndim}")
    channels = input._data.shape[1]
    if num_groups <= 0 or channels % num_groups:
        raise RuntimeError(
            f"Expected number of channels in input to be divisible by num_groups, but got input of shape {list(input.shape)} and num_groups={num_groups}"
        )
    dtype = input._data.dtype
    w, b = _affine(weight, 1, channels, dtype), _affine(bias, 0, channels, dtype)
    if any(
        size == 0 for size in input._data.shape if not is_symbolic(size)
    ):  # nothing to normalize: no group has a mean
        shape = axes_input((-1, *[1] * (input._data.ndim - 2)))
        return ops.Add(ops.Mul(input, ops.Reshape(w, shape)), ops.Reshape(b, shape))
    if input._data.ndim == 2:
        return ops.GroupNormalization(input.unsqueeze(-1), w, b, num_groups=num_groups, epsilon=float(eps)).squeeze(-1)
    return ops.GroupNormalization(input, w, b, num_groups=num_groups, epsilon=float(eps))


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalization of each channel of each sample."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if int(np.prod([d for d in input._data.shape[2:] if isinstance(d, int)])) == 1 and len(input._data.shape) > 2:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {list(input.shape)}")
    channels, dtype = input._data.shape[1], input._data.dtype
    if running_mean is not None and running_var is not None:
        axes = tuple(range(2, input._data.ndim))
        _write(running_mean, (1 - momentum) * running_mean._data + momentum * input._data.mean(axes).mean(0))
        _write(running_var, (1 - momentum) * running_var._data + momentum * input._data.var(axes, ddof=1).mean(0))
    return ops.InstanceNormalization(
        input, _affine(weight, 1, channels, dtype), _affine(bias, 0, channels, dtype), epsilon=float(eps)
    )


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x divided by a power of the mean square over neighbouring channels."""
    if input._data.ndim < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {input._data.ndim} dimensions)")
    if input._data.size == 0:
        return input
    # torch pads size // 2 channels in front; the LRN operator pads (size - 1) // 2.
    square = ops.Mul(input, input)
    pads = [0] * (2 * input._data.ndim)
    pads[1], pads[input._data.ndim + 1] = size // 2, (size - 1) // 2
    padded = ops.Pad(square, axes_input(pads))
    channels = input._data.shape[1]
    total: Any = None
    for i in range(size):
        part = padded.narrow(1, i, channels)
        total = part if total is None else ops.Add(total, part)
    mean = ops.Mul(total, scalar(alpha / size, input))
    return ops.Div(input, ops.Pow(ops.Add(mean, scalar(k, input)), scalar(beta, input)))


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """x divided by its p-norm along dimensions (at least eps)."""
    from headrace.functional.reduction import vector_norm

    size = vector_norm(input, p, dim, keepdim=True)
    return input / ops.Max(size, scalar(eps, input))


__all__ = exported(globals())
