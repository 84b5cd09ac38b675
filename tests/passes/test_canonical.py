"""Folding, no-ops, shape arithmetic, common subexpressions."""

import numpy as np
import pytest
from graph_cases import count, kinds, make, same

from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.passes import optimize
from headrace.runtime.passes.fold import LIMIT
from headrace.runtime.passes.shapes import reshape_target
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

F = "float32"
N = symbol("n")


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    "body",
    [
        lambda o, x: o.Identity(x),
        lambda o, x: o.Dropout(x),
        lambda o, x: o.Cast(x, to=1),
        lambda o, x: o.Add(x, o.const(0.0)),
        lambda o, x: o.Add(o.const([0.0] * 4), x),
        lambda o, x: o.Sub(x, o.const(0.0)),
        lambda o, x: o.Mul(o.const([[1.0]]), x),
        lambda o, x: o.Div(x, o.const(1.0)),
        lambda o, x: o.Pow(x, o.const(1.0)),
        lambda o, x: o.Transpose(x, perm=(0, 1, 2)),
        lambda o, x: o.Transpose(o.Transpose(x, perm=(2, 0, 1)), perm=(1, 2, 0)),
        lambda o, x: o.Reshape(x, o.const(i64(0, 3, 4))),
        lambda o, x: o.Reshape(o.Reshape(x, o.const(i64(-1, 12))), o.const(i64(-1, 3, 4))),
        lambda o, x: o.Sum(x),
        lambda o, x: o.Max(x),
        lambda o, x: o.Clip(x),
        lambda o, x: o.Squeeze(o.Unsqueeze(x, o.const(i64(1))), o.const(i64(1))),
        lambda o, x: o.Expand(x, o.const(i64(1, 1, 1))),
    ],
)
def test_what_changes_nothing_goes(body) -> None:
    graph = make(lambda o, x: o.Relu(body(o, x)), x=(F, ("n", 3, 4)))
    result = optimize(graph)
    assert kinds(result) == ["Relu"], str(result)
    same(graph, result, rtol=0, atol=0)


@pytest.mark.parametrize(
    "body",
    [
        lambda o, x: o.Add(x, o.const(np.zeros((2, 1, 3, 4)))),  # adds a dimension
        lambda o, x: o.Mul(x, o.const(np.ones((5, 1, 1)))),  # may broadcast dimension 0
        lambda o, x: o.Sub(o.const(0.0), x),
        lambda o, x: o.Div(o.const(1.0), x),
        lambda o, x: o.Cast(x, to=11),
        lambda o, x: o.Dropout(x, o.const(np.float32(0.5)), o.const(np.array(True))),
        lambda o, x: o.Transpose(x, perm=(0, 2, 1)),
        lambda o, x: o.Clip(x, o.const(0.0)),
    ],
)
def test_what_changes_something_stays(body) -> None:
    graph = make(lambda o, x: o.Abs(body(o, x)), x=(F, (1, 3, 4)))
    assert len(kinds(optimize(graph))) == 2, str(optimize(graph))


def test_transposes_join() -> None:
    graph = make(lambda o, x: o.Transpose(o.Transpose(x, perm=(0, 2, 1, 3)), perm=(0, 1, 3, 2)), x=(F, (2, 3, 4, 5)))
    result = optimize(graph)
    assert kinds(result) == ["Transpose"] and result.nodes[0].attributes["perm"] == (0, 2, 3, 1)
    same(graph, result, rtol=0, atol=0)


def test_a_reshape_that_copies_dimensions_keeps_its_source() -> None:
    graph = make(lambda o, x: o.Relu(o.Reshape(o.Flatten(x, axis=1), o.const(i64(0, 0, 1)))), x=(F, ("n", 3, 4)))
    same(graph, optimize(graph), rtol=0, atol=0, n=3)


def test_chains_of_constants_fold_and_types_follow() -> None:
    def body(o, x):
        c = o.const([1.0, 2.0])
        for _ in range(300):  # longer than any sweep limit
            c = o.Add(c, o.const(1.0))
        return o.Mul(x, o.Sqrt(c))

    graph = make(body, x=(F, ("n", 2)))
    result = optimize(graph)
    assert kinds(result) == ["Mul"]
    same(graph, result)


