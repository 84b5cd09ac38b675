"""The graph's text, the builder, inference of shapes and values, the reference executor."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError, InputError, RunError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.namespaces import BuilderNamespace, NumpyNamespace
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

N = symbol("n")


def graph_of(*inputs: Value) -> tuple[Graph, Builder]:
    graph = Graph(Block(list(inputs), [], []))
    return graph, Builder(graph)


def matrix(name: str = "x", *shape: object) -> Value:
    return Value(name, TensorType("float32", shape or (N, 4)))  # type: ignore[arg-type]


GOLDEN = """\
graph main(%x: float32[n, 4]) {
  const %axes: int64[1] = [1]
  const %w: float32[4, 3]
  %matmul: float32[n, 3] = MatMul(%x, %w)
  %leakyrelu: float32[n, 3] = LeakyRelu(%matmul) {alpha=0.25}
  %total: float32[n] = ReduceSum(%leakyrelu, %axes) {keepdims=0}
  return %total
}
"""


def example() -> Graph:
    graph, builder = graph_of(matrix())
    w = builder.constant(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    (product,) = builder.node("MatMul", [graph.inputs[0], w])
    (active,) = builder.node("LeakyRelu", [product], {"alpha": 0.25})
    axes = builder.constant(np.array([1], np.int64), "axes")
    graph.outputs.extend(builder.node("ReduceSum", [active, axes], {"keepdims": 0}, outputs=["total"]))
    return graph


def test_text() -> None:
    assert str(example()) == GOLDEN


def test_hash_sees_constants() -> None:
    one, other = example(), example()
    assert one.hash() == other.hash()
    other.constants["w"] = other.constants["w"] + 1
    assert one.hash() != other.hash()


def test_hash_sees_what_is_computed_not_how_it_is_called() -> None:
    one, other = example(), example()
    for node in other.nodes:
        node.outputs[0].name += "_renamed"
    other.outputs[0].name = "total"
    assert one.hash() == other.hash() and str(one) != str(other)
    other.outputs[0].name = "sum"
    assert one.hash() != other.hash()
    other = example()
    other.nodes[1].attributes["alpha"] = 0.5
    assert one.hash() != other.hash()


def test_run() -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    y = x @ np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(run_graph(example(), {"x": x})["total"], np.where(y < 0, y / 4, y).sum(1), rtol=1e-6)


@pytest.mark.parametrize(
    "feeds, message",
    [
        ({}, "input x: .* is missing"),
        ({"x": np.zeros((2, 5), np.float32)}, r"shape \[2, 5\]"),
        ({"x": np.zeros((2, 4), np.float64)}, "given: float64"),
        ({"x": np.zeros((2, 4), np.float32), "z": 1}, "no input 'z'"),
        ({"x": np.zeros(4, np.float32)}, "given: shape"),
    ],
)
def test_feeds_are_checked(feeds: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_graph(example(), feeds)


def test_equal_symbols_are_equal_sizes() -> None:
    graph, builder = graph_of(matrix("a"), matrix("b"))
    graph.outputs.extend(builder.node("Concat", graph.inputs, {"axis": 1}))
    with pytest.raises(InputError, match="n is 2 in an earlier input"):
        run_graph(graph, {"a": np.zeros((2, 4), np.float32), "b": np.zeros((3, 4), np.float32)})


def test_errors_name_the_node() -> None:
    graph, builder = graph_of(matrix())
    with pytest.raises(GraphError, match=r"node 'layer1' \(MatMul.*inner dimensions differ: 4 and 5"):
        builder.node("MatMul", [graph.inputs[0], builder.constant(np.zeros((5, 3), np.float32))], name="layer1")
    assert not builder.nodes
    with pytest.raises(GraphError, match="no attribute 'alhpa'"):
        builder.node("LeakyRelu", [graph.inputs[0]], {"alhpa": 1.0})
    with pytest.raises(GraphError, match="there is no operator Nonsense"):
        builder.node("Nonsense", [])
    with pytest.raises(GraphError, match="it must be float32"):
        builder.node("Add", [graph.inputs[0], builder.constant(np.zeros(4, np.int64))])
    with pytest.raises(GraphError, match="allowed: 2"):
        builder.node("Add", [graph.inputs[0]] * 3)


def test_run_errors_name_the_node() -> None:
    index = Value("i", TensorType("int64", (1,)))
    graph, builder = graph_of(matrix("x", 3), index)
    graph.outputs.extend(builder.node("Gather", graph.inputs, name="pick"))
    with pytest.raises(RunError, match="node 'pick'"):
        run_graph(graph, {"x": np.zeros(3, np.float32), "i": np.array([7])})


def test_names_are_fresh() -> None:
    graph, builder = graph_of(matrix("relu"))
    names = [builder.node("Relu", [graph.inputs[0]])[0].name for _ in range(3)]
    assert names == ["relu_2", "relu_3", "relu_4"]
    assert builder.node("Relu", [graph.inputs[0]], outputs=["relu"])[0].name == "relu_5"


def test_shape_arithmetic_stays_symbolic() -> None:
    """x.reshape(x.shape[0] * 2, -1), as exporters write it."""
    graph, builder = graph_of(matrix("x", N, 4, 6))
    x = graph.inputs[0]
    F = BuilderNamespace(builder)
    size = F.Gather(F.Shape(x), F.constant(np.array(0)))
    double = F.Unsqueeze(F.Mul(size, F.constant(np.array(2))), F.constant(np.array([0])))
    y = F.Reshape(x, F.Concat(double, F.constant(np.array([-1])), axis=0))
    assert y.type.shape[0] == N * 2 and y.type.shape[1] in (12, (24 * N) // (2 * N))
    assert run_graph(_output(graph, y), {"x": np.zeros((3, 4, 6), np.float32)})[y.name].shape == (6, 12)


def _output(graph: Graph, value: Value) -> Graph:
    graph.outputs[:] = [value]
    return graph


def test_where_on_shapes() -> None:
    """torch's expand: Where(shape == -1, ones, shape)."""
    graph, builder = graph_of(matrix("x", N, 1))
    F = BuilderNamespace(builder)
    shape = F.Concat(
        F.Slice(F.Shape(graph.inputs[0]), F.constant(np.array([0])), F.constant(np.array([1]))),
        F.constant(np.array([7])),
        axis=0,
    )
    chosen = F.Where(F.Equal(shape, F.constant(np.array([-1, -1]))), F.constant(np.array([1, 1])), shape)
    assert F.Expand(graph.inputs[0], chosen).type.shape == (N, 7)


