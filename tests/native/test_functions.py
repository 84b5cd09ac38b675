"""Vector functions near their limits, and rows of softmax and of normalizations: each tier beside float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from one_kernel import run

ERF, ERFC = np.vectorize(math.erf, otypes=[np.float64]), np.vectorize(math.erfc, otypes=[np.float64])
# A function, its range, and its error: at most so many units in the last place, and so much beside that.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float, float, float, float]] = {
    "Exp": (np.exp, -110, 88.7, 3, 2e-45),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -110, 110, 4, 2e-45),
    "Tanh": (np.tanh, -20, 20, 4, 0),
    "Erf": (ERF, -6, 6, 4, 0),
    "Gelu": (lambda x: x * 0.5 * ERFC(-x / math.sqrt(2)), -15, 15, 4, 3e-7),
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_error_beside_float64(tier: str, op: str) -> None:
    exact, low, high, units, beside = FUNCTIONS[op]
    x = np.concatenate([np.linspace(low, high, 40001), np.geomspace(1e-30, 1, 301), -np.geomspace(1e-30, 1, 301)])
    x = x.astype(np.float32)
    found, want = run(op, [x]).astype(np.float64), exact(x.astype(np.float64))
    room = units * np.spacing(np.abs(want).astype(np.float32)).astype(np.float64) + beside
    assert (np.abs(found - want) <= room).all(), x[np.argmax(np.abs(found - want) / room)]


@pytest.mark.parametrize("op", FUNCTIONS)
def test_what_is_no_number(tier: str, op: str) -> None:
    exact = FUNCTIONS[op][0]
    x = np.array([0.0, -0.0, np.inf, np.nan, 1e30, 1e-40, -1e-40] * 3, np.float32)
    found = run(op, [x])
    with np.errstate(over="ignore", invalid="ignore"):
        want = exact(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-44)
    if exact(0.0) == 0:
        np.testing.assert_array_equal(np.signbit(found[:2]), [False, True])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("n", [1, 5, 16, 33, 128])
def test_rows_of_softmax_do_not_meet(tier: str, op: str, n: int) -> None:
    x = (np.random.default_rng(n).standard_normal((11, n)) * 20).astype(np.float32)
    x[2, n // 2], x[5, 0], x[7], x[9] = np.nan, np.inf, -np.inf, -1e30
    whole = run(op, [x])
    for row in range(len(x)):
        np.testing.assert_array_equal(run(op, [x[row : row + 1]]), whole[row : row + 1])  # the sign of a NaN is free
    with np.errstate(invalid="ignore", divide="ignore"):
        below = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        want = np.exp(below) / np.exp(below).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(whole, want if op == "Softmax" else np.log(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("n", [1, 5, 33, 130, 1031])
def test_rows_of_normalizations_do_not_meet(tier: str, op: str, n: int) -> None:
    """Rows go several at a time, and each in pieces of 1024 numbers; beside float64, and alone."""
    rng = np.random.default_rng(n)
    x, scale = (rng.standard_normal(shape).astype(np.float32) for shape in ((11, n), (n,)))
    x[4] += 100
    x[2, n // 2], x[8] = np.nan, 0
    whole = run(op, [x, scale])
    for row in range(len(x)):
        np.testing.assert_array_equal(run(op, [x[row : row + 1], scale]), whole[row : row + 1])
    wide = x.astype(np.float64)
    centered = wide - wide.mean(axis=1, keepdims=True) if op == "LayerNormalization" else wide
    want = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(whole, want, rtol=1e-5, atol=1e-3 if n < 3 else 2e-4)
