"""Reading an image [N, C, *sizes] at places between its elements: nearest, linear or cubic, any number of axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from headrace.runtime.ops.move._resample import cubic

TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


def reflect(places: Any, low: float, high: float) -> Any:
    """Places folded back at both borders until they lie inside."""
    span = high - low
    if span <= 0:
        return np.full_like(places, low)
    distance = np.where(places < low, low - places, np.where(places > high, places - high, 0))
    turns = np.floor(distance / span)
    rest = distance - turns * span
    from_low = (places < low) == (turns % 2 == 0)
    folded = np.where(from_low, low + rest, high - rest)
    return np.where((places < low) | (places > high), folded, places)


def sample(x: Any, places: Sequence[Any], mode: str, padding: str, borders: Sequence[tuple[float, float]]) -> Any:
    """Values [N, C, *out] at `places`, one array [N, *out] for each spatial axis, in units of elements.

    padding: "zeros" reads 0 outside, "border" the nearest element, "reflection" folds back at `borders`.
    """
    axes = _axes(x, places, mode, padding, borders)
    channels_last = np.moveaxis(x, 1, -1)
    total: Any = 0
    for taps, index in _neighbours(x, axes, mode):
        weight = _product([axes[axis][1][tap] for axis, tap in enumerate(taps)])
        total = total + channels_last[index] * weight[..., None].astype(x.dtype)
    return np.moveaxis(total, -1, 1)


def sample_gradient(
    x: Any, places: Sequence[Any], mode: str, padding: str, borders: Sequence[tuple[float, float]], dy: Any
) -> tuple[Any, list[Any]]:
    """The gradients of `sample` for dy [N, C, *out]: of x, and of each of `places`."""
    axes = _axes(x, places, mode, padding, borders)
    channels_last, dy = np.moveaxis(x, 1, -1), np.moveaxis(dy, 1, -1)
    dx = np.zeros_like(channels_last)
    slopes: list[Any] = [np.zeros_like(place) for place in places]
    for taps, index in _neighbours(x, axes, mode):
        factors = [axes[axis][1][tap] for axis, tap in enumerate(taps)]
        np.add.at(dx, index, dy * _product(factors)[..., None])
        along = (dy * channels_last[index]).sum(-1)
        for axis, tap in enumerate(taps):
            others = factors[:axis] + factors[axis + 1 :]
            slopes[axis] = slopes[axis] + along * _product([axes[axis][2][tap], *others])
    return np.moveaxis(dx, -1, 1), slopes


def _product(factors: Sequence[Any]) -> Any:
    total: Any = 1
    for factor in factors:
        total = total * factor
    return total


def _axes(
    x: Any, places: Sequence[Any], mode: str, padding: str, borders: Sequence[tuple[float, float]]
) -> list[tuple[list[Any], list[Any], list[Any]]]:
    """For each spatial axis the indices, weights and slopes of its taps."""
    found = []
    for size, place, border in zip(x.shape[2:], places, borders):
        moves: Any = 1.0  # the slope of the place that is read by the place that was given
        place = np.rint(place) if mode == "nearest" else place
        if padding == "border" and mode != "cubic":
            moves = ((place > 0) & (place < size - 1)).astype(place.dtype)
            place = np.clip(place, 0, size - 1)
        elif padding == "reflection":
            span = border[1] - border[0]
            turns = np.floor((place - border[0]) / span) if span > 0 else np.zeros_like(place)
            moves = np.where(turns % 2 == 0, 1.0, -1.0)
            place = reflect(place, *border)
        indices, weights, slopes = _axis(place, size, mode, padding, border)
        found.append((indices, weights, [slope * moves for slope in slopes]))
    return found


def _neighbours(x: Any, axes: Sequence[Any], mode: str) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Each choice of one tap an axis, and where it reads [N, *sizes, C]."""
    batch = np.arange(x.shape[0]).reshape(-1, *[1] * (axes[0][0][0].ndim - 1))
    for taps in cartesian(range(len(TAPS[mode])), repeat=len(axes)):
        yield taps, (batch, *(axes[axis][0][tap] for axis, tap in enumerate(taps)))


def _axis(
    place: Any, size: int, mode: str, padding: str, border: tuple[float, float]
) -> tuple[list[Any], list[Any], list[Any]]:
    """For each tap: indices into the axis, weights, and the slopes of the weights by the place."""
    base = np.floor(place)
    part = place - base
    indices, factors, slopes = [], [], []
    for tap in TAPS[mode]:
        weight, slope = _weight(part - tap, mode)
        at = base + tap
        if padding == "zeros":
            outside = (at < 0) | (at > size - 1)
            weight, slope = np.where(outside, 0, weight), np.where(outside, 0, slope)
        elif padding == "reflection":
            at = np.trunc(reflect(at, *border))
        indices.append(np.clip(at, 0, size - 1).astype(np.int64))
        factors.append(weight)
        slopes.append(slope)
    return indices, factors, slopes


def _weight(gap: Any, mode: str) -> tuple[Any, Any]:
    """The weight of a tap at a distance, and its slope. A place on an element belongs to the interval above it."""
    if mode == "nearest":
        return np.ones_like(gap), np.zeros_like(gap)
    if mode == "linear":
        return 1 - np.abs(gap), np.where(gap >= 0, -1.0, 1.0).astype(gap.dtype)
    a, size = -0.75, np.abs(gap)
    near = 3 * (a + 2) * size * size - 2 * (a + 3) * size
    far = 3 * a * size * size - 10 * a * size + 8 * a
    return cubic(gap, a), np.sign(gap) * np.where(size <= 1, near, np.where(size < 2, far, 0))
