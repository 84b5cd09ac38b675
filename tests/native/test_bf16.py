"""bf16 products: exactly the factors rounded to bf16, multiplied and summed in float32; and what `precision` promises.

The accuracy class: |y - y'| <= 2**-7 * (|A| @ |B|), where y is the product of the float32 factors: each factor is rounded by
at most 2**-8 of itself, hardly ever all in one direction, and the sums' own error in float32 is small beside that.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from one_kernel import run

from headrace.runtime import LoadError, _native, load
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.types import TensorType

HAS_BF16 = "avx512_bf16" in _native.cpu_tiers()
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU does not multiply bf16")
RNG = np.random.default_rng(11)
BF16 = {"precision": "bf16"}


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def product(
    a: np.ndarray, b: np.ndarray, *more: np.ndarray, constants: list[int] | None = None, **attributes: Any
) -> Any:
    return run("headrace.cpu.MatMul", [a, b, *more], {**BF16, **attributes}, constants=constants or [1])


@needs_bf16
@pytest.mark.parametrize("k", [1, 2, 3, 31, 32, 64, 255, 321, 700, 1024])
def test_products_are_those_of_rounded_factors(k: int) -> None:
    for m, n in ((1, 1), (1, 70), (2, 33), (11, 16), (12, 32), (13, 17), (50, 80)):
        a, b = array(m, k), array(k, n)
        bound = 2e-6 * (np.abs(rounded(a)) @ np.abs(rounded(b))) + 1e-30
        assert np.all(np.abs(product(a, b) - rounded(a) @ rounded(b)) <= bound), (m, n)
        assert np.all(np.abs(product(a, b) - a.astype(float) @ b) <= 2**-7 * (np.abs(a) @ np.abs(b)))


@needs_bf16
def test_silu_is_as_exact_as_its_factors_are() -> None:
    """Beside factors of 8 bits 2**-13 of the result is enough; limits, signs and what is no number are those of float32."""
    x = np.concatenate([np.linspace(-80, 80, 4001), [0.0, -0.0, 1e-30, 3e38, -3e38, np.inf, np.nan]]).astype(np.float32)
    sums = rounded(x).astype(np.float32)[:, None]
    found = product(sums, np.ones((1, 1), np.float32), activation="Silu")
    with np.errstate(all="ignore"):
        want = sums.astype(np.float64) / (1 + np.exp(-sums.astype(np.float64)))
    want[-2] = np.inf
    np.testing.assert_allclose(found, want, rtol=2**-13, atol=1e-36)
    some = sums[:, 0] != 0
    assert np.array_equal(np.signbit(found[some][:-1]), np.signbit(sums[some][:-1]))


@needs_bf16
def test_transposed_batched_and_fused() -> None:
    a, b, bias = array(3, 5, 40), array(40, 21), array(21)
    want = np.maximum(rounded(a) @ rounded(b) * 0.5 + bias, 0)
    found = product(a, b, bias, constants=[1, 2], alpha=0.5, activation="Relu")
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
    turned = product(a, np.ascontiguousarray(b.T), bias, constants=[1, 2], alpha=0.5, activation="Relu", transB=1)
    assert turned.tobytes() == found.tobytes()
    flat = np.ascontiguousarray(a[0].T)
    assert product(flat, b, transA=1).tobytes() == product(a[0].copy(), b).tobytes()


@needs_bf16
@pytest.mark.parametrize("k", [64, 513])
def test_a_row_has_the_same_bytes_in_every_batch(k: int) -> None:
    a, b = array(75, k), array(k, 100)
    whole = product(a, b)
    for start, rows in ((0, 1), (74, 1), (10, 2), (1, 4), (33, 7), (5, 50)):
        assert product(a[start : start + rows], b).tobytes() == whole[start : start + rows].tobytes(), (start, rows)


@needs_bf16
@pytest.mark.parametrize(
    "x, w, attributes",
    [
        ((2, 9, 8, 3), (16, 3, 3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
        (
            (2, 41, 39, 3),
            (16, 3, 3, 3),
            {"pads": (1, 1, 1, 1), "strides": (2, 2)},
        ),  # more pixels than are rounded at once
        ((1, 29, 31, 7), (8, 7, 1, 1), {}),
        ((1, 4, 1500, 3), (8, 3, 3, 3), {"pads": (1, 2, 0, 1)}),  # a row longer than that
        ((2, 5, 6, 10), (8, 10, 2, 2), {"pads": (0, 1, 1, 0)}),
        ((1, 2, 3, 4099), (8, 4099, 1, 1), {}),
        ((1, 7, 7, 8), (5, 8, 3, 3), {"pads": (1, 0, 2, 1)}),
        ((1, 12, 12, 5), (33, 5, 1, 1), {}),
        ((1, 6, 6, 64), (80, 64, 1, 1), {}),
        ((1, 9, 9, 40), (24, 40, 3, 3), {"dilations": (2, 2), "pads": (2, 2, 2, 2)}),
        ((1, 6, 6, 12), (9, 4, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
        ((2, 5, 6, 16), (8, 2, 3, 3), {"group": 8}),  # one pair of channels and one feature a group
        ((2, 5, 6, 6), (6, 2, 1, 1), {"group": 3}),
        ((3, 11, 6), (7, 6, 4), {"pads": (1, 2)}),
    ],
)
def test_convolutions(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    image, weight, bias = array(*x), array(*w), array(w[0])
    low = [image.astype(ml_dtypes.bfloat16).astype(np.float32), weight.astype(ml_dtypes.bfloat16).astype(np.float32)]
    want = run("headrace.cpu.Conv", [*low, bias], attributes, constants=[1, 2])
    found = run("headrace.cpu.Conv", [image, weight, bias], {**attributes, **BF16}, constants=[1, 2])
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-5 * float(np.prod(w[1:])) ** 0.5)
    assert not np.array_equal(found, run("headrace.cpu.Conv", [image, weight, bias], attributes, constants=[1, 2]))


@needs_bf16
def test_nan_and_infinity_pass_through() -> None:
    a, b = array(20, 40), array(40, 20)
    a[3, 5], a[7, 1] = np.nan, np.inf
    found = product(a, b)
    assert np.isnan(found[3]).all() and np.isinf(found[7]).all() and np.isfinite(np.delete(found, [3, 7], 0)).all()


def two_layers() -> Graph:
    graph = Graph(Block([], [], []))
    x = Value("x", TensorType("float32", (4, 64)))
    graph.block.inputs.append(x)
    builder = Builder(graph)
    (h,) = builder.node("MatMul", [x, graph.constant("w", array(64, 48))])
    (r,) = builder.node("Relu", [h])
    (y,) = builder.node("MatMul", [r, graph.constant("v", array(48, 8))])
    graph.outputs.append(y)
    return graph


@pytest.mark.parametrize("tier", _native.cpu_tiers())
def test_the_option_and_its_bound(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 where the tier has it; on every other tier the same bits as without the option."""
    monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
    graph, x = two_layers(), array(4, 64)
    plain, low = load(graph).run({"x": x}), load(graph, precision="bf16").run({"x": x})
    (a,), (b,) = plain.values(), low.values()
    assert (a.tobytes() == b.tobytes()) == (tier != "avx512_bf16")
    assert np.abs(a - b).max() < 2**-6 * np.abs(a).max()


