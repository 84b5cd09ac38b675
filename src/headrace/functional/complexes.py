"""Complex numbers, for the Fourier transforms: parts, products and sizes with torch's gradients.

The gradient of a real loss L by z = a + ib is dL/da + i dL/db, as in torch, so the gradient of a product takes the
conjugate of the other factor. Operators of the runtime know no conjugates: what is not here and not linear has no complex
gradient (autograd.engine refuses it). Source: torch's "Autograd for complex numbers".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import both, cast, derived, function
from headrace.tensors import _CATEGORY, Tensor, concrete, wrap


def is_complex(x: Any) -> bool:
    """Whether a tensor (or constant) has complex elements."""
    return _CATEGORY[(x._data if isinstance(x, Tensor) else x).dtype] == 3


def _to(gradient: Tensor, like: Tensor) -> Tensor:
    return gradient if gradient._data.shape == like._data.shape else ops.SumTo(gradient, like)


def multiply(a: Any, b: Any) -> Tensor:
    """a * b of complex operands that broadcast."""
    a, b = (x if isinstance(x, Tensor) else wrap(x) for x in (a, b))
    array = concrete(a, "complex multiplication") * concrete(b, "complex multiplication")
    return derived("MulBackward", array, (a, b), lambda g: [_to(multiply(g, conj(b)), a), _to(multiply(g, conj(a)), b)])


def divide(a: Any, b: Any) -> Tensor:
    """a / b of complex operands that broadcast."""
    b = b if isinstance(b, Tensor) else wrap(b)
    return multiply(a, _reciprocal(b))


def _reciprocal(z: Tensor) -> Tensor:
    array = 1 / concrete(z, "complex division")
    return derived(
        "ReciprocalBackward",
        array,
        (z,),
        lambda g: [multiply(ops.Neg(g), conj(multiply(_reciprocal(z), _reciprocal(z))))],
    )


@both
def conj(input: Tensor) -> Tensor:
    """The complex conjugate."""
    if not is_complex(input):
        return input
    return derived("ConjBackward", np.conj(concrete(input, "conj()")), (input,), lambda g: [conj(g)])


@both
def conj_physical(input: Tensor) -> Tensor:
    """The complex conjugate, in memory of its own."""
    return conj(input) if is_complex(input) else input.clone()


@both
def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself: conjugates are never delayed here."""
    return input


@both
def real(input: Tensor) -> Tensor:
    """The real part."""
    if not is_complex(input):
        return input
    array = np.ascontiguousarray(concrete(input, "real()").real)
    return derived("RealBackward", array, (input,), lambda g: [cast(g, g.dtype.to_complex())])


@both
def imag(input: Tensor) -> Tensor:
    """The imaginary part."""
    if not is_complex(input):
        raise RuntimeError("imag is not implemented for tensors with non-complex dtypes.")
    array = np.ascontiguousarray(concrete(input, "imag()").imag)
    return derived("ImagBackward", array, (input,), lambda g: [multiply(cast(g, g.dtype.to_complex()), _unit(g))])


def _unit(like: Tensor) -> np.ndarray:
    return np.asarray(1j, like.dtype.to_complex().numpy)


@function
def complex_(real: Tensor, imag: Tensor) -> Tensor:
    """Complex numbers of their parts."""
    if real.dtype is not imag.dtype or real.dtype not in (scalar_types.float32, scalar_types.float64):
        raise RuntimeError(f"Expected both inputs to be float or double tensors but got {real.dtype} and {imag.dtype}")
    kind = real.dtype.to_complex()
    return ops.Add(cast(real, kind), multiply(cast(imag, kind), np.asarray(1j, kind.numpy)))


@function
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """Complex numbers of their sizes and angles."""
    return complex_(abs * angle.cos(), abs * angle.sin())


def size(z: Tensor) -> Tensor:
    """|z|, with gradient 0 at 0."""

    def backward(g: Tensor) -> list[Tensor]:
        return [multiply(cast(g, z.dtype), direction(z))]

    return derived("AbsBackward", np.abs(concrete(z, "abs()")), (z,), backward)


def direction(z: Tensor) -> Tensor:
    """z / |z|, 0 at 0."""
    length = size(z)
    none = wrap(length._data == 0)
    safe = ops.Where(none, np.ones((), length._data.dtype), length)
    return divide(z, cast(safe, z.dtype))


@both
def angle(input: Tensor) -> Tensor:
    """The angle in radians; of a real number 0 or pi."""
    if is_complex(input):
        return imag(input).atan2(real(input))
    return wrap(np.angle(concrete(input, "angle()")).astype(input._data.dtype))


@both
def view_as_real(input: Tensor) -> Tensor:
    """[*, 2]: real and imaginary parts as a last dimension."""
    if not is_complex(input):
        raise RuntimeError("view_as_real is only supported for complex tensors")
    from headrace.functional.joins import stack

    return stack([real(input), imag(input)], -1)


@both
def view_as_complex(input: Tensor) -> Tensor:
    """Complex numbers of a last dimension of size 2."""
    if input._data.ndim == 0 or input._data.shape[-1] != 2:
        raise RuntimeError("Tensor must have a last dimension of size 2")
    first, second = input.unbind(-1)
    return complex_(first, second)