def test_known_values_are_folded() -> None:
    graph, builder = graph_of(matrix("x", 2, 3))
    F = BuilderNamespace(builder)
    sizes = F.Cast(F.Mul(F.Cast(F.Shape(graph.inputs[0]), to=1), F.constant(np.array([2.0, 1.0], np.float32))), to=7)
    assert F.ConstantOfShape(sizes).type.shape == (4, 3)


def test_data_dependent_sizes_are_fresh_symbols() -> None:
    graph, builder = graph_of(matrix("x", N))
    F = BuilderNamespace(builder)
    one, other = F.NonZero(graph.inputs[0]), F.NonZero(graph.inputs[0])
    assert one.type.shape[1] != other.type.shape[1]


def test_inference_can_be_repeated() -> None:
    graph = example()
    text = str(graph)
    for node in graph.nodes:
        for value in node.outputs:
            assert value is not None
            value.type = None
    infer_graph(graph)
    assert str(graph) == text
    infer_graph(graph)
    assert str(graph) == text


def test_if_runs_one_block() -> None:
    condition = Value("c", TensorType("bool", ()))
    graph, builder = graph_of(condition, matrix("x", N))
    x = graph.inputs[1]
    blocks = {}
    for key, operator in (("then_branch", "Neg"), ("else_branch", "Abs")):
        block = Block([], [], [])
        block.outputs += builder.inner(block).node(operator, [x])
        blocks[key] = block
    graph.outputs.extend(builder.node("If", [condition], blocks))
    assert graph.outputs[0].type == TensorType("float32", (N,))
    given = np.array([-1, 2], np.float32)
    for flag, expected in ((True, -given), (False, np.abs(given))):
        np.testing.assert_array_equal(
            run_graph(graph, {"c": np.array(flag), "x": given})[graph.outputs[0].name], expected
        )
    assert "else_branch () {" in str(graph)


def test_namespaces_agree() -> None:
    """One gradient rule, three namespaces: here two of them."""

    def rule(F: object, x: object) -> object:
        return F.Mul(F.Sigmoid(x), F.constant(np.array(2, np.float32)))  # type: ignore[attr-defined]

    graph, builder = graph_of(matrix("x", 3))
    value = rule(BuilderNamespace(builder), graph.inputs[0])
    graph.outputs.append(value)  # type: ignore[arg-type]
    data = np.array([-1, 0, 1], np.float32)
    np.testing.assert_array_equal(run_graph(graph, {"x": data})[value.name], rule(NumpyNamespace(), data))  # type: ignore[attr-defined,arg-type]
    with pytest.raises(AttributeError, match="there is no operator Nonsense"):
        NumpyNamespace().Nonsense  # noqa: B018
