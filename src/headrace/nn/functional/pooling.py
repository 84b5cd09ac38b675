"""Pooling over 1, 2 and 3 spatial dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.functional.base import axes_input, is_symbolic
from headrace.functional.exports import exported
from headrace.nn.functional.convolution import ntuple
from headrace.tensors import Tensor, wrap


def _batched(n: int, input: Tensor, name: str) -> tuple[Tensor, bool]:
    rank = input._data.ndim
    if rank not in (n + 1, n + 2):
        raise RuntimeError(f"{name}: Expected {n + 1}D or {n + 2}D input, but got: {list(input.shape)}")
    if any(size == 0 for size in input._data.shape[rank - n - 1 :] if not is_symbolic(size)):
        raise RuntimeError(
            f"{name}: Expected input's non-batch dimensions to have positive length, but input has a shape of {list(input.shape)}"
        )
    return (input, False) if rank == n + 2 else (input.unsqueeze(0), True)


def _window(n: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    sizes = ntuple(kernel, n, "kernel_size")
    strides = sizes if stride is None or stride == () or stride == [] else ntuple(stride, n, "stride")
    pads, dilations = ntuple(padding, n, "padding"), ntuple(dilation, n, "dilation")
    if min(strides) < 1:
        raise RuntimeError("stride should be greater than zero")
    if any(p < 0 or p > ((k - 1) * d + 1) // 2 for p, k, d in zip(pads, sizes, dilations)):
        raise RuntimeError(
            f"pad should be at most half of effective kernel size, but got pad={list(pads)}, kernel_size={list(sizes)} and dilation={list(dilations)}"
        )
    return {"kernel_shape": sizes, "strides": strides, "pads": pads + pads, "dilations": dilations}


def _check_output(n: int, x: Tensor, window: dict[str, Any], ceil_mode: bool) -> None:
    for size, k, p, d in zip(x._data.shape[-n:], window["kernel_shape"], window["pads"], window["dilations"]):
        if not is_symbolic(size) and size + 2 * p < d * (k - 1) + 1 and not ceil_mode:
            raise RuntimeError(f"Given input size: {list(x.shape)}. Calculated output size is too small")


def _max(
    n: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    x, single = _batched(n, input, f"max_pool{n}d")
    window = _window(n, kernel_size, stride, padding, dilation)
    _check_output(n, x, window, ceil_mode)
    found = ops.MaxPool(x, **window, ceil_mode=int(ceil_mode))
    if not return_indices:
        return found.squeeze(0) if single else found
    _, flat = ops.MaxPool(x.detach(), **window, ceil_mode=int(ceil_mode), outputs=2)
    plane = math.prod(x._data.shape[2:])
    places = wrap(flat._data % plane if plane else flat._data)
    return (found.squeeze(0), places.squeeze(0)) if single else (found, places)


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window of [N, C, L]; with return_indices also where it is."""
    return _max(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window of [N, C, H, W]; with return_indices also where it is."""
    return _max(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window of [N, C, D, H, W]; with return_indices also where it is."""
    return _max(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _average(
    n: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:
    x, single = _batched(n, input, f"avg_pool{n}d")
    window = _window(n, kernel_size, stride, padding, 1)
    _check_output(n, x, window, ceil_mode)
    if divisor_override is not None:
        if divisor_override == 0:
            raise RuntimeError("divisor must be not zero")
        # A sum of windows is their mean over a padded input times the kernel's size.
        pads = window["pads"]
        padded = ops.Pad(x, axes_input((0, 0, *pads[:n], 0, 0, *pads[n:])))
        total = ops.AveragePool(
            padded,
            kernel_shape=window["kernel_shape"],
            strides=window["strides"],
            ceil_mode=int(ceil_mode),
            count_include_pad=0,
        )
        found = total * _covered(padded, window, ceil_mode, n) / divisor_override
    else:
        found = ops.AveragePool(x, **window, ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad))
    return found.squeeze(0) if single else found


def _covered(x: Tensor, window: dict[str, Any], ceil_mode: bool, n: int) -> Tensor:
    """How many elements of the padded input each window covers."""
    count: Any = np.ones((1, 1) + (1,) * n)
    for axis, (k, s) in enumerate(zip(window["kernel_shape"], window["strides"])):
        size = x._data.shape[2 + axis]
        windows = (-(-(size - k) // s) if ceil_mode else (size - k) // s) + 1
        if ceil_mode and (windows - 1) * s >= size - window["pads"][axis]:
            windows -= 1
        covered = np.minimum(np.arange(windows) * s + k, size) - np.arange(windows) * s
        count = count * covered.reshape([-1 if i == axis + 2 else 1 for i in range(n + 2)])
    return wrap(count.astype(x._data.dtype))


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of [N, C, L]."""
    return _average(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of [N, C, H, W]."""
    return _average(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of [N, C, D, H, W]."""
    return _average(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _targets(n: int, output_size: Any, sizes: tuple[int, ...]) -> tuple[int, ...]:
    wanted = output_size if isinstance(output_size, tuple | list) else (output_size,) * n
    if len(wanted) != n:
        raise RuntimeError(f"adaptive pooling: output_size must be {n} numbers, but got {list(wanted)}")
    found = tuple(s if w is None else int(w) for w, s in zip(wanted, sizes))
    if any(not is_symbolic(w) and w < 0 for w in found):
        raise RuntimeError("adaptive pooling: elements of output_size must be greater than or equal to 0")
    return found


def _even(sizes: tuple[Any, ...], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
    """The window that gives the wanted sizes exactly, if one does."""
    if any(is_symbolic(s) or w == 0 or s % w for s, w in zip(sizes, wanted)):
        return None
    return tuple(s // w for s, w in zip(sizes, wanted))


def _adaptive_average(n: int, input: Tensor, output_size: Any) -> Tensor:
    x, single = _batched(n, input, f"adaptive_avg_pool{n}d")
    sizes = x._data.shape[2:]
    wanted = _targets(n, output_size, sizes)
    if all(w == 1 for w in wanted):
        found = ops.GlobalAveragePool(x)
    elif (window := _even(sizes, wanted)) is not None:
        found = ops.AveragePool(x, kernel_shape=window, strides=window)
    else:
        found = x
        for axis, w in enumerate(wanted):
            found = _mean_matrix(found, axis + 2, w)
    return found.squeeze(0) if single else found


def _mean_matrix(x: Tensor, axis: int, count: int) -> Tensor:
    """Means of uneven windows along one axis, as a product with a matrix."""
    size = x._data.shape[axis]
    matrix = np.zeros((size, count), x._data.dtype)
    for i in range(count):
        start, end = i * size // count, -(-(i + 1) * size // count)
        matrix[start:end, i] = 1.0 / (end - start)
    from headrace.functional.shape import transpose

    return transpose(ops.MatMul(transpose(x, axis, -1), matrix), axis, -1)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means of windows that cover [N, C, L] in output_size steps."""
    return _adaptive_average(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of windows that cover [N, C, H, W] in output_size steps."""
    return _adaptive_average(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Means of windows that cover [N, C, D, H, W] in output_size steps."""
    return _adaptive_average(3, input, output_size)


def _adaptive_max(n: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    x, single = _batched(n, input, f"adaptive_max_pool{n}d")
    sizes = x._data.shape[2:]
    wanted = _targets(n, output_size, sizes)
    places = _adaptive_places(x.detach().numpy(), wanted)
    flat = x.reshape(*x.shape[:2], math.prod(sizes))
    picked = ops.GatherElements(flat, places.reshape(*places.shape[:2], -1), axis=2).reshape(places.shape)
    found, where = (picked.squeeze(0), wrap(places[0])) if single else (picked, wrap(places))
    return (found, where) if return_indices else found


def _adaptive_places(x: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """The flat place of the first largest element of each window."""
    sizes = x.shape[2:]
    places = np.zeros((*x.shape[:2], *wanted), np.int64)
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    for index in np.ndindex(*wanted):
        part = tuple(slice(i * s // w, -(-(i + 1) * s // w)) for i, s, w in zip(index, sizes, wanted))
        block = x[(slice(None), slice(None), *part)].reshape(*x.shape[:2], -1)
        places[(slice(None), slice(None), *index)] = numbers[part].reshape(-1)[np.argmax(block, -1)]
    return places


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of windows that cover [N, C, L] in output_size steps."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of windows that cover [N, C, H, W] in output_size steps."""
    return _adaptive_max(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of windows that cover [N, C, D, H, W] in output_size steps."""
    return _adaptive_max(3, input, output_size, return_indices)


__all__ = exported(globals())
