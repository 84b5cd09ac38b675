"""Operators of the domain "headrace" in ONNX files: calls of functions, known again where the body is ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from serializer_graphs import inner_block

from headrace.runtime.builder import Builder
from headrace.runtime.errors import LoadError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.load import open_program
from headrace.serializer.onnx.save import save, to_model

RNG = np.random.default_rng(3)
FEEDS = {name: RNG.standard_normal((4, 4)).astype(np.float32) for name in "ab"}


def start() -> tuple[Graph, Builder, Value, Value]:
    kinds = [Value(name, TensorType("float32", (symbol("n"), 4))) for name in "ab"]
    graph = Graph(Block(kinds, [], []))
    return graph, Builder(graph), *graph.inputs  # type: ignore[return-value]


def products(*attributes: dict[str, Any]) -> Graph:
    """One FusedMatMul after the other."""
    graph, builder, a, b = start()
    for index, given in enumerate(attributes):
        (a,) = builder.node("FusedMatMul", [a, b], given, domain="headrace", outputs=[f"y{index}"])
    graph.outputs.append(a)
    return graph


def agree(graph: Graph, proto: Any, feeds: dict[str, np.ndarray] = FEEDS) -> Graph:
    """The file is accepted and equals in onnxruntime and after re-import, which is answered."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="exported files are run in onnxruntime")
    onnx.checker.check_model(proto, full_check=True)
    again = open_program(proto.SerializeToString()).program.main
    wanted = list(run_graph(graph, feeds).values())
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for found in (list(run_graph(again, feeds).values()), session.run(None, feeds)):
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return again


@pytest.mark.parametrize("opset", [13, 17, 21, 23])
def test_nodes_share_a_body_and_others_are_overloads(opset: int) -> None:
    graph = products({"activation": "Relu"}, {}, {"activation": "Relu"})
    proto = to_model(graph, opset=opset)
    assert [(node.op_type, node.overload) for node in proto.graph.node] == [
        ("FusedMatMul", ""), ("FusedMatMul", "2"), ("FusedMatMul", ""),
    ]  # fmt: skip
    assert [body.overload for body in proto.functions] == ["", "2"] and proto.ir_version >= 10
    assert {node.domain for body in proto.functions for node in body.node} == {""}
    again = agree(graph, proto)
    assert [(node.kind, dict(node.attributes)) for node in again.nodes] == [
        (node.kind, dict(node.attributes)) for node in graph.nodes
    ]


def test_one_body_needs_no_overload_and_thus_no_newer_ir_version() -> None:
    proto = to_model(products({"transB": 1}), opset=13)
    assert proto.ir_version == 8
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", 13), ("headrace", 1)]


def test_written_out_for_readers_without_functions() -> None:
    graph = products({"activation": "Relu"})
    proto = to_model(graph, functions=False)
    assert not proto.functions and [node.op_type for node in proto.graph.node] == ["MatMul", "Relu"]
    assert [node.kind for node in agree(graph, proto).nodes] == ["MatMul", "Relu"]


def test_older_sets_get_formulas_inside_the_body() -> None:
    graph = products({"activation": "Gelu"})
    old, new = to_model(graph, opset=17), to_model(graph, opset=20)
    assert "Gelu" in {node.op_type for node in new.functions[0].node}
    assert "Erf" in {node.op_type for node in old.functions[0].node}
    for proto in (old, new):
        assert [node.kind for node in agree(graph, proto).nodes] == ["headrace.FusedMatMul"]


def test_inside_the_branches_of_an_if() -> None:
    graph, builder, a, b = start()
    condition = builder.input("c", TensorType("bool", ()))
    branches = {}
    for key, attributes in (("then_branch", {}), ("else_branch", {"activation": "Tanh"})):
        block = inner_block(builder, "Add", [a, b])
        results = builder.inner(block).node("FusedMatMul", [block.outputs[0], b], attributes, domain="headrace")
        block.outputs[:] = results
        branches[key] = block
    graph.outputs.extend(builder.node("If", [condition], branches))
    for flag in (True, False):
        again = agree(graph, to_model(graph), {**FEEDS, "c": np.array(flag)})
        assert sum(node.kind == "headrace.FusedMatMul" for node in again.block.walk()) == 2


def test_weights_outside_the_file(tmp_path: Path) -> None:
    graph = products({})
    graph.block.inputs.pop()
    graph.values["b"] = graph.nodes[0].inputs[1]  # type: ignore[assignment]
    graph.constants["b"] = np.resize(FEEDS["b"], (4, 4096))
    graph.values["b"].type = TensorType("float32", (4, 4096))
    save(graph, tmp_path / "m.onnx", external_data=True)
    again = open_program(tmp_path / "m.onnx").program.main
    assert [node.kind for node in again.nodes] == ["headrace.FusedMatMul"]


