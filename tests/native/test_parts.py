"""A batch whose values are more than caches hold runs in parts, where its rows never meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.learnt import Learnt
from headrace.runtime.model import Model
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

ROWS = 16  # of half a megabyte each between the two products


def network(kind: str = "") -> Graph:
    """[n, 32, 64] to [n, 32, 8] by way of [n, 32, 4096]; `kind`: something that changes how its rows may run."""
    rng = np.random.default_rng(5)
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), 32, 64)))], [], []))
    b, x = Builder(graph), graph.inputs[0]
    (wide,) = b.node("MatMul", [x, b.constant(rng.standard_normal((64, 4096), np.float32))])
    (wide,) = b.node("Relu", [wide])
    if kind == "mean":
        (mean,) = b.node("ReduceMean", [wide, b.constant(np.array([0], np.int64))], {"keepdims": 1})
        (wide,) = b.node("Sub", [wide, mean])
    (y,) = b.node("MatMul", [wide, b.constant(rng.standard_normal((4096, 8), np.float32))])
    graph.outputs.append(y)
    if kind == "view":
        graph.outputs.extend(b.node("Reshape", [x, b.constant(np.array([-1, 2048], np.int64))]))
    if kind == "two":
        graph.outputs.extend(b.node("Exp", [y]))
    return graph


def parts(model: Model) -> list[int]:
    program: Any = model._program
    return [plan["parts"] for plan in program.plans() if not plan["generic"]]


def batch(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 32, 64), np.float32)


@pytest.mark.parametrize("kind", ["", "two", "view", "mean"])
def test_rows_that_never_meet_run_a_few_at_a_time(kind: str) -> None:
    model, x = Model(network(kind), threads=1), batch(ROWS)
    first = model.run({"x": x})
    again = model.run({"x": x})
    assert (max(parts(model)) > 1) == (kind in ("", "two"))  # a view is not written row by row; a mean needs all rows
    for name, whole in first.items():
        assert np.array_equal(whole, again[name])
        if kind != "mean":
            assert np.array_equal(whole, np.concatenate([model.run({"x": row[None]})[name] for row in x]))


def test_a_batch_in_parts_needs_the_memory_of_one_part() -> None:
    model = Model(network(), threads=1)
    small, large = (model.memory(batch=rows) for rows in (ROWS // 2, ROWS))
    assert small["arena"] == large["arena"]
    assert large["outputs"] == 2 * small["outputs"] == ROWS * 32 * 8 * 4


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_batches_that_are_small_or_cannot_be_divided_run_whole(rows: int) -> None:
    model = Model(network(), threads=1)
    model.run({"x": batch(rows)})
    assert parts(model) == [1]


def test_recurrent_weights_are_shared_by_the_rows_of_a_batch() -> None:
    rng = np.random.default_rng(0)
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), 5, 3)))], [], []))
    b = Builder(graph)
    weights = [b.constant(rng.standard_normal(shape, np.float32)) for shape in ((1, 16, 3), (1, 16, 4))]
    graph.outputs.extend(b.node("LSTM", [graph.inputs[0], *weights], {"hidden_size": 4, "layout": 1}))
    assert not Learnt.of(graph).apart
    assert Learnt.of(network()).apart
    assert not Learnt.of(network("mean")).apart
