"""Depthwise convolutions, whose neighbouring pixels share the columns that they see where their windows overlap."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from one_kernel import run
from test_conv import array, check, first, last, reference
from tiers import TIERS

CONV = "headrace.cpu.Conv"
# size, kernel, stride, pads before and behind, dilation
AXIS = st.tuples(*(st.integers(least, most) for least, most in [(1, 22), (1, 6), (1, 4), (0, 3), (0, 3), (1, 3)]))


@given(AXIS, AXIS, st.sampled_from([2, 8, 19, 32, 53, 80]), st.booleans())
def test_windows_of_every_form(rows: tuple[int, ...], columns: tuple[int, ...], channels: int, add: bool) -> None:
    sizes, kernel, strides, begin, end, dilations = zip(rows, columns, strict=True)
    axes = zip(sizes, kernel, begin, end, dilations, strict=True)
    assume(all(size + before + behind > (taps - 1) * apart for size, taps, before, behind, apart in axes))
    attributes = {"group": channels, "strides": strides, "pads": (*begin, *end), "dilations": dilations}
    x, w, bias = array(1, channels, *sizes), array(channels, 1, *kernel), array(channels)
    want = reference("Conv", [x, w, bias], attributes)
    residual = array(*want.shape) if add else None
    inputs = [last(x), w, bias, last(residual)]
    for tier in TIERS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEADRACE_CPU_TIER", tier)
            one, three = (run(CONV, inputs, attributes, constants=[1, 2], threads=threads) for threads in (1, 3))
        check(first(one), want if residual is None else want + residual, w[0].size)
        assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize(
    "width, kernel, attributes",
    [(517, 3, {}), (700, 5, {"strides": (2,)}), (300, 4, {"strides": (5,)}), (9000, 2, {"dilations": (4500,)})],
)
def test_a_long_row_goes_in_parts(tier: str, width: int, kernel: int, attributes: dict[str, Any]) -> None:
    x, w = array(2, width, 18), array(18, 1, kernel)
    attributes = {"group": 18, **attributes}
    one, three = (run(CONV, [x, w], attributes, constants=[1], threads=threads) for threads in (1, 3))
    check(first(one), reference("Conv", [first(x), w], attributes), kernel)
    assert one.tobytes() == three.tobytes()
