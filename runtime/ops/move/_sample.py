"""Reading an image [N, C, *sizes] at places between its elements: nearest, linear or cubic, any number of axes."""

from __future__ import annotations

from collections.abc import Sequence
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
    indices, factors = [], []
    for size, place, border in zip(x.shape[2:], places, borders):
        place = np.rint(place) if mode == "nearest" else place
        if padding == "border" and mode != "cubic":
            place = np.clip(place, 0, size - 1)
        elif padding == "reflection":
            place = reflect(place, *border)
        axis_indices, axis_factors = _axis(place, size, mode, padding, border)
        indices.append(axis_indices)
        factors.append(axis_factors)
    batch = np.arange(x.shape[0]).reshape(-1, *[1] * (places[0].ndim - 1))
    channels_last = np.moveaxis(x, 1, -1)
    total: Any = 0
    for taps in cartesian(range(len(TAPS[mode])), repeat=len(places)):
        weight: Any = 1
        for axis, tap in enumerate(taps):
            weight = weight * factors[axis][tap]
        total = total + channels_last[(batch, *(indices[axis][tap] for axis, tap in enumerate(taps)))] * weight[
            ..., None
        ].astype(x.dtype)
    return np.moveaxis(total, -1, 1)


def _axis(place: Any, size: int, mode: str, padding: str, border: tuple[float, float]) -> tuple[list[Any], list[Any]]:
    """For each tap: indices into the axis and weights."""
    base = np.floor(place)
    part = place - base
    indices, factors = [], []
    for tap in TAPS[mode]:
        weight = (
            np.ones_like(part)
            if mode == "nearest"
            else 1 - np.abs(part - tap)
            if mode == "linear"
            else cubic(part - tap, -0.75)
        )
        at = base + tap
        if padding == "zeros":
            weight = np.where((at < 0) | (at > size - 1), 0, weight)
        elif padding == "reflection":
            at = np.trunc(reflect(at, *border))
        indices.append(np.clip(at, 0, size - 1).astype(np.int64))
        factors.append(weight)
    return indices, factors
