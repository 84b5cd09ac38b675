"""Pools: one pass over a strided view of the input for each element of the window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from headrace.eager.gradients import kept
from headrace.eager.registry import KERNELS, WIDE, Kernel
from headrace.runtime.ops import find
from headrace.runtime.ops.nn._pooling import arranged
from headrace.runtime.ops.window import Window


def _taps(window: Window, counts: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """For each element of the window, the view of the padded input that meets it, row by row."""
    for place in product(*map(range, window.kernel)):
        yield (slice(None), slice(None)) + tuple(
            slice(p * d, p * d + (c - 1) * s + 1, s)
            for p, d, c, s in zip(place, window.dilations, counts, window.strides)
        )


def _padded(x: Any, window: Window, counts: Sequence[int]) -> Any:
    """The input with -inf around it, as far as windows reach; itself where nothing is missing."""
    reach = [(c - 1) * s + e for c, s, e in zip(counts, window.strides, window.extents)]
    if not any(window.begin) and all(r <= n for r, n in zip(reach, x.shape[2:])):
        return x
    sizes = [max(r, b + n) for r, b, n in zip(reach, window.begin, x.shape[2:])]
    full = np.full((*x.shape[:2], *sizes), -np.inf, x.dtype)
    full[(slice(None), slice(None), *(slice(b, b + n) for b, n in zip(window.begin, x.shape[2:])))] = x
    return full


def max_pool(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x = inputs[0]
    if n > 1 or x.dtype not in WIDE or not x.size:
        return _reference("MaxPool", "", inputs, attributes, n)
    window, counts = arranged(attributes, x.shape[2:])
    return (_best(_padded(x, window, counts), window, counts),)


def _best(full: Any, window: Window, counts: Sequence[int]) -> Any:
    best: Any = None
    for part in _taps(window, counts):
        best = full[part].copy() if best is None else np.maximum(best, full[part], out=best)
    return best


def max_pool_grad(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    """dY goes to the first largest element of each window."""
    dy, x = inputs
    if x.dtype not in WIDE or not x.size or np.isnan(x.max()):
        return _reference("MaxPoolGrad", "headrace", inputs, attributes, n)
    window, counts = arranged(attributes, x.shape[2:])
    full = _padded(x, window, counts)
    best = _best(full, window, counts)
    dx = np.zeros(full.shape, dy.dtype)
    open_ = np.ones(best.shape, np.bool_)
    apart = all(s >= e for s, e in zip(window.strides, window.extents))  # no element is in two windows
    for part in _taps(window, counts):
        here = full[part] == best
        here &= open_
        open_ ^= here
        if apart:
            dx[part] = kept(dy, here)
        else:
            dx[part] += kept(dy, here)
    inside = tuple(slice(b, b + size) for b, size in zip(window.begin, x.shape[2:]))
    return (dx[(slice(None), slice(None), *inside)] if full is not x else dx,)


def _reference(name: str, domain: str, inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    operator = find(name, domain)
    assert operator is not None
    return operator.reference(inputs, attributes, n)


_POOLS: dict[str, Kernel] = {"MaxPool": max_pool, "headrace.MaxPoolGrad": max_pool_grad}
KERNELS.update(_POOLS)
