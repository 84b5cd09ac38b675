"""Resampling along one axis: which input elements, with which weights, make each output element (ONNX Resize)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def coordinates(mode: str, size: int, count: int, scale: float, roi: tuple[float, float]) -> tuple[Any, Any]:
    """The place in the input of each of `count` output elements, and where it is outside (tf_crop_and_resize only)."""
    x = np.arange(count, dtype=np.float64)
    length = scale * size  # before rounding to `count`
    outside = np.zeros(count, bool)
    match mode:
        case "align_corners":
            place = x * (size - 1) / (length - 1) if length != 1 else x * 0
        case "asymmetric":
            place = x / scale
        case "tf_crop_and_resize":
            start, end = roi
            place = start * (size - 1) + (
                x * (end - start) * (size - 1) / (length - 1) if length != 1 else x * 0 + (end - start) * (size - 1) / 2
            )
            outside = (place < 0) | (place > size - 1)
        case "pytorch_half_pixel":
            place = (x + 0.5) / scale - 0.5 if length != 1 else x * 0 - 0.5
        case "half_pixel_symmetric":
            place = size / 2 * (1 - count / length) + (x + 0.5) / scale - 0.5
        case "tf_half_pixel_for_nn":
            place = (x + 0.5) / scale
        case _:
            place = (x + 0.5) / scale - 0.5
    return place, outside


def cubic(t: Any, a: float) -> Any:
    """Keys' cubic convolution kernel."""
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def weights(place: Any, size: int, scale: float, attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """(indices, weights), both [count, taps]: out[i] = sum over k of weights[i, k] * x[indices[i, k]]."""
    left = np.ceil(place).astype(np.int64) - 1  # the distance from `left` lies in (0, 1]
    ratio = place - left
    mode = attributes["mode"]
    if mode == "nearest":
        right = _rounds_right(ratio, attributes["nearest_mode"])
        return np.clip(left + right, 0, size - 1)[:, None], np.ones((len(place), 1))
    support = 1 if mode == "linear" else 2
    shrink = min(scale, 1.0) if attributes["antialias"] else 1.0
    first = int(np.floor(-support / shrink)) + 1
    taps = np.arange(first, 2 - first)
    distance = (taps - ratio[:, None]) * shrink
    kernel = np.clip(1 - np.abs(distance), 0, 1) if mode == "linear" else cubic(distance, attributes["cubic_coeff_a"])
    if attributes["antialias"]:
        kernel = kernel / kernel.sum(axis=1, keepdims=True)
    places = left[:, None] + taps
    if attributes["exclude_outside"]:
        kernel = np.where((places < 0) | (places >= size), 0, kernel)
        kernel = kernel / kernel.sum(axis=1, keepdims=True)
    return np.clip(places, 0, size - 1), kernel


def _rounds_right(ratio: Any, nearest_mode: str) -> Any:
    match nearest_mode:
        case "round_prefer_floor":
            return ratio > 0.5
        case "round_prefer_ceil":
            return ratio >= 0.5
        case "floor":
            return ratio == 1
        case _:
            return np.ones(ratio.shape, bool)


def apply_axis(x: Any, axis: int, indices: Any, factors: Any) -> Any:
    """Resample one axis."""
    if indices.shape[1] == 1 and np.all(factors == 1):
        return np.take(x, indices[:, 0], axis=axis)
    shape = [-1 if place == axis else 1 for place in range(x.ndim)]
    total = 0
    for tap in range(indices.shape[1]):
        total = total + np.take(x, indices[:, tap], axis=axis) * factors[:, tap].astype(x.dtype).reshape(shape)
    return total


def apply_axis_transposed(dy: Any, axis: int, size: int, indices: Any, factors: Any) -> Any:
    """The gradient of `apply_axis` for x, whose axis has `size` elements."""
    moved = np.moveaxis(dy, axis, 0)
    total = np.zeros((size, *moved.shape[1:]), dy.dtype)
    for tap in range(indices.shape[1]):
        np.add.at(total, indices[:, tap], moved * factors[:, tap].astype(dy.dtype).reshape(-1, *[1] * (moved.ndim - 1)))
    return np.moveaxis(total, 0, axis)
