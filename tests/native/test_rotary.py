"""Rotary embeddings as exporters spell them out, in one node: as the reference says, and only where it is one."""

from __future__ import annotations

import numpy as np
import pytest
from graph_cases import Ops, feeds_of, kinds, make

from headrace.runtime import load
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Graph, Value

F = "float32"


def spelled(
    o: Ops, x: Value, cos: Value, sin: Value, *, split: bool = False, half: int = 3, swapped: bool = False
) -> Value:
    if split:
        first, second = o.builder.node("Split", [x], {"axis": -1, "num_outputs": 2}, outputs=2)
    else:
        begin, middle, end, axes = (o.const(np.array([n], np.int64)) for n in (0, half, 2**62, -1))
        first, second = o.Slice(x, begin, middle, axes), o.Slice(x, middle, end, axes)
    pair = (first, o.Neg(second)) if swapped else (o.Neg(second), first)
    return o.Add(o.Mul(x, cos), o.Mul(o.Concat(*pair, axis=-1), sin))


def embedding(table: tuple[int | str, ...], **how: object) -> Graph:
    def body(o: Ops, x: Value, cos: Value, sin: Value) -> Value:
        return spelled(o, x, cos, sin, **how)  # type: ignore[arg-type]

    return make(body, x=(F, ("n", 2, 5, 6)), cos=(F, table), sin=(F, table))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("table", [("n", 1, 5, 6), (1, 1, 5, 6), (5, 6), (6,), (2, 1, 6)])
def test_it_is_found_and_right(tier: str, table: tuple[int | str, ...], split: bool) -> None:
    graph = embedding(table, split=split)
    feeds = feeds_of(graph, np.random.default_rng(0), n=3)
    (wanted,) = run_graph(graph, feeds).values()
    for threads in (1, 2):
        with load(graph, device="cpu", threads=threads) as model:
            assert [row["operator"] for row in model.kernels()] == ["headrace.cpu.Rotary"]
            for _ in range(2):
                (found,) = model.run(feeds).values()
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
            (alone,) = model.run({name: x[:1] if x.shape[0] == 3 else x for name, x in feeds.items()}).values()
            assert alone.tobytes() == found[:1].tobytes()


@pytest.mark.parametrize("how", [{"half": 2}, {"swapped": True}])
def test_what_only_looks_like_it(how: dict[str, object]) -> None:
    graph = embedding((5, 6), **how)
    with load(graph, device="cpu", threads=1) as model:
        assert "headrace.cpu.Rotary" not in [row["operator"] for row in model.kernels()]
        feeds = feeds_of(graph, np.random.default_rng(0), n=2)
        (wanted,), (found,) = run_graph(graph, feeds).values(), model.run(feeds).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_pass_can_be_left_out() -> None:
    graph = embedding((5, 6))
    with load(graph, device="cpu", threads=1, without="rotary") as model:
        assert "Concat" in [row["operator"] for row in model.kernels()]
    assert "Concat" in kinds(graph)
