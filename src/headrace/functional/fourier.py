"""Discrete Fourier transforms along one dimension, with gradients.

Three transforms are enough: complex to complex, real to half spectrum, and back. Each one's gradient is made of the others
(the adjoint of a transform is the opposite transform without its factor), so they differentiate again. NumPy computes
them. Source of the conventions: torch.fft.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import cast, derived, floating
from headrace.functional.complexes import multiply, real
from headrace.functional.shape import slice_axes
from headrace.tensors import Tensor, check_dim, concrete, wrap

_NORMS = ("backward", "ortho", "forward")


def _factor(n: int, norm: str | None, forward: bool) -> float:
    """What the sum over n elements is multiplied by."""
    kind = norm or "backward"
    if kind not in _NORMS:
        raise RuntimeError(f'Invalid normalization mode: "{norm}"')
    if kind == "ortho":
        return float(n) ** -0.5
    return 1.0 / n if (kind == "forward") == forward else 1.0


def _length(x: Tensor, n: int | None, dim: int) -> tuple[int, int]:
    """(number of points, axis). RuntimeError for none, IndexError for a dimension that is not there."""
    axis = check_dim(dim, x._data.ndim)
    if x._data.ndim == 0:
        raise RuntimeError("a Fourier transform needs a tensor with at least one dimension")
    count = x._data.shape[axis] if n is None else n
    if count < 1:
        raise RuntimeError(f"Invalid number of data points ({count}) specified")
    return count, axis


def _resized(x: Tensor, axis: int, n: int) -> Tensor:
    """Cut, or filled with zeros, to n elements along an axis."""
    have = x._data.shape[axis]
    if have > n:
        return slice_axes(x, [(axis, 0, n, 1)])
    if have == n:
        return x
    shape = list(x._data.shape)
    shape[axis] = n - have
    return ops.Concat(x, wrap(np.zeros(shape, x._data.dtype)), axis=axis)


def _complex(x: Tensor) -> Tensor:
    x = x if x.is_complex() else floating(x)
    if x.dtype in (scalar_types.float16, scalar_types.bfloat16):
        raise RuntimeError(f"Unsupported dtype {x.dtype}")
    return cast(x, x.dtype.to_complex())


def _c2c(x: Tensor, axis: int, forward: bool, factor: float) -> Tensor:
    """The sum of x times exp(-+ 2 pi i jk / n), times a factor."""
    data = concrete(x, "fft")
    found = np.fft.fft(data, axis=axis) if forward else np.fft.ifft(data, axis=axis, norm="forward")
    array = (found * factor).astype(data.dtype) if factor != 1.0 else found.astype(data.dtype, copy=False)
    return derived("FftBackward", array, (x,), lambda g: [_c2c(g, axis, not forward, factor)])


def _r2c(x: Tensor, axis: int, factor: float) -> Tensor:
    """The first half of the spectrum of real numbers."""
    data, n, kind = concrete(x, "rfft"), x._data.shape[axis], x.dtype.to_complex()
    array = (np.fft.rfft(data, axis=axis) * factor).astype(kind.numpy)

    def backward(g: Tensor) -> list[Tensor]:
        return [real(_c2c(_resized(g, axis, n), axis, False, factor))]

    return derived("RfftBackward", array, (x,), backward)


def _c2r(x: Tensor, axis: int, n: int, factor: float) -> Tensor:
    """n real numbers of a half spectrum [n // 2 + 1]; the imaginary part of what must be real is not read."""
    data = concrete(x, "irfft")
    array = (np.fft.irfft(data, n, axis=axis, norm="forward") * factor).astype(x.dtype.to_real().numpy)

    def backward(g: Tensor) -> list[Tensor]:
        spectrum = _r2c(g, axis, factor)
        weight = np.full(
            spectrum._data.shape[axis], 2, spectrum._data.dtype
        )  # each stands for two of the full spectrum
        weight[0] = 1
        if n % 2 == 0:
            weight[-1] = 1
        return [multiply(spectrum, weight.reshape([-1 if i == axis else 1 for i in range(g._data.ndim)]))]

    return derived("IrfftBackward", array, (x,), backward)


def fft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The spectrum of n points (cut or filled with zeros) along a dimension; complex."""
    count, axis = _length(input, n, dim)
    return _c2c(_resized(_complex(input), axis, count), axis, True, _factor(count, norm, True))


def ifft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of fft."""
    count, axis = _length(input, n, dim)
    return _c2c(_resized(_complex(input), axis, count), axis, False, _factor(count, norm, False))


def rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The first n // 2 + 1 elements of the spectrum of real numbers: the others are their conjugates."""
    if input.is_complex():
        raise RuntimeError(f"rfft expects a real input tensor, but got {input.dtype}")
    count, axis = _length(input, n, dim)
    return _r2c(_resized(floating(input), axis, count), axis, _factor(count, norm, True))


def irfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """n real numbers (2 * (size - 1) unless given) of half a spectrum: the inverse of rfft."""
    axis = check_dim(dim, input._data.ndim)
    if n is None and input._data.ndim:
        n = 2 * (input._data.shape[axis] - 1)
    count, axis = _length(input, n, dim)
    return _c2r(_resized(_complex(input), axis, count // 2 + 1), axis, count, _factor(count, norm, False))


def fftfreq(n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of fft's elements, for samples d apart."""
    found = wrap(np.fft.fftfreq(n, d).astype((dtype or scalar_types.get_default_dtype()).numpy))
    return found.requires_grad_() if requires_grad else found


def rfftfreq(n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of rfft's elements, for samples d apart."""
    found = wrap(np.fft.rfftfreq(n, d).astype((dtype or scalar_types.get_default_dtype()).numpy))
    return found.requires_grad_() if requires_grad else found


def fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """Frequency 0 moved to the middle."""
    return _shifted(input, dim, 1)


def ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The inverse of fftshift."""
    return _shifted(input, dim, -1)


def _shifted(x: Tensor, dim: Any, sign: int) -> Tensor:
    axes = tuple(range(x._data.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    sizes = [x._data.shape[a] for a in axes]
    return x.roll([s // 2 if sign > 0 else (s + 1) // 2 for s in sizes], axes)
