"""Convolutions, pools and resizing: against the operators' references, over odd shapes and every attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from one_kernel import run
from test_gemm import ACTIVATIONS

from headrace.runtime.ops import find

RNG = np.random.default_rng(11)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def reference(op: str, inputs: list[Any], attributes: Mapping[str, Any], outputs: int = 1) -> Any:
    operator = find(op, "")
    wide = [x if x is None or x.dtype != np.float32 else x.astype(np.float64) for x in inputs]
    return operator.reference(wide, operator.complete(attributes), outputs)[0]


def last(x: np.ndarray | None) -> np.ndarray | None:
    return None if x is None else np.ascontiguousarray(np.moveaxis(x, 1, -1))


def first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


# x [N, C, *sizes], w [M, C/group, *kernel], attributes
CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 7, 5), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 16, 9, 11), (24, 16, 1, 1), {}),
    ((3, 20, 5, 6), (33, 20, 1, 1), {"strides": (2, 2)}),
    ((1, 64, 8, 8), (48, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 70, 6, 7), (17, 70, 3, 3), {"pads": (2, 0, 1, 3), "strides": (2, 1)}),
    ((1, 300, 4, 4), (20, 300, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 3, 33, 31), (16, 3, 7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    ((2, 1, 12, 9), (5, 1, 5, 3), {"pads": (4, 2, 0, 1), "strides": (3, 2)}),
    ((1, 4, 20, 20), (8, 4, 3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    ((1, 32, 14, 15), (8, 32, 3, 2), {"dilations": (3, 2), "pads": (1, 2, 3, 0), "strides": (1, 2)}),
    ((1, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "strides": (2, 3), "pads": (0, 2, 1, 0)}),
    ((2, 48, 7, 7), (96, 16, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
    ((1, 5, 6, 6), (5, 1, 3, 3), {"group": 5, "pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ((2, 37, 9, 9), (37, 1, 3, 3), {"group": 37, "pads": (1, 1, 1, 1)}),
    ((1, 64, 11, 5), (64, 1, 5, 5), {"group": 64, "pads": (2, 2, 2, 2), "dilations": (2, 1), "auto_pad": "NOTSET"}),
    ((2, 70, 6, 13), (70, 1, 3, 3), {"group": 70, "pads": (1, 1, 1, 1)}),
    ((1, 64, 11, 19), (64, 1, 3, 3), {"group": 64, "pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ((2, 48, 9, 12), (48, 1, 3, 3), {"group": 48, "pads": (0, 2, 1, 3), "strides": (3, 1), "dilations": (2, 1)}),
    ((1, 32, 7, 26), (32, 1, 3, 3), {"group": 32, "pads": (1, 0, 1, 0), "strides": (1, 3)}),
    ((1, 32, 9, 18), (32, 1, 3, 3), {"group": 32, "dilations": (1, 2)}),
    ((1, 8, 10, 10), (16, 1, 3, 3), {"group": 8}),
    ((1, 2, 10), (3, 2, 3), {"dilations": (2,), "pads": (2, 1)}),
    ((2, 40, 33), (50, 40, 4), {"strides": (3,)}),
    ((1, 2, 5, 4, 6), (2, 2, 2, 3, 1), {"strides": (1, 2, 2)}),
    ((1, 20, 4, 5, 6), (7, 20, 3, 3, 3), {"pads": (1, 1, 1, 1, 1, 1)}),
    ((1, 3, 6, 7), (2, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 30, 6, 7), (2, 30, 2, 3), {"auto_pad": "SAME_LOWER"}),
    ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": (-1, 1, 1, -2)}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((0, 3, 5, 5), (2, 3, 3, 3), {}),
    ((1, 16, 5, 5), (16, 16, 5, 5), {}),
]


def check(got: np.ndarray, want: np.ndarray, depth: float) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * (4 + 8 * depth**0.5))


@pytest.mark.parametrize("x, w, attributes", CONVS)
def test_conv(tier: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    inputs = [array(*x), array(*w), array(w[0])]
    depth = np.prod(w[1:])
    for given in (inputs, inputs[:2]):
        want = reference("Conv", given, attributes)
        channels_last = [last(given[0]), *given[1:]]
        for constants in ([], [1], [1, 2][: len(given) - 1]):
            check(run("Conv", given, attributes, constants=constants), want, depth)
            check(first(run("headrace.cpu.Conv", channels_last, attributes, constants=constants)), want, depth)


@pytest.mark.parametrize(
    "w, group", [((24, 24, 3, 3), 1), ((24, 3, 3, 3), 8), ((24, 1, 3, 3), 24), ((10, 24, 1, 1), 1)]
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_conv(tier: str, w: tuple[int, ...], group: int, activation: str) -> None:
    pad = w[-1] // 2
    attributes = {"group": group, "pads": (pad,) * 4}
    x, weight, bias = array(2, 24, 6, 9), array(*w), array(w[0])
    r = array(2, w[0], 6, 9)
    fused = {**attributes, "activation": activation, "clip_min": -0.5, "clip_max": 1.25}
    for given in ([bias, r], [None, r], [bias, None]):
        total = reference("Conv", [x, weight, given[0]], attributes) + (0 if given[1] is None else r)
        want = ACTIVATIONS[activation](total)
        check(run("headrace.FusedConv", [x, weight, *given], fused, constants=[1]), want, np.prod(w[1:]))
        got = run("headrace.cpu.Conv", [last(x), weight, given[0], last(given[1])], fused, constants=[1])
        check(first(got), want, np.prod(w[1:]))


@pytest.mark.parametrize("x, w, attributes", CONVS[:25])
def test_an_image_has_the_same_bytes_in_every_batch(
    tier: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    images, weight = array(5, *x[1:]), array(*w)
    whole = run("Conv", [images, weight], attributes, constants=[1])
    for i in range(5):
        assert (
            run("Conv", [images[i : i + 1], weight], attributes, constants=[1]).tobytes() == whole[i : i + 1].tobytes()
        )
    assert run("Conv", [images, weight], attributes, constants=[1], threads=2).tobytes() == whole.tobytes()
    assert run("Conv", [images, weight], attributes).tobytes() == whole.tobytes()


def test_special_values_stay_where_they_are(tier: str) -> None:
    x = array(1, 8, 6, 6)
    x[0, 2, 3, 3] = np.nan
    got = run("Conv", [x, array(4, 8, 3, 3)], {"pads": (1, 1, 1, 1)})
    touched = np.zeros((6, 6), bool)
    touched[2:5, 2:5] = True
    assert (np.isnan(got) == touched).all()


def test_wrong_shapes_are_refused(tier: str) -> None:
    for x, w, attributes, match in (
        ((1, 3, 5, 5), (2, 4, 3, 3), {}, "does not fit"),
        ((1, 3, 5), (2, 3, 3, 3), {}, "ranks"),
        ((1, 3, 2, 2), (2, 3, 5, 5), {}, "too small"),
        ((1, 3, 5, 5), (2, 3, 3, 3), {"kernel_shape": (3, 2)}, "kernel_shape"),
        ((1, 3, 5, 5), (2, 3, 3, 3), {"strides": (1,)}, "strides"),
    ):
        with pytest.raises(Exception, match=match):
            run("Conv", [array(*x), array(*w)], attributes)


POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 7), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ((1, 37, 7, 6), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 16, 7, 8), {"kernel_shape": (3, 2), "strides": (2, 3), "ceil_mode": 1}),
    ((1, 2, 6, 6), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 1, 1), "ceil_mode": 1}),
    ((1, 65, 9), {"kernel_shape": (3,), "dilations": (2,)}),
    ((1, 2, 4, 5, 4), {"kernel_shape": (2, 3, 2), "strides": (1, 2, 2)}),
    ((1, 2, 6, 5), {"kernel_shape": (3, 2), "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 20, 6, 5), {"kernel_shape": (2, 2), "auto_pad": "SAME_LOWER"}),
    ((0, 2, 6, 5), {"kernel_shape": (2, 2)}),
    ((1, 3, 3, 5), {"kernel_shape": (64, 40), "strides": (64, 40), "ceil_mode": 1}),  # larger than the image
    ((1, 3, 40, 50), {"kernel_shape": (40, 50)}),
]


@pytest.mark.parametrize("shape, attributes", POOLS)
def test_pools_over_channels_last(tier: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    x = array(*shape)
    np.testing.assert_array_equal(
        first(run("headrace.cpu.MaxPool", [last(x)], attributes)),
        reference("MaxPool", [x], attributes).astype(np.float32),
    )
    if x.size:
        x[0, 0] = np.nan
        np.testing.assert_array_equal(
            first(run("headrace.cpu.MaxPool", [last(x)], attributes)),
            reference("MaxPool", [x], attributes).astype(np.float32),
        )
    for kind in ("uint8", "int8"):
        y = RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, shape).astype(kind)
        np.testing.assert_array_equal(
            first(run("headrace.cpu.MaxPool", [last(y)], attributes, [kind])), reference("MaxPool", [y], attributes)
        )
    x = array(*shape)
    for include in (0, 1):
        given = {**attributes, "count_include_pad": include}
        check(first(run("headrace.cpu.AveragePool", [last(x)], given)), reference("AveragePool", [x], given), 1)


@pytest.mark.parametrize(
    "x, w, attributes",
    [
        ((1, 2, 3, 3), (2, 4, 3, 3), {}),
        ((2, 4, 4, 3), (4, 2, 2, 3), {"group": 2, "strides": (2, 2), "pads": (0, 1, 1, 0)}),
        ((1, 24, 5, 7), (24, 24, 2, 2), {"strides": (2, 2)}),
        ((1, 2, 5), (2, 3, 3), {"strides": (3,), "output_padding": (1,)}),
        ((1, 1, 3, 3), (1, 2, 3, 3), {"strides": (3, 2), "output_shape": (10, 8)}),
        ((1, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
        ((1, 1, 3, 3), (1, 1, 2, 2), {"dilations": (2, 2)}),
        ((2, 3, 2, 3, 2), (3, 2, 2, 2, 2), {"strides": (2, 1, 2)}),
        ((1, 17, 6, 6), (17, 9, 4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ],
)
def test_conv_transpose(tier: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    inputs = [array(*x), array(*w), array(w[1] * attributes.get("group", 1))]
    for given in (inputs, inputs[:2]):
        want = reference("ConvTranspose", given, attributes)
        for constants in ([], [1]):
            for threads in (1, 2):
                check(run("ConvTranspose", given, attributes, constants=constants, threads=threads), want, w[0])
            check(
                first(run("headrace.cpu.ConvTranspose", [last(given[0]), *given[1:]], attributes, constants=constants)),
                want,
                w[0],
            )