def test_folding_does_not_blow_up_the_file_nor_fix_chance() -> None:
    side = int(np.sqrt(LIMIT))
    graph = make(lambda o, x: o.Mul(x, o.Expand(o.const(2.0), o.const(i64(side, side)))), x=(F, (side, side)))
    assert kinds(optimize(graph)) == ["Expand", "Mul"]
    graph = make(lambda o, x: o.Add(x, o.RandomNormalLike(o.const([1.0, 2.0]))), x=(F, (2,)))
    assert kinds(optimize(graph)) == ["RandomNormalLike", "Add"]


def test_shape_arithmetic_of_known_dimensions_is_gone() -> None:
    """Reshape to [batch, 128, heads, width // heads], computed by a dozen nodes as exporters do."""

    def body(o, x):
        at = lambda i: o.Gather(o.Shape(x), o.const(np.array(i, np.int64)))  # noqa: E731
        one = lambda v: o.Unsqueeze(v, o.const(i64(0)))  # noqa: E731
        width = o.Cast(o.Cast(o.Div(at(2), o.const(np.array(12, np.int64))), to=7), to=7)
        target = o.Concat(one(at(0)), one(at(1)), o.const(i64(12)), one(width), axis=0)
        return o.Mul(o.Reshape(x, target), o.Sqrt(o.Cast(width, to=1)))

    graph = make(body, x=(F, ("n", 6, 24)))
    result = optimize(graph)
    assert kinds(result) == ["Reshape", "Mul"]
    (target,) = (array for array in result.constants.values() if array.dtype == np.int64)
    assert target.tolist() == [0, 6, 12, 2]
    same(graph, result, n=3)


def test_reshape_targets() -> None:
    assert reshape_target((N, 6, 4), (N, 24)) == (0, 24)
    assert reshape_target((N, 6, 4), (N * 6, 4)) == (-1, 4)
    assert reshape_target((N, 6), (2, N * 3)) == (2, -1)
    assert reshape_target((N, symbol("m")), (symbol("m"), N)) is None
    assert reshape_target((N, 0), (N, 0)) is None


def test_a_dimension_that_is_not_known_stays_computed() -> None:
    graph = make(lambda o, x: o.Expand(o.const([[1.0]]), o.Shape(x)), x=(F, ("n", "m")))
    assert "Expand" in kinds(optimize(graph))
    same(graph, optimize(graph), n=3, m=2)


def test_common_subexpressions_are_computed_once() -> None:
    def body(o, x):
        chain = lambda: o.Exp(o.Mul(o.Sigmoid(x), o.const(2.0)))  # noqa: E731
        return o.Add(chain(), chain())

    graph = make(body, x=(F, ("n", 3)))
    result = optimize(graph)
    assert kinds(result) == ["Sigmoid", "Mul", "Exp", "Add"] and len(result.constants) == 1
    same(graph, result)


def test_random_numbers_and_other_attributes_are_not_common() -> None:
    graph = make(lambda o, x: o.Add(o.LeakyRelu(x, alpha=0.1), o.LeakyRelu(x, alpha=0.2)), x=(F, (3,)))
    assert count(optimize(graph))["LeakyRelu"] == 2
    graph = make(lambda o, x: o.Add(o.RandomNormalLike(x), o.RandomNormalLike(x)), x=(F, (3,)))
    assert count(optimize(graph))["RandomNormalLike"] == 2


def test_equal_outputs_stay_two_outputs() -> None:
    graph = make(lambda o, x: [o.Relu(x), o.Relu(x)], x=(F, (3,)))
    same(graph, optimize(graph))


def test_constant_nodes_become_constants() -> None:
    graph = Graph(Block([Value("x", TensorType(F, (2,)))], [], []))
    builder = Builder(graph)
    (c,) = builder.node("Constant", [], {"value": np.array([2.0, 3.0], np.float32)}, outputs=["weights"])
    (d,) = builder.node("Constant", [], {"value_float": 4.0})
    (s,) = builder.node("Mul", [graph.inputs[0], c])
    graph.block.outputs = [builder.node("Add", [s, d])[0], c]
    result = optimize(graph)
    assert count(result)["Constant"] == 0 and kinds(result)[:2] == ["Mul", "Add"]
    same(graph, result)
