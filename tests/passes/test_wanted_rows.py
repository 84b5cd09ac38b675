"""Rows that nobody reads are not computed: a Gather or Slice goes before what keeps rows apart, and before nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_cases import kinds, make, same

from headrace.runtime.graph import Graph
from headrace.runtime.infer import infer_graph
from headrace.runtime.passes.machine.wanted_rows import wanted_rows

F, LENGTH, WIDTH = "float32", 7, 8
rng = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def gather(o: Any, x: Any, place: Any = 0, axis: int = 1) -> Any:
    return o.Gather(x, o.const(np.asarray(place, np.int64)), axis=axis)


def piece(o: Any, x: Any, start: int, end: int, axis: int = 1) -> Any:
    return o.Slice(x, *(o.const(np.array([n], np.int64)) for n in (start, end, axis)))


def product(o: Any, x: Any, *more: Any, **attributes: Any) -> Any:
    return o.domain(
        "headrace", "FusedMatMul", x, o.const(normal(WIDTH, WIDTH)), o.const(normal(WIDTH)), *more, **attributes
    )


def norm(o: Any, x: Any, **attributes: Any) -> Any:
    return o.LayerNormalization(x, o.const(normal(WIDTH)), o.const(normal(WIDTH)), **attributes)


def attention(o: Any, x: Any, mask: Any = None, **attributes: Any) -> Any:
    q, k, v = (product(o, x) for _ in range(3))
    return o.Attention(q, k, v, mask, q_num_heads=2, kv_num_heads=2, **attributes)


def integers(o: Any, x: Any) -> Any:
    level = [o.const(np.float32(0.05)), o.const(np.int8(3))]
    weight = [
        o.const(rng.integers(-9, 9, (WIDTH, WIDTH)).astype(np.int8)),
        o.const(np.float32(0.1)),
        o.const(np.int8(0)),
    ]
    return o.DequantizeLinear(
        o.domain("headrace", "QGemm", o.QuantizeLinear(x, *level), *level, *weight, *level), *level
    )


def layer(o: Any, x: Any, mask: Any = None) -> Any:
    x = norm(o, product(o, attention(o, x, mask), x))
    return norm(o, product(o, product(o, x, activation="Gelu"), x))


def graph_of(body: Callable[..., Any]) -> Graph:
    graph = make(body, x=(F, ("n", LENGTH, WIDTH)))
    infer_graph(graph)
    return graph


def sizes_before_the_end(graph: Graph) -> list[int]:
    """Of the axis that rows lie on, in every value of three axes, in order."""
    return [value.type.shape[1] for node in graph.nodes for value in node.outputs if len(value.type.shape) == 3]


def test_a_classifier_over_a_layer_of_a_transformer() -> None:
    """Of all rows only keys and values are left."""
    mask = normal(1, 1, 1, LENGTH)
    graph = graph_of(lambda o, x: product(o, gather(o, layer(o, x, o.const(mask)))))
    result = wanted_rows(graph, ())
    whole = [node.kind for node in result.nodes if node.outputs[0].type.shape[1:] == (LENGTH, WIDTH)]
    assert whole == ["headrace.FusedMatMul"] * 2 and kinds(result).count("Gather") == 2
    assert "Squeeze" in kinds(result)
    same(graph, result)


@pytest.mark.parametrize(
    "step",
    [
        lambda o, x: o.Gelu(o.Mul(o.Add(x, o.const(normal(1, LENGTH, 1))), o.const(normal(WIDTH)))),
        lambda o, x: o.Where(o.Less(x, o.const(np.float32(0))), x, o.const(normal(1, 1, WIDTH))),
        lambda o, x: norm(o, x),
        lambda o, x: o.Softmax(x),
        lambda o, x: o.MatMul(x, o.const(normal(WIDTH, 5))),
        lambda o, x: product(o, x, x),
        lambda o, x: attention(o, x),
        lambda o, x: integers(o, x),
    ],
)
@pytest.mark.parametrize(
    "pick",
    [
        lambda o, x: gather(o, x, -2),
        lambda o, x: gather(o, x, [4, 0], -2),
        lambda o, x: piece(o, x, -1, 99),
        lambda o, x: piece(o, x, 1, 4),
        lambda o, x: o.Add(gather(o, x, [3]), piece(o, x, 3, 4)),  # the same rows, said twice
    ],
)
def test_what_keeps_rows_apart(step: Callable[..., Any], pick: Callable[..., Any]) -> None:
    graph = graph_of(lambda o, x: pick(o, step(o, x)))
    result = wanted_rows(graph, ())
    assert kinds(result)[0] == "Gather" or "Attention" in kinds(result)
    assert sizes_before_the_end(result)[-1] < LENGTH
    same(graph, result)


@pytest.mark.parametrize(
    "body",
    [
        lambda o, x: gather(o, o.Softmax(x, axis=1)),
        lambda o, x: gather(o, norm(o, x), 0, 2),  # not rows, but columns
        lambda o, x: gather(o, o.MatMul(x, o.const(normal(WIDTH, 5))), 0, 2),
        lambda o, x: gather(o, o.LayerNormalization(x, o.const(normal(LENGTH, WIDTH)), axis=1)),
        lambda o, x: gather(o, o.MatMul(x, o.Transpose(x, perm=(0, 2, 1)))),
        lambda o, x: gather(o, o.MatMul(x, o.const(normal(3, WIDTH, 4))), 0, 0),  # matrices of their own
        lambda o, x: gather(o, o.DequantizeLinear(o.DynamicQuantizeLinear(x), o.const(normal(LENGTH)), axis=1)),
        lambda o, x: gather(o, o.DynamicQuantizeLinear(x)),  # one range for all rows
        lambda o, x: gather(o, o.Attention(x, x, x, q_num_heads=2, kv_num_heads=2, is_causal=1)),
        lambda o, x: gather(o, o.Attention(x, x, x, o.const(normal(LENGTH, LENGTH)), q_num_heads=2, kv_num_heads=2)),
        lambda o, x: (lambda y: [y, gather(o, y)])(o.Gelu(x)),  # all rows are an answer
        lambda o, x: (lambda y: [gather(o, y), gather(o, y, 1)])(o.Gelu(x)),
        lambda o, x: (lambda y: [gather(o, y), o.Relu(y)])(o.Gelu(x)),
        lambda o, x: gather(o, o.Gelu(x), list(range(LENGTH))),
        lambda o, x: gather(o, o.Gelu(x), [[0]]),
        lambda o, x: o.Slice(o.Gelu(x), *(o.const(np.array(n, np.int64)) for n in ([0, 0], [1, 1], [1, 2]))),
        lambda o, x: o.Gather(x, o.Cast(o.Gelu(o.ReduceMax(x, keepdims=0)), to=7), axis=1),
    ],
)
def test_what_stays(body: Callable[..., Any]) -> None:
    graph = graph_of(body)
    assert wanted_rows(graph, ()) is graph
