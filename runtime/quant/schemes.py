"""Schemes: from ranges to scales and zero points, and weights to integers.

Activations: uint8, asymmetric, one scale for a tensor. Weights: int8 in [-127, 127], symmetric, one scale for each output
channel. Biases: int32 in units of x_scale * w_scale. All scales are float32; rounding is half to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 127  # of a weight: -128 is left out, so that negation is exact
BIAS_LIMIT = 2**30  # of a bias in integer units: half of int32, the other half is for the products


@dataclass(frozen=True)
class Scheme:
    """real = scale * (integer - zero)"""

    scale: np.ndarray  # float32, () or [channels]
    zero: np.ndarray  # of the integer dtype, same shape

    @property
    def dtype(self) -> np.dtype:
        return self.zero.dtype

    def quantize(self, array: np.ndarray, axis: int | None = None) -> np.ndarray:
        """Integers, saturated."""
        scale, zero = (_along(part, array.ndim, axis) for part in (self.scale, self.zero))
        bounds = np.iinfo(self.dtype)
        steps = np.rint(np.asarray(array, np.float32) / scale) + zero.astype(np.float32)
        return np.asarray(np.clip(steps, bounds.min, bounds.max), self.dtype)

    def dequantize(self, integers: np.ndarray, axis: int | None = None) -> np.ndarray:
        """float32."""
        scale, zero = (_along(part, integers.ndim, axis) for part in (self.scale, self.zero))
        return np.asarray((integers.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale)


def _along(part: np.ndarray, axes: int, axis: int | None) -> np.ndarray:
    return (
        part if axis is None or part.ndim == 0 else part.reshape([-1 if place == axis else 1 for place in range(axes)])
    )


def activation(low: float, high: float, dtype: str = "uint8") -> Scheme:
    """Asymmetric over [low, high], widened to hold 0 exactly (padding and Relu need it). A range of no width: scale 1."""
    bounds = np.iinfo(dtype)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32((high - low) / (int(bounds.max) - int(bounds.min)))
    if not np.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        return Scheme(np.ones((), np.float32), np.zeros((), dtype))
    zero = np.clip(np.rint(bounds.min - low / float(scale)), bounds.min, bounds.max)
    return Scheme(np.asarray(scale), np.asarray(zero).astype(dtype))


def weight_scheme(weights: np.ndarray, axis: int, least: np.ndarray | float = 0.0) -> Scheme:
    """Symmetric, one scale for each channel along `axis`, at least `least`. A channel of zeros: scale 1."""
    others = tuple(place for place in range(weights.ndim) if place != axis)
    largest = np.abs(weights).max(axis=others, initial=0.0).astype(np.float32)
    scale = np.maximum(largest / np.float32(LARGEST), np.float32(least)).astype(np.float32)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1.0), scale).astype(np.float32)
    return Scheme(scale, np.zeros(scale.shape, np.int8))


def weights(array: np.ndarray, axis: int, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, Scheme]:
    """int8 weights and their scheme."""
    scheme = weight_scheme(array, axis, least)
    return np.clip(scheme.quantize(array, axis), -LARGEST, LARGEST), scheme


def least_weight_scale(bias: np.ndarray, x_scale: np.ndarray) -> np.ndarray:
    """The smallest weight scales for which the bias fits its integer units."""
    return (np.abs(bias.astype(np.float64)) / (float(x_scale) * BIAS_LIMIT)).astype(np.float32)


def bias(array: np.ndarray, x_scale: np.ndarray, w_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32 bias and its scale, x_scale * w_scale in float32."""
    scale = (np.float32(x_scale) * w_scale).astype(np.float32)
    steps = np.rint(array.astype(np.float64) / scale.astype(np.float64))
    return np.clip(steps, -(2**31) + 1, 2**31 - 1).astype(np.int32), scale