def changed(change: Callable[[Any], None]) -> Any:
    """A file whose function of the name FusedMatMul is not ours."""
    proto = to_model(products({"activation": "Relu"}), opset=17)
    change(proto)
    return proto


def other_operator(proto: Any) -> None:
    proto.functions[0].node[-1].op_type = "Neg"


def other_order(proto: Any) -> None:
    proto.functions[0].input[:] = reversed(proto.functions[0].input)


def other_default(proto: Any) -> None:
    proto.functions[0].attribute_proto.add(name="never", type=2, i=1)


@pytest.mark.parametrize("change", [other_operator, other_order, other_default])
def test_what_says_something_else_under_our_name_is_computed_as_it_says(change: Callable[[Any], None]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the file is run in onnxruntime")
    proto = changed(change)
    again = open_program(proto).program.main
    assert "headrace.FusedMatMul" not in {node.kind for node in again.nodes}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(*run_graph(again, FEEDS).values(), session.run(None, FEEDS)[0], rtol=1e-5, atol=1e-6)


def test_calls_that_the_operator_does_not_allow_are_calls_of_the_function() -> None:
    """The attribute has a value that FusedMatMul refuses; the function does not read it."""
    proto = changed(lambda _: None)
    proto.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("activation", 7))
    assert [node.kind for node in open_program(proto).program.main.nodes] == ["MatMul", "Relu"]


def test_another_version_of_the_domain_is_refused() -> None:
    proto = changed(lambda proto: setattr(proto.opset_import[1], "version", 2))
    with pytest.raises(LoadError, match="'headrace' version 2 is not supported; allowed: 1 to 1"):
        open_program(proto)


def test_a_function_for_an_operator_that_does_not_exist_is_called() -> None:
    def rename(proto: Any) -> None:
        proto.functions[0].name = proto.graph.node[0].op_type = "NotThere"

    assert [node.kind for node in open_program(changed(rename)).program.main.nodes] == ["MatMul", "Relu"]


def test_a_node_without_a_function_is_the_operator() -> None:
    proto = changed(lambda proto: proto.ClearField("functions"))
    assert [node.kind for node in open_program(proto).program.main.nodes] == ["headrace.FusedMatMul"]


EXTREME = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 3.0, -3.0, 6.0, 1e-30, -1e-30, 1e30, -1e30, np.inf, -np.inf, np.nan]


def written_out(operator: str, dtype: str, *arrays: Any) -> tuple[Any, Any]:
    """What an operator answers, and what its formula does."""
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    inputs = [builder.input(f"x{i}", TensorType(dtype, x.shape)) for i, x in enumerate(arrays)]
    graph.outputs.extend(builder.node(operator, inputs, domain="headrace", outputs=["y"]))
    feeds = {f"x{i}": x for i, x in enumerate(arrays)}
    plain = open_program(to_model(graph, opset=17, functions=False)).program.main
    assert {node.domain for node in plain.nodes} == {""}
    with np.errstate(all="ignore"):
        return run_graph(graph, feeds)["y"], run_graph(plain, feeds)["y"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operator", ["Atan2", "Hypot"])
def test_formulas_of_two_numbers_at_the_extremes(operator: str, dtype: str) -> None:
    """Every pair of signs, zeros, infinities and NaN; the sign of a zero counts."""
    a, b = (grid.ravel() for grid in np.meshgrid(np.array(EXTREME, dtype), np.array(EXTREME, dtype)))
    wanted, found = written_out(operator, dtype, a, b)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-36)
    np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(wanted[found == 0]))


@pytest.mark.parametrize("operator", ["Erfc", "Erfinv", "Sinc", "Log1p"])
def test_formulas_of_one_number_at_the_extremes(operator: str) -> None:
    x = np.array([*EXTREME, 1e-4, 0.999999, -0.999999, *np.linspace(-9, 9, 181)], np.float32)
    wanted, found = written_out(operator, "float32", x)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=3e-7 if operator == "Sinc" else 1e-36)


def test_log1p_of_large_doubles() -> None:
    wanted, found = written_out("Log1p", "float64", np.array([1e300, 1e-300, np.inf, -1.0, 0.0]))
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_certain_answers_cost_at_most_100() -> None:
    p, y = np.array([0, 1, 0, 1, 0.5, 1e-30], np.float32), np.array([0, 1, 1, 0, 0.3, 1], np.float32)
    wanted, found = written_out("BinaryCrossEntropy", "float32", p, y)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[2] == found[3] == 100