def test_an_unknown_precision_is_an_error_of_loading() -> None:
    with pytest.raises(LoadError, match="precision 'fp4' is not available; allowed: None, 'float32', 'bf16'"):
        load(two_layers(), precision="fp4")


@needs_bf16
@pytest.mark.parametrize("size, hidden", [(5, 3), (16, 16), (33, 20)])
def test_lstm_rounds_its_factors_and_nothing_else(size: int, hidden: int) -> None:
    seq, batch = 4, 3
    x, w, r = array(seq, batch, size), array(1, 4 * hidden, size) * 0.3, array(1, 4 * hidden, hidden) * 0.3
    bias = array(1, 8 * hidden)
    found = run("headrace.cpu.LSTM", [x, w, r, bias], {"hidden_size": hidden}, constants=[1, 2, 3])
    h, c = np.zeros((batch, hidden)), np.zeros((batch, hidden))

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    for time in range(seq):
        total = rounded(x[time]) @ rounded(w[0]).T + rounded(h.astype(np.float32)) @ rounded(r[0]).T
        i, o, f, g = np.split(total + bias[0, : 4 * hidden] + bias[0, 4 * hidden :], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(found[time, 0], h, rtol=0, atol=2e-3)  # a state on the edge rounds either way
    alone = run("headrace.cpu.LSTM", [x[:, 1:2].copy(), w, r, bias], {"hidden_size": hidden}, constants=[1, 2, 3])
    assert alone.tobytes() == found[:, :, 1:2].tobytes()


@pytest.mark.parametrize("unusual", [{}, {"clip": 1.0}])
def test_recurrent_layers_by_the_option(unusual: dict[str, Any]) -> None:
    """A layer that its kernel does not take runs as without the option."""
    graph = Graph(Block([], [], []))
    x = Value("x", TensorType("float32", (3, 2, 8)))
    graph.block.inputs.append(x)
    weights = [graph.constant("w", array(1, 24, 8)), graph.constant("r", array(1, 24, 6))]
    graph.outputs.extend(Builder(graph).node("LSTM", [x, *weights], {"hidden_size": 6, **unusual}))
    feeds = {"x": array(3, 2, 8)}
    (a,), (b,) = (load(graph, precision=precision).run(feeds).values() for precision in (None, "bf16"))
    assert (a.tobytes() == b.tobytes()) == (not HAS_BF16 or bool(unusual))
    np.testing.assert_allclose(a, b, rtol=0, atol=0.05)
