"""Integer kernels: the same bytes as the references, on every tier, over odd shapes and extreme values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from one_kernel import run

from headrace.runtime.ops import find

RNG = np.random.default_rng(3)


def levels(*shape: int, kind: str = "uint8", extreme: bool = False) -> np.ndarray:
    """Values over the whole range, or only its ends."""
    info = np.iinfo(kind)
    if extreme:
        return RNG.choice(np.array([info.min, info.max], kind), shape)
    return RNG.integers(info.min, info.max + 1, shape).astype(kind)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def f32(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def same(
    op: str, inputs: list[Any], attributes: Mapping[str, Any] | None = None, *, packed: list[int], ulp: int = 0
) -> None:
    """Native = reference, with constants packed ahead and without, on one and two threads."""
    inputs = [None if x is None else np.asarray(x) for x in inputs]
    domain, _, name = op.rpartition(".")
    operator = find(name, domain)
    assert operator is not None
    want = operator.reference(inputs, operator.complete(attributes or {}), len(operator.outputs))
    kinds = [array.dtype.name for array in want]
    given = {key: value for key, value in operator.complete(attributes or {}).items() if value is not None}
    for constants in ([], packed):
        for threads in (1, 2):
            got = run(
                op,
                inputs,
                given,
                kinds,
                constants=[i for i in constants if i < len(inputs) and inputs[i] is not None],
                threads=threads,
            )
            for a, b in zip(got if isinstance(got, list) else [got], want):
                assert a.shape == b.shape and a.dtype == b.dtype
                if ulp and a.dtype == np.float32:
                    np.testing.assert_array_max_ulp(a, b, ulp)
                else:
                    np.testing.assert_array_equal(a, b)


PRODUCTS = [
    (1, 1, 1),
    (1, 17, 33),
    (3, 5, 2),
    (7, 70, 64),
    (13, 16, 31),
    (40, 33, 129),
    (2, 100, 300),
    (29, 100, 20),
    (70, 9, 5),
    (0, 4, 3),
    (5, 40, 0),
]


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("a_kind", ["uint8", "int8"])
@pytest.mark.parametrize("b_kind", ["uint8", "int8"])
def test_matmul_integer(tier: str, a_kind: str, b_kind: str, extreme: bool) -> None:
    for m, n, k in PRODUCTS:
        a, b = levels(m, k, kind=a_kind, extreme=extreme), levels(k, n, kind=b_kind, extreme=extreme)
        same("MatMulInteger", [a, b], packed=[1])
        same("MatMulInteger", [a, b, levels(kind=a_kind), levels(kind=b_kind)], packed=[1, 2, 3])
        same("MatMulInteger", [a, b, levels(kind=a_kind), levels(n, kind=b_kind)], packed=[1, 3])
        if m > 1:
            same("MatMulInteger", [a, b, levels(m, kind=a_kind), levels(n, kind=b_kind)], packed=[1, 2, 3])


@pytest.mark.parametrize(
    "shapes", [((2, 3, 5), (5, 4)), ((2, 3, 5), (2, 5, 4)), ((5,), (5, 4)), ((3, 5), (5,)), ((2, 1, 3, 5), (4, 5, 2))]
)
def test_integer_batches(tier: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = levels(*shapes[0]), levels(*shapes[1], kind="int8")
    same("MatMulInteger", [a, b, np.uint8(9)], packed=[1, 2])


def product(m: int, n: int, k: int, kind: str, extreme: bool) -> list[Any]:
    return [levels(m, k, kind=kind, extreme=extreme), f32(0.05), levels(kind=kind), levels(k, n, kind="int8", extreme=extreme),
            RNG.uniform(0.001, 0.02, n).astype(np.float32), np.zeros(n, np.int8)]  # fmt: skip


ACTIVATED: list[dict[str, Any]] = [
    {},
    {"activation": "Relu"},
    {"activation": "Clip", "clip_min": -1.0, "clip_max": 6.0},
    {"activation": "Clip", "clip_max": 0.5},
]


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("attributes", ACTIVATED)
def test_qgemm(tier: str, kind: str, attributes: dict[str, Any]) -> None:
    for m, n, k in PRODUCTS[:-1]:
        for extreme in (False, True):
            base = product(m, n, k, kind, extreme)
            bias, r = RNG.integers(-3000, 3000, n).astype(np.int32), levels(m, n, kind=kind)
            out = [f32(0.07), levels(kind=kind)]
            every = list(range(1, 12))
            same("headrace.QGemm", [*base, *out, bias], attributes, packed=every)
            same(
                "headrace.QGemm",
                [*base, *out, bias, r, f32(0.03), levels(kind=kind)],
                attributes,
                packed=[i for i in every if i != 9],
            )
            same("headrace.QGemm", [*base, *out], attributes, packed=[3, 4])
            same("headrace.QGemm", [*base, None, None, bias], attributes, packed=every)
    base = product(6, 20, 30, kind, False)
    base[3], base[5] = levels(30, 20), np.uint8(117)
    same("headrace.QGemm", [*base, f32(0.07), levels(kind=kind)], attributes, packed=[3, 4, 5])


def test_qlinear_matmul(tier: str) -> None:
    for kind in ("uint8", "int8"):
        same("QLinearMatMul", [*product(9, 21, 33, kind, False), f32(0.1), levels(kind=kind)], packed=list(range(1, 8)))


def test_products_to_float(tier: str) -> None:
    for m, n, k in PRODUCTS[:-1]:
        a, b = levels(m, k), levels(k, n, kind="int8")
        scale = RNG.uniform(0.001, 0.02, n).astype(np.float32)
        same("headrace.MatMulIntegerToFloat", [a, b, f32(0.02), scale, levels(), np.int8(0)], packed=[1, 3, 5])
        same(
            "headrace.MatMulIntegerToFloat",
            [a, b, f32(0.02), f32(0.3), levels(), levels(kind="int8"), real(n)],
            packed=[1, 3, 5, 6],
        )
        same("headrace.MatMulIntegerToFloat", [a, b, f32(0.02), scale, levels(), None, real(n)], packed=[1, 3, 6])
        for activation in ({}, {"activation": "Relu"}):
            same("headrace.DynamicMatMul", [real(m, k), b, scale, real(n)], activation, packed=[1, 2, 3])
            same("headrace.DynamicMatMul", [real(m, k), b, f32(0.01)], activation, packed=[1, 2])


@pytest.mark.parametrize("activation", ["Gelu", "GeluTanh", "Sigmoid"])
def test_activations_of_products(tier: str, activation: str) -> None:
    """With zero points a row (DynamicMatMul) and a column, over whole panels and not."""
    for m, n, k in ((1, 1, 1), (5, 16, 33), (13, 70, 64), (25, 37, 130)):
        a, b, bias = levels(m, k), levels(k, n, kind="int8"), real(n)
        scale = RNG.uniform(0.001, 0.02, n).astype(np.float32)
        for op, inputs in (
            ("MatMulIntegerToFloat", [a, b, f32(0.02), scale, levels(), None, bias]),
            ("MatMulIntegerToFloat", [a, b, f32(0.02), scale, levels(), levels(n, kind="int8")]),
            ("DynamicMatMul", [real(m, k), b, scale, bias]),
        ):
            operator = find(op, "headrace")
            assert operator is not None
            attributes = operator.complete({"activation": activation})
            (want,) = operator.reference(inputs, attributes)
            given = {key: value for key, value in attributes.items() if value is not None}
            found = run(
                f"headrace.{op}", inputs, given, constants=[i for i in range(1, len(inputs)) if inputs[i] is not None]
            )
            np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(want).max()))


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 7, 5), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 16, 9, 11), (24, 16, 1, 1), {}),
    ((1, 17, 5, 6), (33, 17, 1, 1), {"strides": (2, 2)}),
    ((1, 64, 8, 8), (48, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 30, 6, 7), (17, 30, 3, 3), {"pads": (2, 0, 1, 3), "strides": (2, 1)}),
    ((1, 19, 6, 7), (21, 19, 2, 5), {"pads": (0, 2, 1, 2)}),
    ((1, 3, 23, 21), (16, 3, 7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    ((1, 4, 20, 20), (8, 4, 3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    ((1, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "strides": (2, 3), "pads": (0, 2, 1, 0)}),
    ((2, 15, 7, 7), (9, 5, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
    ((1, 5, 6, 6), (5, 1, 3, 3), {"group": 5, "pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ((2, 37, 9, 9), (37, 1, 3, 3), {"group": 37, "pads": (1, 1, 1, 1)}),
    ((2, 70, 5, 15), (70, 1, 3, 3), {"group": 70, "pads": (1, 1, 1, 1)}),
    ((1, 48, 9, 19), (48, 1, 3, 3), {"group": 48, "strides": (2, 2), "pads": (0, 1, 1, 0)}),
    ((1, 33, 7, 6), (33, 1, 3, 3), {"group": 33, "strides": (1, 2), "dilations": (2, 1), "pads": (-1, 2, 2, -1)}),
    ((1, 64, 4, 5), (64, 1, 1, 1), {"group": 64}),
    ((1, 2, 10), (3, 2, 3), {"dilations": (2,), "pads": (2, 1)}),
    ((1, 2, 5, 4, 6), (2, 2, 2, 3, 1), {"strides": (1, 2, 2)}),
    ((1, 3, 6, 7), (2, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": (-1, 1, 1, -2)}),
    ((0, 3, 5, 5), (2, 3, 3, 3), {}),
]


@pytest.mark.parametrize("x, w, attributes", CONVS)
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_conv_integer(tier: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], kind: str) -> None:
    for extreme in (False, True):
        for w_kind in ("int8", "uint8"):
            inputs = [
                levels(*x, kind=kind, extreme=extreme),
                levels(*w, kind=w_kind, extreme=extreme),
                levels(kind=kind),
            ]
            same("ConvInteger", inputs, attributes, packed=[1, 2])
            same("ConvInteger", [*inputs, levels(kind=w_kind)], attributes, packed=[1])
            same("ConvInteger", [*inputs, levels(w[0], kind=w_kind)], attributes, packed=[1, 2, 3])


def last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("x, w, attributes", CONVS)
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_qconv(tier: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], kind: str) -> None:
    for extra in ACTIVATED[:3]:
        scale = RNG.uniform(0.0005, 0.01, w[0]).astype(np.float32)
        common = [
            levels(*x, kind=kind),
            f32(0.05),
            levels(kind=kind),
            levels(*w, kind="int8"),
            scale,
            np.zeros(w[0], np.int8),
            f32(0.1),
            levels(kind=kind),
        ]
        bias = RNG.integers(-500, 500, w[0]).astype(np.int32)
        every = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
        same("headrace.QConv", [*common, bias], {**attributes, **extra}, packed=every)
        counts = run("headrace.QConv", [*common, bias], {**attributes, **extra}, [kind]).shape
        full = [*common, bias, levels(*counts, kind=kind), f32(0.03), levels(kind=kind)]
        same("headrace.QConv", full, {**attributes, **extra}, packed=every)
        if not extra:
            same("QLinearConv", [*common, bias], attributes, packed=every)
        want = run("headrace.QConv", full, {**attributes, **extra}, [kind], constants=every)
        moved = [last(a) if i in (0, 9) else a for i, a in enumerate(full)]
        got = run("headrace.cpu.QConv", moved, {**attributes, **extra}, [kind], constants=every)
        np.testing.assert_array_equal(np.moveaxis(got, -1, 1), want)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_levels_beyond_every_type(tier: str, kind: str) -> None:
    """Scales so large that scaled sums leave 32 bits on both sides: all saturate to their own end."""
    info, w = np.iinfo(kind), levels(40, 40, 1, 1, kind="int8", extreme=True)
    x = np.full((1, 40, 4, 4), info.max, kind)
    for features, group in ((40, 1), (40, 40)):
        common = [
            x,
            f32(1.0),
            np.array(info.min, kind),
            w[:, : 40 // group],
            np.full(features, 3e9, np.float32),
            np.zeros(features, np.int8),
        ]
        rest = [f32(1.0), levels(kind=kind), np.zeros(features, np.int32)]
        residual = [levels(1, features, 4, 4, kind=kind), f32(2e9), levels(kind=kind)]
        for inputs in ([*common, *rest], [*common, *rest, *residual]):
            same("headrace.QConv", inputs, {"group": group}, packed=[1, 2, 3, 4, 5, 6, 7, 8, 10, 11])


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("attributes", ACTIVATED)
def test_qadd(tier: str, kind: str, attributes: dict[str, Any]) -> None:
    for a, b in (((3, 4), (3, 4)), ((2, 53, 3), (2, 53, 3)), ((2, 5, 3), (5, 1)), ((), ()), ((0, 2), (0, 2))):
        same("headrace.QAdd", [levels(*a, kind=kind), f32(0.05), levels(kind=kind), levels(*b, kind=kind), f32(0.02), levels(kind=kind), f32(0.06), levels(kind=kind)],
             attributes, packed=[1, 2, 4, 5, 6, 7])  # fmt: skip


@pytest.mark.parametrize("scale", [0.05, 3e9, -0.3])
def test_every_pair_of_levels(tier: str, scale: float) -> None:
    """Sums that saturate on both sides, and that leave 32 bits."""
    every = np.arange(256, dtype=np.uint8)
    a, b = np.repeat(every, 256), np.tile(every, 256)
    for kind in ("uint8", "int8"):
        tail = [f32(0.06), levels(kind=kind)]
        same("headrace.QAdd", [a.view(kind), f32(scale), levels(kind=kind), b.view(kind), f32(0.09), levels(kind=kind), *tail], packed=[1, 2, 4, 5, 6, 7])  # fmt: skip


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_quantize_and_dequantize(tier: str, kind: str) -> None:
    special = np.array(
        [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, 0.025, 0.075, 0.125, -0.025, 6.375, 12.8], np.float32
    )
    for x in (special, real(1000) * 5, real(3, 17, 5), real(0, 3), f32(1.5)):
        same("QuantizeLinear", [x, f32(0.05), levels(kind=kind)], packed=[1, 2])
    same("QuantizeLinear", [real(7), f32(0.01)], packed=[1])
    for axis in (0, 1, 2, -1):
        x = real(4, 19, 33)
        n = x.shape[axis]
        scale = RNG.uniform(0.01, 0.1, n).astype(np.float32)
        same("QuantizeLinear", [x, scale, levels(n, kind=kind)], {"axis": axis}, packed=[1, 2])
        same(
            "DequantizeLinear",
            [levels(4, 19, 33, kind=kind), scale, levels(n, kind=kind)],
            {"axis": axis},
            packed=[1, 2],
        )
    for shape in ((), (9,), (2, 50), (0,)):
        same("DequantizeLinear", [levels(*shape, kind=kind), f32(0.37), levels(kind=kind)], packed=[1, 2])
        same("DequantizeLinear", [levels(*shape, kind=kind), f32(0.37)], packed=[1])


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 7.0, 1e-38, 3e-31, 3e-30, 2e30, 3e38, 1e-45, 0.0, np.inf, np.nan, -0.5])
def test_quantize_near_the_middle_of_two_levels(tier: str, scale: float) -> None:
    """Kernels multiply by 1 / scale; where that could round to another level than the quotient, they must have divided."""
    with np.errstate(all="ignore"):
        middles = (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5)) * f32(scale)
        near = [np.nextafter(middles, f32(sign * np.inf), dtype=np.float32) for sign in (1, -1)]
        further = [np.nextafter(x, f32(sign * np.inf), dtype=np.float32) for x, sign in zip(near, (1, -1))]
    x = np.concatenate([middles, *near, *further])
    for kind in ("uint8", "int8"):
        same("QuantizeLinear", [x, f32(scale), levels(kind=kind)], packed=[1, 2])


@pytest.mark.parametrize("at", [0, 15, 70, 127, 130])
def test_no_number_among_many(tier: str, at: int) -> None:
    """In the vectors that are done together, in those after them, in the rest."""
    for value in (np.nan, np.inf, -np.inf, 3e38):
        x = real(133)
        x[at] = value
        for kind in ("uint8", "int8"):
            same("QuantizeLinear", [x, f32(0.02), levels(kind=kind)], packed=[1, 2])
        x[(at + 64) % 133] = -value
        same("QuantizeLinear", [x, f32(0.02), levels()], packed=[1, 2])
        if np.isfinite(value):
            same("DynamicQuantizeLinear", [x], packed=[])


def test_dynamic_quantization(tier: str) -> None:
    for shape in ((3, 8), (1, 1), (2, 3, 5), (7, 33), (40, 1000), (0, 4)):
        for x in (real(*shape), np.abs(real(*shape)), -np.abs(real(*shape)), np.zeros(shape, np.float32)):
            same("headrace.DynamicQuantizeRows", [x], packed=[])
            same("DynamicQuantizeLinear", [x], packed=[])


@pytest.mark.parametrize("high", [3.7, 1e-3, 1e-36, 1e-40, 3e38])
def test_dynamic_quantization_near_the_middle_of_two_levels(tier: str, high: float) -> None:
    """Where nothing is clamped, because the range holds all, quotients decide as well."""
    low, high = np.float32(-high * 0.43), np.float32(high)
    with np.errstate(all="ignore"):
        middles = (np.arange(-109, 254, dtype=np.float32) + np.float32(0.5)) * ((high - low) / np.float32(255))
        near = [np.nextafter(middles, f32(sign * np.inf), dtype=np.float32) for sign in (1, -1)]
    x = np.clip(np.concatenate([[low, high], middles, *near]), low, high).astype(np.float32)
    same("DynamicQuantizeLinear", [x], packed=[])
    same("headrace.DynamicQuantizeRows", [x[None]], packed=[])


def test_a_row_has_the_same_bytes_in_every_batch(tier: str) -> None:
    x, w = real(30, 100), levels(100, 40, kind="int8")
    whole = run("headrace.DynamicMatMul", [x, w, f32(0.01)], constants=[1, 2])
    for start, rows in ((0, 1), (29, 1), (5, 2), (3, 7), (10, 20)):
        assert (
            run("headrace.DynamicMatMul", [x[start : start + rows], w, f32(0.01)], constants=[1, 2]).tobytes()
            == whole[start : start + rows].tobytes()
        )


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("hidden", [37, 64])
def test_dynamic_lstm_of_one_sequence_and_of_copies(tier: str, hidden: int, kind: str) -> None:
    """One sequence takes a path of its own; copies of it have its range, hence its bits, in every tile of rows."""
    seq, size, columns = 5, 7, 4 * hidden
    x, h, c = real(seq, 1, size), np.tanh(real(1, 1, hidden)), real(1, 1, hidden)
    w, r = (levels(1, k, columns, kind=kind) for k in (size, hidden))
    scales = [(RNG.uniform(0.5, 1.0, (1, columns)) / 127 / np.sqrt(k)).astype(np.float32) for k in (size, hidden)]
    bias = real(1, 8 * hidden)
    points = [(RNG.integers(-3, 4, (1, columns)) + (0 if kind == "int8" else 128)).astype(kind) for _ in range(2)]

    def answers(copies: int, threads: int) -> list[np.ndarray]:
        lengths = np.full(copies, seq - 1, np.int32)
        several = [np.repeat(array, copies, axis=1) for array in (x, h, c)]
        inputs = [several[0], w, r, bias, lengths, *several[1:], None, scales[0], points[0], scales[1], points[1]]
        outputs = ["float32"] * 3
        got = run("com.microsoft.DynamicQuantizeLSTM", inputs, {"hidden_size": hidden}, outputs, constants=[1, 2, 3, 8, 9, 10, 11], threads=threads)  # fmt: skip
        assert isinstance(got, list)
        return got

    operator = find("DynamicQuantizeLSTM", "com.microsoft")
    assert operator is not None
    alone = answers(1, 1)
    whole = [x, w, r, bias, np.array([seq - 1], np.int32), h, c, None, scales[0], points[0], scales[1], points[1]]
    want = operator.reference(whole, operator.complete({"hidden_size": hidden}), 3)
    for a, b in zip(alone, want):
        np.testing.assert_allclose(
            a, b, rtol=0, atol=2e-2
        )  # what rounds to another level moves a gate by one of its quanta
    for copies, threads in ((1, 2), (2, 1), (7, 1), (14, 2)):
        for a, b in zip(answers(copies, threads), alone):
            axis = a.ndim - 2
            assert all(np.take(a, [i], axis).tobytes() == b.tobytes() for i in range(copies))
