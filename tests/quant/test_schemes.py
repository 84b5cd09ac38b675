"""Scales, zero points and the rounding formula: ties, saturation, odd ranges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.quant import schemes

reals = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(reals, reals)
def test_activation_ranges_hold_zero_exactly(a: float, b: float) -> None:
    scheme = schemes.activation(min(a, b), max(a, b))
    assert scheme.dtype == np.uint8 and scheme.scale.dtype == np.float32 and scheme.scale > 0
    assert scheme.dequantize(scheme.quantize(np.zeros(1, np.float32)))[0] == 0.0


@given(st.lists(reals, min_size=1, max_size=30), st.sampled_from(["uint8", "int8"]))
def test_error_is_at_most_half_a_step_inside_the_range(values: list[float], dtype: str) -> None:
    array = np.array(values, np.float32)
    scheme = schemes.activation(array.min(), array.max(), dtype)
    back = scheme.dequantize(scheme.quantize(array))
    limit = float(scheme.scale) * 1.01 + 1e-6  # half a step for rounding, half for the rounded zero point
    assert np.abs(back.astype(np.float64) - array).max() <= limit


def test_ties_go_to_even_and_values_saturate() -> None:
    scheme = schemes.Scheme(np.float32(1.0).reshape(()), np.array(10, np.uint8))
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9], np.float32)
    assert scheme.quantize(values).tolist() == [10, 12, 12, 10, 8, 255, 0]


def test_a_range_of_no_width() -> None:
    assert schemes.activation(0.0, 0.0).scale == 1.0
    assert schemes.activation(1e-45, 1e-45).scale == 1.0


def test_a_positive_range_starts_at_zero() -> None:
    scheme = schemes.activation(3.0, 51.0)
    assert scheme.zero == 0 and scheme.scale == np.float32(0.2)


def test_weights_are_symmetric_by_channel() -> None:
    array = np.array([[1.0, -2.0], [0.0, 0.0], [-254.0, 127.0]], np.float32)
    integers, scheme = schemes.weights(array, 0)
    assert scheme.scale.tolist() == pytest.approx([2 / 127, 1.0, 2.0])
    assert integers.tolist() == [[64, -127], [0, 0], [-127, 64]]  # 63.5 goes to the even 64
    assert not scheme.zero.any() and integers.dtype == np.int8


@given(st.integers(0, 1))
def test_weights_keep_within_half_a_step(axis: int) -> None:
    array = np.random.default_rng(3).standard_normal((5, 7)).astype(np.float32)
    integers, scheme = schemes.weights(array, axis)
    steps = scheme.scale.reshape((-1, 1) if axis == 0 else (1, -1))
    assert np.all(np.abs(scheme.dequantize(integers, axis) - array) <= steps * 0.5001)


def test_a_large_bias_widens_the_weight_scale() -> None:
    bias, x_scale = np.array([1e9, 0.0], np.float32), np.float32(1e-3)
    least = schemes.least_weight_scale(bias, x_scale)
    _, scheme = schemes.weights(np.ones((2, 3), np.float32), 0, least)
    steps, scale = schemes.bias(bias, x_scale, scheme.scale)
    np.testing.assert_allclose(steps * scale, bias, rtol=1e-5)
    assert np.abs(steps.astype(np.int64)).max() <= 2**30 + 64
