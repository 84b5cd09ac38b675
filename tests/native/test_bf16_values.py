"""Values between convolutions in bf16: what a kernel stores is what it would store as float32, rounded once, to the bit; which
values the pass chooses, and that where every reader would round anyway nothing changes at all."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from one_kernel import run

from headrace.runtime import _native, load
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.lower import capabilities
from headrace.runtime.passes import machine
from headrace.runtime.passes.report import Watch
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

HAS_BF16 = "avx512_bf16" in _native.cpu_tiers()
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU does not multiply bf16")
RNG = np.random.default_rng(12)
BF16, LOW = {"precision": "bf16"}, ml_dtypes.bfloat16


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def low(*shape: int) -> np.ndarray:
    return array(*shape).astype(LOW)


def same(found: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, NaN of any kind; `want` float32, rounded here to what `found` is: the CPU's instruction takes subnormal
    numbers for zero."""
    if found.dtype == LOW:
        want = np.where(np.abs(want) < 2.0**-126, np.copysign(np.float32(0), want), want)
    want = want.astype(found.dtype)
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(found), nan)
    assert np.where(nan, 0, found).tobytes() == np.where(nan, 0, want).tobytes()


CONVS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (1, 5, 7, 16), (32, 16, 1, 1), {}),
    ("Conv", (3, 13, 11, 64), (70, 64, 1, 1), {"activation": "Relu"}),
    ("Conv", (1, 9, 9, 1026), (40, 1026, 1, 1), {"activation": "Silu"}),  # several ranges of k
    ("Conv", (1, 33, 31, 96), (257, 96, 3, 3), {"pads": (1, 1, 1, 1)}),  # many columns beside them
    ("Conv", (2, 8, 9, 6), (5, 6, 3, 3), {"pads": (1, 0, 2, 1), "strides": (2, 2), "activation": "HardSwish"}),  # merged taps
    ("Conv", (1, 6, 6, 12), (9, 4, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
    ("Conv", (2, 17, 6), (33, 6, 4), {"pads": (1, 2)}),
    ("Conv", (1, 1, 1, 2), (1, 2, 1, 1), {}),
    ("Conv", (2, 9, 10, 37), (37, 1, 3, 3), {"group": 37, "pads": (1, 1, 1, 1), "activation": "Relu"}),
    ("Conv", (1, 11, 14, 160), (160, 1, 3, 3), {"group": 160, "pads": (1, 1, 1, 1), "strides": (2, 2), "activation": "Silu"}),
    ("Conv", (1, 7, 9, 16), (16, 1, 5, 5), {"group": 16, "pads": (2, 2, 2, 2), "dilations": (1, 2)}),
    ("WinogradConv", (2, 9, 11, 16), (24, 16, 3, 3), {"pads": (1, 1, 1, 1), "tile": 4, "activation": "Silu"}),
    ("WinogradConv", (1, 8, 6, 19), (21, 19, 3, 3), {"pads": (1, 1, 1, 1), "tile": 2, "activation": "Relu"}),
    ("WinogradConv", (1, 5, 5, 32), (33, 32, 3, 3), {"tile": 4}),
]  # fmt: skip


@needs_bf16
@pytest.mark.parametrize("kind, x_shape, w_shape, attributes", CONVS)
def test_a_convolution_rounds_its_result_once(
    kind: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    """Every combination of types of input, residual and result. Unless it holds pairs, float32 is rounded as a factor."""
    x, w, bias = low(*x_shape), array(*w_shape), array(w_shape[0])
    attributes, op = {**attributes, **BF16}, f"headrace.cpu.{kind}"
    plain = run(op, [x.astype(np.float32), w, bias], attributes, constants=[1, 2])
    residual = low(*plain.shape)
    added = run(op, [x.astype(np.float32), w, bias, residual.astype(np.float32)], attributes, constants=[1, 2])
    for data in (x, x.astype(np.float32)):
        for result in ("bfloat16", "float32"):
            same(run(op, [data, w, bias], attributes, [result], constants=[1, 2]), plain)
            for r in (residual, residual.astype(np.float32)):
                same(run(op, [data, w, bias, r], attributes, [result], constants=[1, 2]), added)


@needs_bf16
@pytest.mark.parametrize("kind, x_shape, w_shape, attributes", CONVS)
def test_a_row_and_a_thread_change_no_bit(
    kind: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    x, w, r = low(4, *x_shape[1:]), array(*w_shape), None
    attributes, op = {**attributes, **BF16}, f"headrace.cpu.{kind}"
    whole = run(op, [x, w, None, r], attributes, ["bfloat16"], constants=[1])
    assert run(op, [x, w, None, r], attributes, ["bfloat16"], constants=[1], threads=2).tobytes() == whole.tobytes()
    for i in (0, 3):
        alone = run(op, [x[i : i + 1].copy(), w, None, r], attributes, ["bfloat16"], constants=[1])
        assert alone.tobytes() == whole[i : i + 1].tobytes()


@needs_bf16
@pytest.mark.parametrize("kind, x_shape, w_shape, attributes", CONVS)
def test_extreme_values(
    kind: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    """NaN, infinities, the largest numbers, those that round to infinity, zeros of both signs."""
    x, w = low(*x_shape), array(*w_shape)
    flat = x.reshape(-1)
    flat[: min(2, flat.size)], flat[-1] = np.nan, np.inf
    flat[flat.size // 2] = 3.3e38
    flat[flat.size // 3] = -0.0
    w.reshape(-1)[0] = 2e38
    attributes, op = {**attributes, **BF16}, f"headrace.cpu.{kind}"
    with np.errstate(over="ignore"):
        want = run(op, [x.astype(np.float32), w], attributes, constants=[1])
        same(run(op, [x, w], attributes, ["bfloat16"], constants=[1]), want)


@needs_bf16
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape", [(1, 5, 6, 3), (2, 9, 7, 16), (1, 4, 4, 50), (1, 3, 2, 129)])
def test_pools(op: str, shape: tuple[int, ...]) -> None:
    x = low(*shape)
    x.reshape(-1)[[0, -1]] = np.nan, -np.inf
    attributes = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 1)}
    want = run(f"headrace.cpu.{op}", [x.astype(np.float32)], attributes)
    same(run(f"headrace.cpu.{op}", [x], attributes, ["bfloat16"]), want)


@needs_bf16
def test_what_has_no_kernel_of_its_own() -> None:
    """An odd number of channels holds no pairs, products of float32 read float32: the kernel of float32 between conversions.
    It begins with a bf16 input."""
    for x, w, attributes in ((low(1, 4, 4, 3), array(8, 3, 3, 3), BF16), (low(1, 4, 4, 4), array(8, 4, 3, 3), {})):
        want = run("headrace.cpu.Conv", [x.astype(np.float32), w], attributes, constants=[1])
        same(run("headrace.cpu.Conv", [x, w], attributes, ["bfloat16"], constants=[1]), want)
    with pytest.raises(LookupError):
        run("headrace.cpu.Conv", [array(1, 4, 4, 4), array(8, 4, 3, 3)], {}, ["bfloat16"], constants=[1])


def network(*, group: int = 8, add: bool = False, output: bool = False) -> Graph:
    """conv 3 -> 8, pool, two branches joined, conv; `add`: a residual; `output`: the first result is one of the graph."""
    graph = Graph(Block([], [], []))
    x = Value("x", TensorType("float32", (symbol("n"), 3, 20, 18)))
    graph.block.inputs.append(x)
    make = Builder(graph)

    def conv(name: str, given: Value, channels: int, features: int, size: int, **attributes: Any) -> Value:
        weight = graph.constant(name, array(features, channels, size, size) / np.float32(channels * size))
        (made,) = make.node("Conv", [given, weight], {"pads": (size // 2,) * 4, **attributes})
        return made

    a = conv("w0", x, 3, 8, 3)
    (p,) = make.node("MaxPool", [a], {"kernel_shape": (2, 2), "strides": (2, 2)})
    left, right = conv("w1", p, 8, 8, 1), conv("w2", p, 8 // group, 8, 3, group=group)
    if add:
        (left,) = make.node("Add", [make.node("Sigmoid", [left])[0], p])
    (joined,) = make.node("Concat", [left, right], {"axis": 1})
    y = conv("w3", joined, 16, 10, 5, strides=(2, 2))
    (mean,) = make.node("GlobalAveragePool", [y])
    graph.outputs.extend([y, mean, *([a] if output else [])])
    infer_graph(graph)
    return graph


def passed(graph: Graph, skip: tuple[str, ...] = ()) -> tuple[Graph, Watch]:
    watch = Watch()
    caps = {*capabilities(), "avx512_bf16"}
    return machine.run(graph, caps, "bf16", skip=skip, watch=watch), watch


def kinds(graph: Graph) -> list[tuple[str, str]]:
    return [
        (node.kind, value.type.dtype)
        for node in graph.block.nodes
        for value in node.outputs
        if value is not None and isinstance(value.type, TensorType)
    ]


def test_the_pass_takes_what_lies_between_convolutions() -> None:
    made, watch = passed(network())
    low_kinds = [kind for kind, dtype in kinds(made) if dtype == "bfloat16"]
    conv, pool = "headrace.cpu.Conv", "headrace.cpu.MaxPool"
    assert low_kinds == [conv, pool, conv, conv, "Concat"]
    assert str(watch.rewrites["low_values"]) == f"changed: {conv} 3 + {pool} + Concat"
    assert {value.type.dtype for value in made.outputs if isinstance(value.type, TensorType)} == {"float32"}
    without, _ = passed(network(), skip=("low_values",))
    assert "bfloat16" not in dict.fromkeys(dtype for _, dtype in kinds(without))


def test_the_pass_leaves_what_others_touch() -> None:
    """An output of the graph, and all that is tied to what a Sigmoid makes, stay float32."""
    made, _ = passed(network(output=True))
    assert [kind for kind, dtype in kinds(made) if dtype == "bfloat16"] == ["headrace.cpu.Conv"] * 2 + ["Concat"]
    made, _ = passed(network(add=True))
    assert "bfloat16" not in {dtype for kind, dtype in kinds(made) if kind in ("Sigmoid", "Add", "Concat")}
    graph, caps = network(), capabilities() - {"avx512_bf16"}
    assert machine.run(graph, caps, "bf16").hash() == machine.run(graph, caps).hash()


@needs_bf16
def test_where_readers_round_anyway_no_bit_changes() -> None:
    """A factor is rounded when it is stored or when it is read; the greatest of some is the same before and after. A depthwise
    convolution reads float32 unrounded."""
    x = array(3, 3, 20, 18)
    for group in (1, 8):
        graph = network(group=group)
        plain = load(graph, precision="bf16", without=["low_values"]).run({"x": x})
        found = load(graph, precision="bf16").run({"x": x})
        for name, want in plain.items():
            assert (found[name].tobytes() == want.tobytes()) == (group == 1)
            assert np.abs(found[name] - want).max() <= 2.0**-7 * np.abs(want).max()


@pytest.mark.parametrize("tier", _native.cpu_tiers())
def test_elementwise_rows_round_once(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bf16 number beside others: NaN, infinities, subnormals, ties; rows that end within a vector."""
    monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
    x = np.arange(65536, dtype=np.uint16).view(LOW)
    y = np.roll(RNG.permutation(x), 7)
    with np.errstate(all="ignore"):
        for op, want in (
            ("Add", x.astype(np.float32) + y.astype(np.float32)),
            ("Mul", x.astype(np.float32) * y.astype(np.float32)),
        ):
            found, want = run(op, [x, y], outputs=["bfloat16"]), want.astype(LOW)
            nan = np.isnan(want)
            assert np.array_equal(np.isnan(found), nan)
            assert np.where(nan, 0, found).tobytes() == np.where(nan, 0, want).tobytes()
            for n in (1, 15, 17, 1023, 1025):
                part = run(op, [x[:n].copy(), y[:n].copy()], outputs=["bfloat16"])
                assert np.where(nan[:n], 0, part).tobytes() == np.where(nan, 0, found)[:n].tobytes()
