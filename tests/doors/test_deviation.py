"""Where a model starts to deviate: found by comparing every value of the run with the graph in double precision."""

from pathlib import Path

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.double import run_double
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.verbs import deviation
from headrace.verbs.pack import PackError, pack


def chain() -> Graph:
    """x -> MatMul -> Relu -> MatMul -> Softmax, with a module path on every node."""
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    rng = np.random.default_rng(0)
    value = builder.input("x", TensorType("float32", (symbol("batch"), 4)))
    for layer in ("first", "second"):
        weight = builder.constant(rng.normal(size=(4, 4)).astype(np.float32), f"{layer}.weight")
        (value,) = builder.node("MatMul", [value, weight], outputs=[f"{layer}.out"], path=layer)
        (value,) = builder.node("Relu" if layer == "first" else "Softmax", [value], outputs=[f"{layer}.y"], path=layer)
    graph.outputs.append(value)
    return graph


X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def test_double_precision_has_every_value_and_is_nearer_to_the_truth() -> None:
    graph = chain()
    values = run_double(graph, {"x": X})
    assert set(values) == {"first.out", "first.y", "second.out", "second.y"}
    assert all(array.dtype == np.float64 for array in values.values())
    weight = graph.constants["first.weight"].astype(np.float64)
    np.testing.assert_array_equal(values["first.out"], X.astype(np.float64) @ weight)
    np.testing.assert_allclose(run_graph(graph, {"x": X})["second.y"], values["second.y"], rtol=1e-6)


def test_operators_of_one_type_only_run_in_that_type() -> None:
    """A branch, and a table of indices beside floats that are widened."""
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    x = builder.input("x", TensorType("float32", (3, 4)))
    (rows,) = builder.node("ArgMax", [x], {"axis": 1, "keepdims": 0})
    (picked,) = builder.node("Gather", [x, rows], {"axis": 1})
    (half,) = builder.node("Cast", [picked], {"to": 10})
    graph.outputs.append(half)
    values = run_double(graph, {"x": X})
    assert values["argmax"].dtype == np.int64
    np.testing.assert_array_equal(values["gather"], X.astype(np.float64)[:, X.argmax(1)])


def test_a_good_graph_deviates_nowhere() -> None:
    assert deviation.first_deviation(chain(), {"x": X}, 1e-5, 1e-6) is None


def test_the_first_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kernel of the first product were wrong: what follows it is wrong too, but is not the cause."""
    run = deviation._every_value

    def broken(graph: Graph, feeds: dict) -> dict:
        wrong = chain()
        wrong.constants["first.weight"] = wrong.constants["first.weight"] + np.float32(0.01)
        return run(deviation_graph(wrong), feeds)

    def deviation_graph(graph: Graph) -> Graph:
        from headrace.runtime.passes import optimize

        return optimize(graph)

    monkeypatch.setattr(deviation, "_every_value", broken)
    found = deviation.first_deviation(chain(), {"x": X}, 1e-4, 1e-5)
    assert found is not None and found.path == "first" and found.error > 1e-3 > found.bound
    assert "of module 'first'" in str(found) and "its definition in float64" in str(found)


def test_pack_names_the_value_that_the_maker_computed_otherwise(tmp_path: Path) -> None:
    graph = chain()
    truth = run_double(graph, {"x": X})
    theirs = {**truth, "second.out": truth["second.out"] + 0.01}  # the maker adds something before the softmax
    answers = {"second.y": truth["second.y"].astype(np.float32)[:, ::-1].copy()}
    with pytest.raises(PackError) as caught:
        pack(
            graph, None, tmp_path / "m.hr", golden=[{"x": X}], expect=[answers], maker="Maker", values=lambda _: theirs
        )
    assert "first value that deviates is 'second.out'" in str(caught.value)
    assert "0.01 from Maker's own value" in str(caught.value)
    with pytest.raises(
        PackError, match="no single node is beyond that bound: the captured graph itself differs from Maker"
    ):
        pack(graph, None, tmp_path / "m.hr", golden=[{"x": X}], expect=[answers], maker="Maker")
