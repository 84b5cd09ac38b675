"""Nodes of older operator sets mean the same after their upgrade."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.types import TensorType

rng = np.random.default_rng(3)
X = rng.normal(size=(2, 3, 4)).astype(np.float32)


def upgraded(
    operator: str, version: int, inputs: list[np.ndarray], attributes: dict[str, Any], outputs: int = 1
) -> list[Any]:
    """What the node computes after the upgrade."""
    graph = Graph(Block([Value(f"x{i}", TensorType(str(x.dtype), x.shape)) for i, x in enumerate(inputs)], [], []))
    builder = Builder(graph)
    node = Node(operator, list(graph.inputs), [Value(f"y{i}") for i in range(outputs)], attributes, version=version)
    found = find(operator)
    assert found is not None
    values = found.upgrade(node, version, builder)
    if values is None:
        builder.append(node)
        values = node.outputs
    graph.outputs.extend(values)
    results = run_graph(graph, {f"x{i}": x for i, x in enumerate(inputs)})
    return [results[value.name] for value in values]


def test_legacy_broadcast() -> None:
    b = rng.normal(size=3).astype(np.float32)
    for operator, function in (("Add", np.add), ("Mul", np.multiply), ("Sub", np.subtract), ("Div", np.divide)):
        (y,) = upgraded(operator, 6, [X, b], {"broadcast": 1, "axis": 1})
        np.testing.assert_allclose(y, function(X, b[:, None]), rtol=1e-6)
    (y,) = upgraded("Add", 6, [X, X], {})
    np.testing.assert_array_equal(y, X + X)
    (y,) = upgraded("Add", 1, [X, X], {"consumed_inputs": (0, 0)})
    np.testing.assert_array_equal(y, X + X)
    (y,) = upgraded("Pow", 6, [X, np.array([2.0], np.float32)], {"broadcast": 1})
    np.testing.assert_allclose(y, X**2, rtol=1e-6)


@pytest.mark.parametrize("axes", [None, (1,), (0, -1)])
@pytest.mark.parametrize(
    "operator, function",
    [("ReduceSum", np.sum), ("ReduceMean", np.mean), ("ReduceMax", np.max), ("ReduceProd", np.prod)],
)
def test_axes_were_attributes(operator: str, function: Any, axes: Any) -> None:
    attributes = {"keepdims": 0} | ({} if axes is None else {"axes": axes})
    (y,) = upgraded(operator, 11, [X], attributes)
    np.testing.assert_allclose(y, function(X, axis=axes), rtol=1e-5)


def test_clip_had_attributes() -> None:
    np.testing.assert_array_equal(upgraded("Clip", 6, [X], {"min": -0.5, "max": 0.5})[0], np.clip(X, -0.5, 0.5))
    np.testing.assert_array_equal(upgraded("Clip", 6, [X], {"max": 0.5})[0], np.minimum(X, 0.5))
    np.testing.assert_array_equal(upgraded("Clip", 6, [X], {})[0], X)


def test_top_k_had_an_attribute() -> None:
    values, indices = upgraded("TopK", 1, [X], {"k": 2, "axis": 2}, 2)
    np.testing.assert_array_equal(values, -np.sort(-X, axis=2)[..., :2])
    np.testing.assert_array_equal(indices, np.argsort(-X, axis=2)[..., :2])


def test_prelu_slopes_were_channels() -> None:
    slope = np.array([0.1, 0.2, 0.3], np.float32)
    (y,) = upgraded("PRelu", 6, [X, slope], {})
    np.testing.assert_allclose(y, np.where(X < 0, X * slope[:, None], X))


def test_cast_named_its_type() -> None:
    assert upgraded("Cast", 1, [X], {"to": "INT32"})[0].dtype == np.int32
    assert upgraded("Cast", 1, [X], {"to": b"DOUBLE"})[0].dtype == np.float64


def test_dropout_had_a_ratio() -> None:
    np.testing.assert_array_equal(upgraded("Dropout", 6, [X], {"ratio": 0.5, "is_test": 1})[0], X)
    y, mask = upgraded("Dropout", 10, [X], {"ratio": 0.5}, 2)
    assert np.array_equal(y, X) and mask.all()


def test_gemm_had_broadcast() -> None:
    a, b, c = X[0], X[0].T.copy(), np.ones(3, np.float32)
    np.testing.assert_allclose(upgraded("Gemm", 6, [a, b, c], {"broadcast": 1})[0], a @ b + 1, rtol=1e-5)
