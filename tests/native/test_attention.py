"""Attention in one kernel: against the operator's reference over odd sizes, masks, grouped heads and caches; rows keep their
bits in every batch; and the pass that finds it in graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_kernel import run

from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.lower import capabilities, lower
from headrace.runtime.ops import find
from headrace.runtime.passes import machine, optimize
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(5)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def reference(inputs: list[Any], attributes: dict[str, Any], outputs: int = 1) -> list[Any]:
    operator = find("Attention", "")
    assert operator is not None
    wide = [x.astype(np.float64) if x is not None and x.dtype == np.float32 else x for x in inputs]
    return operator.reference(wide, operator.complete(attributes), outputs)


def check(inputs: list[Any], attributes: dict[str, Any], **options: Any) -> None:
    found, (want, *_) = run("Attention", inputs, attributes, **options), reference(inputs, attributes)
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=0, atol=3e-6 * max(1.0, np.abs(want).max(initial=0.0)))


@pytest.mark.parametrize(
    "length, total, size", [(1, 1, 1), (1, 70, 64), (4, 9, 20), (5, 33, 7), (13, 13, 32), (70, 129, 65)]
)
def test_odd_sizes(tier: str, length: int, total: int, size: int) -> None:
    q, k, v = array(2, 3, length, size), array(2, 3, total, size), array(2, 3, total, size + 3)
    for threads in (1, 2):
        check([q, k, v], {}, threads=threads)
        check([q, k, v], {"is_causal": 1, "scale": 0.3}, threads=threads)
    flat = [np.ascontiguousarray(x.swapaxes(1, 2)).reshape(2, x.shape[2], -1) for x in (q, k, v)]
    check(flat, {"q_num_heads": 3, "kv_num_heads": 3})


@pytest.mark.parametrize("length", [2, 19])
def test_masks(tier: str, length: int) -> None:
    total = 21
    q, k, v = array(2, 3, length, 8), array(2, 3, total, 8), array(2, 3, total, 8)
    for shape in (
        (length, total),
        (1, total),
        (2, 1, 1, total),
        (1, 3, length, total),
        (3, 1, total),
        (2, 3, length, total - 4),
    ):
        check([q, k, v, array(*shape)], {})
        seen = RNG.random(shape) < 0.6
        seen[..., 0, :] = False  # a query that sees nothing: zeros
        check([q, k, v, seen], {"is_causal": 1})
    low = np.full((length, total), -np.inf, np.float32)
    assert not run("Attention", [q, k, v, low]).any()
    with pytest.raises(Exception, match="the mask is"):
        run("Attention", [q, k, v, array(length + 1, total)])


@pytest.mark.parametrize("length", [2, 19])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_a_query_may_not_see_does_not_matter(tier: str, length: int, value: float) -> None:
    for place in range(3):
        inputs = [array(1, 2, length, 8) for _ in range(3)]
        inputs[place][0, 0, length // 2, 3] = value
        for mask in (None, RNG.random((length, length)) < 0.6):
            attributes = {} if mask is not None else {"is_causal": 1}
            with np.errstate(all="ignore"):
                (want,) = reference([*inputs, mask], attributes)
            np.testing.assert_allclose(run("Attention", [*inputs, mask], attributes), want, rtol=0, atol=1e-5)
            if place < 2 and mask is None:  # the first query does not look at this key
                assert np.isfinite(want[0, 0, 0]).all()


@pytest.mark.parametrize("length", [1, 6])
def test_grouped_heads_and_a_cache(tier: str, length: int) -> None:
    q, k, v = array(2, 6, length, 16), array(2, 2, length, 16), array(2, 2, length, 16)
    past = [array(2, 2, 11, 16), array(2, 2, 11, 16)]
    inputs = [q, k, v, None, *past]
    check(inputs, {"is_causal": 1})
    found = run("Attention", inputs, {}, ["float32", "float32", "float32"])
    for a, b in zip(found, reference(inputs, {}, 3)):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(found[1], np.concatenate([past[0], k], 2))


@given(st.integers(1, 3), st.integers(1, 14), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_request_has_the_same_bytes_in_every_batch(
    heads: int, length: int, total: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((batch, heads, n, 24)).astype(np.float32) for n in (length, total, total))
    whole = run("Attention", [q, k, v], threads=2)
    for i in range(batch):
        assert run("Attention", [x[i : i + 1].copy() for x in (q, k, v)]).tobytes() == whole[i : i + 1].tobytes()


def encoder(batch: Any, length: int, heads: int, size: int) -> Graph:
    """Attention as exporters write it: projections split into heads, scaled, masked, joined again."""
    graph, width = Graph(Block([], [], [])), heads * size
    values = {name: Value(name, TensorType("float32", (batch, length, width))) for name in "qkv"}
    mask = Value("mask", TensorType("float32", (batch, 1, 1, length)))
    graph.block.inputs.extend([*values.values(), mask])
    b = Builder(graph)
    split = graph.constant("split", np.array([-1, length, heads, size], np.int64))

    def heads_of(name: str, perm: tuple[int, ...]) -> Value:
        return b.node("Transpose", [b.node("Reshape", [values[name], split])[0]], {"perm": perm})[0]

    (scores,) = b.node("MatMul", [heads_of("q", (0, 2, 1, 3)), heads_of("k", (0, 2, 3, 1))])
    (scaled,) = b.node("Div", [scores, graph.constant("root", np.float32(size**0.5))])
    (weights,) = b.node("Softmax", [b.node("Add", [scaled, mask])[0]], {"axis": -1})
    (seen,) = b.node("MatMul", [weights, heads_of("v", (0, 2, 1, 3))])
    (turned,) = b.node("Transpose", [seen], {"perm": (0, 2, 1, 3)})
    graph.outputs.extend(b.node("Reshape", [turned, graph.constant("join", np.array([-1, length, width], np.int64))]))
    return graph


def decoder(length: int, size: int) -> Graph:
    """One step over a cache: keys and values appended by Concat."""
    graph, b = Graph(Block([], [], [])), None
    inputs = [Value(n, TensorType("float32", (2, 3, 1, size))) for n in ("q", "k", "v")]
    inputs += [Value(n, TensorType("float32", (2, 3, length, size))) for n in ("past_k", "past_v")]
    graph.block.inputs.extend(inputs)
    b = Builder(graph)
    q, k, v, past_k, past_v = inputs
    (keys,), (all_values,) = (b.node("Concat", pair, {"axis": 2}) for pair in ([past_k, k], [past_v, v]))
    (turned,) = b.node("Transpose", [keys], {"perm": (0, 1, 3, 2)})
    (scores,) = b.node("MatMul", [q, turned])
    (scaled,) = b.node("Mul", [scores, graph.constant("scale", np.float32(0.25))])
    graph.outputs.extend(b.node("MatMul", [b.node("Softmax", [scaled], {"axis": -1})[0], all_values]))
    return graph


@pytest.mark.parametrize("graph", [encoder(2, 9, 3, 8), decoder(7, 16)], ids=["encoder", "decoder"])
def test_the_pass_finds_it(graph: Graph) -> None:
    infer_graph(graph)
    small = machine.run(optimize(graph), capabilities())
    kinds = [node.kind for node in small.block.nodes]
    assert (
        kinds.count("Attention") == 1 and "Softmax" not in kinds and "Transpose" not in kinds and "Concat" not in kinds
    )
    feeds = {value.name: array(*value.type.shape) for value in graph.inputs}  # type: ignore[union-attr]
    want, found = run_graph(graph, feeds), lower(optimize(graph), 1).run(feeds)
    assert found is not None
    for name, y in want.items():
        np.testing.assert_allclose(found[name], y, rtol=0, atol=3e-6)


def test_scores_that_somebody_else_reads_stay() -> None:
    graph = encoder(2, 9, 3, 8)
    (softmax,) = [node for node in graph.block.nodes if node.kind == "Softmax"]
    graph.outputs.append(softmax.outputs[0])  # type: ignore[arg-type]
    infer_graph(graph)
    small = machine.run(optimize(graph), capabilities())
    assert "Attention" not in [node.kind for node in small.block.nodes]
