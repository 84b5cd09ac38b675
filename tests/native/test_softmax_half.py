"""Softmax of float16 is the function by which ONNX defines it, every step of it in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_kernel import run

from headrace.runtime.ops import find


def steps(x: np.ndarray, axis: int) -> np.ndarray:
    """The standard's function body in NumPy, whose float16 arithmetic rounds every result; the sum in one go."""
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True, dtype=np.float32).astype(np.float16)


def reference(x: np.ndarray, axis: int) -> Any:
    softmax = find("Softmax")
    assert softmax is not None
    return softmax.reference([x], {"axis": axis})[0]


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("spread", [0.5, 4.0, 12.0])
def test_every_step_rounds(spread: float, axis: int, tier: str) -> None:
    x = (np.random.default_rng(7).standard_normal((5, 19, 33)) * spread).astype(np.float16)
    wanted = steps(x, axis)
    assert np.array_equal(reference(x, axis), wanted)
    found = run("Softmax", [x], {"axis": axis}, ["float16"], threads=2)
    # The native exponential may lie on the other side of a tie: once in some thousands.
    assert np.mean(found != wanted) < 0.005
    assert np.all(np.abs(found.astype(np.float32) - wanted) <= 2 * np.spacing(wanted).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 70000), (70000, 1)])
def test_a_sum_beyond_float16_is_kept(shape: tuple[int, int], tier: str) -> None:
    """1 / 70000 is a float16; 70000 is none."""
    x, axis = np.zeros(shape, np.float16), int(np.argmax(shape))
    for found in (reference(x, axis), run("Softmax", [x], {"axis": axis}, ["float16"])):
        np.testing.assert_array_equal(found, np.full(shape, 1 / 70000, np.float16))


def test_a_row_of_minus_infinities_and_one_with_a_nan(tier: str) -> None:
    x = np.array([[-np.inf] * 5, [0, 1, np.nan, 2, 3], [-np.inf, 0, 0, -np.inf, 0]], np.float16)
    found = run("Softmax", [x], {"axis": -1}, ["float16"])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found, steps(x, -1))
