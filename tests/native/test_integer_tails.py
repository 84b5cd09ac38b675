"""What follows an integer product, done in the product: the bits of the separate nodes, on every tier, whatever the tiles; and which
nodes the pass takes up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from headrace.runtime import load
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.lower import capabilities
from headrace.runtime.passes import machine, optimize
from headrace.runtime.profile import flops_of
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(23)
NAME = "integer_tails"


@dataclass
class Case:
    rows: int = 7
    depth: int = 33
    width: int = 70
    dynamic: bool = False  # DynamicQuantizeLinear before, as onnxruntime's files; else constant scales
    kind: str = "uint8"
    added: bool = False
    activation: str = ""
    factor: bool = False
    closed: str = ""  # the type that a QuantizeLinear ends it with
    shared: bool = False  # the product itself is an answer, too


def network(case: Case) -> tuple[Graph, dict[str, np.ndarray]]:
    graph = Graph(Block([], [], []))
    b, k, n = Builder(graph), case.depth, case.width
    feeds = {"x": RNG.standard_normal((2, case.rows, k)).astype(np.float32)}
    if case.added:
        feeds["r"] = RNG.standard_normal((2, case.rows, n)).astype(np.float32)
    for name, array in feeds.items():
        graph.block.inputs.append(Value(name, TensorType("float32", (symbol("n"), symbol("rows"), array.shape[2]))))
    values = {value.name: value for value in graph.block.inputs}

    def const(array: Any, dtype: Any = np.float32) -> Value:
        return b.constant(np.asarray(array, dtype))

    w = const(RNG.integers(-128, 128, (k, n)), np.int8)
    w_scale, bias = const(RNG.uniform(0.001, 0.02, n)), const(RNG.standard_normal(n))
    if case.dynamic:
        q, scale, zero = b.node("DynamicQuantizeLinear", [values["x"]], outputs=3)
        (y,) = b.node("MatMulIntegerToFloat", [q, w, scale, w_scale, zero, None, bias], domain="headrace")
    else:
        scale, zero = const(0.03), const(5, case.kind)
        (q,) = b.node("QuantizeLinear", [values["x"], scale, zero])
        integers = const(RNG.integers(-3000, 3000, n), np.int32)
        (y,) = b.node("QGemm", [q, scale, zero, w, w_scale, const(0, np.int8), None, None, integers], domain="headrace")
    outputs = [y] if case.shared else []
    if case.added:
        (y,) = b.node("Add", [values["r"], y])
    if case.activation:
        (y,) = b.node(case.activation, [y])
    if case.factor:
        (y,) = b.node("Mul", [y, const(RNG.uniform(0.5, 2, (1, 1, n)))])
    if case.closed:
        (y,) = b.node("QuantizeLinear", [y, const(0.04), const(3, case.closed)])
    graph.outputs.extend([y, *outputs])
    infer_graph(graph)
    return graph, feeds


CASES = [
    Case(added=True),
    Case(added=True, dynamic=True, rows=64, width=128, depth=96),
    Case(added=True, dynamic=True, width=3, rows=1, depth=1),
    Case(added=True, rows=40, width=33, kind="int8", activation="Gelu"),
    Case(activation="Gelu", rows=25, width=129),
    Case(activation="Relu", dynamic=True, closed="uint8"),
    Case(activation="Gelu", factor=True, closed="int8", rows=29, width=256, kind="int8"),
    Case(activation="Gelu", factor=True, closed="uint8", rows=13, width=75),
    Case(factor=True, closed="int8", added=True, width=17),
    Case(activation="LeakyRelu", closed="uint8", added=True, dynamic=True, rows=6, width=200),
    Case(closed="uint8", rows=0, activation="Gelu"),
]


def ran(graph: Graph, skip: tuple[str, ...] = ()) -> Counter[str]:
    return Counter(node.kind for node in machine.run(optimize(graph), capabilities(), skip=skip).block.walk())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bits_are_those_of_the_nodes(tier: str, case: Case) -> None:
    graph, feeds = network(case)
    kinds, before = ran(graph), ran(graph, skip=(NAME,))
    assert kinds["headrace.cpu.QGemm"] == 1 and before["headrace.cpu.QGemm"] == 0
    (first,) = {"DynamicQuantizeLinear" if case.dynamic else "QuantizeLinear"}
    assert kinds == {first: 1, "headrace.cpu.QGemm": 1}
    (want,) = load(graph, device="cpu", without=[NAME]).run(feeds).values()
    for threads in (1, 2):
        model = load(graph, device="cpu", threads=threads)
        for planned in (False, True, True):  # the residual's memory may become the result's
            model._program.specialise(planned)
            (found,) = model.run(feeds).values()
            assert found.dtype == want.dtype and found.tobytes() == want.tobytes()


@pytest.mark.parametrize("rows, depth, width", [(7, 33, 70), (64, 96, 128), (1, 5, 3), (0, 4, 9), (600, 40, 31)])
@pytest.mark.parametrize("itself", [False, True])
def test_a_product_that_quantizes_its_rows_takes_up_the_residual(
    tier: str, rows: int, depth: int, width: int, itself: bool
) -> None:
    """`itself`: what is added is what is multiplied, which must not be written over."""
    graph, width = Graph(Block([], [], [])), depth if itself else width
    b = Builder(graph)
    x = Value("x", TensorType("float32", (symbol("rows"), depth)))
    r = x if itself else Value("r", TensorType("float32", (symbol("rows"), width)))
    graph.block.inputs.extend([x] if itself else [x, r])
    start = b.node("Neg", [x])[0]
    w, scale = RNG.integers(-128, 128, (depth, width)).astype(np.int8), RNG.uniform(0.001, 0.02, width)
    (y,) = b.node("DynamicMatMul", [start, b.constant(w), b.constant(scale.astype(np.float32))], domain="headrace")
    graph.outputs.extend(b.node("Add", [y, start if itself else b.node("Neg", [r])[0]]))
    infer_graph(graph)
    assert ran(graph)["headrace.cpu.DynamicMatMul"] == 1 and ran(graph)["Add"] == 0
    feeds = {
        value.name: RNG.standard_normal((rows, size)).astype(np.float32) for value, size in zip((x, r), (depth, width))
    }
    (want,) = load(graph, device="cpu", without=[NAME]).run(feeds).values()
    for threads in (1, 2):
        model = load(graph, device="cpu", threads=threads)
        assert all(next(iter(model.run(feeds).values())).tobytes() == want.tobytes() for _ in range(3))


def ranged(rows: int, depth: int, width: int, activation: str, added: bool) -> tuple[Graph, dict[str, np.ndarray]]:
    """A product whose results are quantized by the range that they have."""
    graph, feeds = network(Case(rows=rows, depth=depth, width=width, dynamic=True, activation=activation, added=added))
    graph.block.outputs = list(Builder(graph).node("DynamicQuantizeLinear", [graph.outputs[0]], outputs=3))
    infer_graph(graph)
    return graph, feeds


@pytest.mark.parametrize(
    "rows, depth, width", [(7, 33, 70), (64, 96, 128), (1, 5, 3), (0, 4, 9), (300, 40, 31), (25, 16, 1)]
)
@pytest.mark.parametrize("activation, added", [("Gelu", False), ("", True), ("LeakyRelu", True), ("", False)])
def test_levels_of_the_range_of_all_results(
    tier: str, rows: int, depth: int, width: int, activation: str, added: bool
) -> None:
    graph, feeds = ranged(rows, depth, width, activation, added)
    assert ran(graph) == {"DynamicQuantizeLinear": 1, "headrace.cpu.QGemm": 1}
    want = load(graph, device="cpu", without=[NAME]).run(feeds)
    for threads in (1, 2):
        model = load(graph, device="cpu", threads=threads)
        for _ in range(2):
            found = model.run(feeds)
            assert [a.tobytes() for a in found.values()] == [a.tobytes() for a in want.values()]


@pytest.mark.parametrize(
    "odd", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [3e38, 3e38, -3e38], [1e-42, -1e-42], [-0.0]]
)
def test_a_range_of_odd_results(tier: str, odd: list[float]) -> None:
    """Sums that tell a NaN may overflow without one."""
    graph, feeds = ranged(9, 12, 40, "", True)
    feeds["r"][:] = 0
    for index, value in enumerate(odd):
        feeds["r"][1, 2 * index, 7 * index] = value
    found, want = (load(graph, device="cpu", without=without).run(feeds) for without in ((), [NAME]))
    assert [a.tobytes() for a in found.values()] == [a.tobytes() for a in want.values()]


def test_results_that_are_read_otherwise_too_keep_their_range_apart() -> None:
    graph, _ = ranged(9, 12, 40, "Gelu", False)
    graph.outputs.append(graph.block.nodes[-1].inputs[0])
    infer_graph(graph)
    assert ran(graph)["DynamicQuantizeLinear"] == 2


def test_a_residual_that_is_read_again_stays(tier: str) -> None:
    graph, feeds = network(Case(added=True, rows=20))
    b, r = Builder(graph), graph.block.inputs[1]
    (moved,) = b.node("Mul", [r, b.constant(np.float32(2))])
    (y,) = b.node("Add", [graph.outputs[0], moved])
    graph.block.outputs = [y]
    infer_graph(graph)
    (want,) = load(graph, device="cpu", without=[NAME]).run(feeds).values()
    model = load(graph, device="cpu")
    kept = feeds["r"].copy()
    assert all(next(iter(model.run(feeds).values())).tobytes() == want.tobytes() for _ in range(3))
    assert feeds["r"].tobytes() == kept.tobytes()


@pytest.mark.parametrize(
    "case, after",
    [
        (Case(), "headrace.QGemm"),  # nothing follows
        (Case(added=True, shared=True), "Add"),
        (Case(factor=True), "Mul"),  # no QuantizeLinear ends it
        (Case(added=True, dynamic=True, shared=True), "headrace.MatMulIntegerToFloat"),
    ],
)
def test_what_stays(case: Case, after: str) -> None:
    kinds = ran(network(case)[0])
    assert kinds["headrace.cpu.QGemm"] == 0 and kinds[after] == 1


def test_a_matrix_for_each_row_of_the_batch_stays() -> None:
    graph = Graph(Block([], [], []))
    b, x = Builder(graph), Value("x", TensorType("float32", (2, 5, 12)))
    graph.block.inputs.append(x)
    q, scale, zero = b.node("DynamicQuantizeLinear", [x], outputs=3)
    w = b.constant(RNG.integers(-128, 128, (2, 12, 9)).astype(np.int8))
    (y,) = b.node("MatMulIntegerToFloat", [q, w, scale, b.constant(np.float32(0.01)), zero], domain="headrace")
    graph.outputs.extend(
        b.node("QuantizeLinear", [b.node("Gelu", [y])[0], b.constant(np.float32(0.1)), b.constant(np.uint8(3))])
    )
    infer_graph(graph)
    assert ran(graph)["headrace.cpu.QGemm"] == 0
    feeds = {"x": RNG.standard_normal((2, 5, 12)).astype(np.float32)}
    (found,), (want,) = (load(graph, device="cpu", without=w).run(feeds).values() for w in ((), [NAME]))
    assert found.tobytes() == want.tobytes()


def test_factors_before_quantizing(tier: str) -> None:
    """SmoothQuant's factors on what no product makes; the product's own use of the value stays."""
    graph = Graph(Block([], [], []))
    b, x = Builder(graph), Value("x", TensorType("float32", (symbol("n"), 5, 37)))
    graph.block.inputs.append(x)
    row = b.constant(RNG.uniform(0.5, 2, (1, 1, 37)).astype(np.float32))
    answers = []
    for kind, zero in (("uint8", 120), ("int8", -3)):
        (scaled,) = b.node("Mul", [row, x])
        answers += b.node("QuantizeLinear", [scaled, b.constant(np.float32(0.02)), b.constant(np.array(zero, kind))])
    graph.outputs.extend(answers)
    infer_graph(graph)
    assert ran(graph) == {"headrace.cpu.QuantizeLinear": 2}
    for count in (0, 1, 4):
        feeds = {"x": RNG.standard_normal((count, 5, 37)).astype(np.float32)}
        if count:
            feeds["x"][0, 0, :3] = np.nan, np.inf, -np.inf
        found = load(graph, device="cpu").run(feeds)
        for name, want in load(graph, device="cpu", without=[NAME]).run(feeds).items():
            np.testing.assert_array_equal(found[name], want)


def test_its_work_is_that_of_the_product() -> None:
    shapes = [(1, (2, 7, 33)), None, None, (3, (33, 70))]
    assert flops_of("headrace.cpu.QGemm", shapes, [(1, (2, 7, 70))]) == 2 * 2 * 7 * 33 * 70


def test_rows_do_not_depend_on_the_batch(tier: str) -> None:
    graph, feeds = network(replace(CASES[0], rows=30, activation="Gelu", factor=True, closed="uint8"))
    model = load(graph, device="cpu")
    (whole,) = model.run(feeds).values()
    for start, stop in ((0, 1), (3, 10), (29, 30)):
        (part,) = model.run({name: array[:, start:stop] for name, array in feeds.items()}).values()
        assert part.tobytes() == whole[:, start:stop].tobytes()
