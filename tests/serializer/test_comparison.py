"""The one comparison of answers with wanted answers (runtime/golden.py)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.golden import allowed, difference

F = np.float32


@pytest.mark.parametrize(
    "got, want, message",
    [
        (F([1, 2]), F([[1, 2]]), r"has shape [2], wanted is [1, 2]"),
        (F([1, np.nan]), F([1, 2]), "has NaN"),
        (F([1, 2]), F([1, np.nan]), "has NaN"),
        (F([1, np.inf]), F([1, 2]), "deviates by inf"),
        (F([1, np.inf]), F([1, -np.inf]), "deviates by inf"),
        (F([1, 3]), F([1, 2]), "deviates by 1; allowed are 0.0021"),
        (np.int64([1, 3]), np.int64([1, 2]), "compared exactly: int64"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "compared exactly: object"),
        (np.complex64([1 + 1j]), np.complex64([1 - 1j]), "deviates by 2"),
        ([F([1])], [F([2])], "at 0 deviates by 1"),
        ([F([1])], [F([1]), F([1])], "another list"),
        ({"a": 1.0}, {"b": 1.0}, "another dict"),
    ],
)
def test_what_is_beyond_the_bound_is_named(got: object, want: object, message: str) -> None:
    assert message in difference(got, want, 1e-3, 1e-4).message


@pytest.mark.parametrize(
    "array",
    [
        F([1, np.nan, np.inf, -np.inf]),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.zeros((0, 3), F),
        np.array(["a"], object),
        np.complex64([1j]),
        [F([1]), F([2, 3])],
        {"a": 0.5},
    ],
)
def test_equal_answers_have_no_difference(array: object) -> None:
    seen = difference(array, array, 0.0, 0.0)
    assert (seen.error, seen.message) == (0.0, "")


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), st.floats(-1, 1))
def test_the_bound_is_a_share_of_the_largest_element(values: list[float], share: float) -> None:
    want = np.array(values, np.float64)
    bound = allowed(want, 1e-3, 1e-4)
    assert not difference(want + 0.99 * share * bound, want, 1e-3, 1e-4).message
    assert difference(want + 1.01 * bound, want, 1e-3, 1e-4).message
