"""The error function on arrays, as accurate as float64 allows.

W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23 (1969): three
intervals, each a ratio of two polynomials, relative error below 1e-16.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_SMALL = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
     8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_LARGE = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346725e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)


def _ratio(pair: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
    return np.polyval(pair[0], x) / np.polyval(pair[1], x)


_EDGE = 0.46875  # below it erf is computed, above it erfc


def _near(wide: Any) -> Any:
    """erf for |x| <= 0.46875."""
    return wide * _ratio(_SMALL, np.minimum(np.abs(wide), 0.5) ** 2)


def _tail(size: Any) -> Any:
    """erfc for x >= 0.46875; 0 beyond 27, where float64 has nothing smaller."""
    bounded = np.clip(size, _EDGE, 27.5)
    middle = _ratio(_MIDDLE, np.minimum(bounded, 4.0))
    z = 1.0 / np.maximum(bounded, 4.0) ** 2
    large = (1 / math.sqrt(math.pi) - z * _ratio(_LARGE, z)) / bounded
    # exp(-x * x) with x split at a sixteenth, so that the square's rounding is not magnified
    step = np.trunc(bounded * 16.0) / 16.0
    bell = np.exp(-step * step) * np.exp(-(bounded - step) * (bounded + step))
    return bell * np.where(bounded <= 4.0, middle, large)


def erf(x: Any) -> Any:
    """erf of a float32 or float64 array; computed in float64."""
    x = np.asarray(x)
    wide = x.astype(np.float64)
    size = np.abs(wide)
    result = np.where(size <= _EDGE, _near(wide), np.copysign(1.0 - _tail(size), wide))
    return np.where(np.isnan(wide), wide, result).astype(x.dtype)


def erfc(x: Any) -> Any:
    """1 - erf(x), accurate where it is tiny."""
    x = np.asarray(x)
    wide = x.astype(np.float64)
    size = np.abs(wide)
    tail = _tail(size)
    result = np.where(size <= _EDGE, 1.0 - _near(wide), np.where(wide > 0, tail, 2.0 - tail))
    return np.where(np.isnan(wide), wide, result).astype(x.dtype)
