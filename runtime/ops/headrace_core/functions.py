"""Special functions on float64 arrays: the inverse of erf, the logarithm of gamma, and the polygamma functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.runtime.ops.elementwise.erf import erf, erfc

# Bernoulli numbers B2, B4, ... B16.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
_SHIFT = 16.0  # from here on the asymptotic series are good to float64

# M. Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011): a start good to float32.
_CENTRE = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_TAIL = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


def erfinv(y: Any) -> Any:
    """x with erf(x) = y: Giles's start, then Halley steps, in the tails on erfc (where the start is rough)."""
    wide = np.asarray(y, np.float64)
    size = np.abs(wide)
    inside = np.clip(size, 0.0, np.nextafter(1.0, 0.0))
    w = -np.log((1.0 - inside) * (1.0 + inside))
    x = inside * np.where(w < 5.0, np.polyval(_CENTRE, w - 2.5), np.polyval(_TAIL, np.sqrt(np.maximum(w, 5.0)) - 3.0))
    for _ in range(6):
        error = np.where(inside < 0.5, erf(x) - inside, (1.0 - inside) - erfc(x))
        step = error / (2.0 / math.sqrt(math.pi) * np.exp(-x * x))
        x = x - step / (1.0 + x * step)  # Halley's correction: cubic convergence
    x = np.where(size == 1.0, np.inf, np.where(size > 1.0, np.nan, x))
    return np.where(np.isnan(wide), np.nan, np.copysign(x, wide)).astype(np.asarray(y).dtype)


def lgamma(x: Any) -> Any:
    """log|gamma(x)|: Stirling's series after shifting up, reflection below 0.5, Taylor's near the zeros at 1 and 2."""
    wide = np.asarray(x, np.float64)
    reflected = wide < 0.5
    z = np.where(reflected, 1.0 - wide, wide)
    result = np.where(np.abs(z - 1.5) < 1.0, _between(np.clip(z, 0.5, 2.5)), _stirling(z))
    fraction = wide - np.round(wide)  # sin(pi x) of large x without losing digits
    mirror = math.log(math.pi) - np.log(np.abs(np.sin(math.pi * fraction))) - result
    result = np.where(reflected, mirror, result)
    pole = (wide <= 0) & (wide == np.floor(wide))
    result = np.where(pole | np.isinf(wide), np.inf, result)
    return np.where(np.isnan(wide), np.nan, result).astype(np.asarray(x).dtype)


def _stirling(z: Any) -> Any:
    """For z >= 0.5. The shift's factors are multiplied before one logarithm is taken."""
    z = np.asarray(z)
    product = np.ones_like(z)
    for _ in range(int(_SHIFT)):
        low = z < _SHIFT
        product = np.where(low, product * z, product)
        z = np.where(low, z + 1.0, z)
    series = np.zeros_like(z)
    for k, b in enumerate(_BERNOULLI, 1):
        series = series + b / (2 * k * (2 * k - 1) * z ** (2 * k - 1))
    return (z - 0.5) * np.log(z) - z + 0.5 * math.log(2 * math.pi) + series - np.log(product)


def _between(z: Any) -> Any:
    """log gamma on [0.5, 2.5] by its zeros: log gamma(1 + t) as a series in t with zeta values, shifted to |t| <= 0.5."""
    near_two = z > 1.5
    t = np.where(near_two, z - 2.0, z - 1.0)
    euler = 0.57721566490153286061
    total = np.zeros_like(t)
    for n in range(60, 1, -1):
        total = total + (-1) ** n * _zeta(n) * t**n / n
    return total - euler * t + np.where(near_two, np.log1p(t), 0.0)


def _zeta(n: int) -> float:
    """Riemann's zeta of an integer >= 2, by Euler and Maclaurin."""
    cut = 12
    head = math.fsum(k**-n for k in range(1, cut))
    tail = float(cut) ** (1 - n) / (n - 1) + 0.5 * float(cut) ** -n
    factor = float(n) * cut ** (-n - 1)
    for k, b in enumerate(_BERNOULLI, 1):
        tail += b / math.factorial(2 * k) * factor
        factor *= (n + 2 * k - 1) * (n + 2 * k) / cut**2
    return head + tail


def polygamma(x: Any, n: int) -> Any:
    """The n-th derivative of digamma (n = 0: digamma itself), shifted up and then by its asymptotic series.

    Below zero: reflection for n = 0 and 1, else the shift alone, which reaches down to -48.
    """
    wide = np.asarray(x, np.float64)
    reflected = (wide < 0.0) & (n < 2)
    z = np.where(reflected, 1.0 - wide, wide)
    sign = -1.0 if n % 2 == 0 else 1.0
    total = np.zeros_like(z)
    for _ in range(64):
        low = z < _SHIFT
        total = np.where(low, total + math.factorial(n) / np.where(low, z, 1.0) ** (n + 1), total)
        z = np.where(low, z + 1.0, z)
    series = math.factorial(n) / (2 * z ** (n + 1))
    for k, b in enumerate(_BERNOULLI, 1):
        series = series + b * math.factorial(2 * k + n - 1) / (math.factorial(2 * k) * z ** (2 * k + n))
    lead = np.log(z) if n == 0 else math.factorial(n - 1) / z**n
    result = (lead - series if n == 0 else sign * (lead + series)) + sign * total
    if n < 2:
        fraction = math.pi * (wide - np.round(wide))
        mirror = result - math.pi / np.tan(fraction) if n == 0 else (math.pi / np.sin(fraction)) ** 2 - result
        result = np.where(reflected, mirror, result)
    pole = (wide <= 0) & (wide == np.floor(wide))
    at_pole = np.nan if n == 0 else np.inf
    result = np.where(pole, np.where((wide == 0) & (n == 0), -np.copysign(np.inf, wide), at_pole), result)
    if n == 0:
        result = np.where(np.isposinf(wide), np.inf, result)
    return np.where(np.isnan(wide) | np.isneginf(wide), np.nan, result).astype(np.asarray(x).dtype)
