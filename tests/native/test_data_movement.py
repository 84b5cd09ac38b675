"""Kernels that move data against their references: random shapes with empty and single axes, negative indices, repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_kernel import program, run

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import RunError
from headrace.runtime.executor import run_graph, run_node
from headrace.runtime.graph import Block, Graph
from headrace.runtime.lower import lower
from headrace.runtime.ops import find
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

TYPES = ("float32", "float64", "int64", "int32", "int8", "uint8", "bool", "float16")


def equals(
    op: str, inputs: Sequence[Any], attributes: Mapping[str, Any] | None = None, domain: str = "", outputs: int = 1
) -> None:
    operator = find(op, domain)
    assert operator is not None
    wanted = run_node(operator, inputs, attributes or {}, outputs)
    kinds = [dtypes.of(value).name for value in wanted[:outputs]]
    found = run(operator.kind, inputs, operator.complete(attributes or {}), kinds)
    for a, b in zip(found if outputs > 1 else [found], wanted):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_array_equal(a.astype("f8"), b.astype("f8"))


def array(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtypes.BY_NAME[dtype].numpy)


shapes = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def indices(rng: np.random.Generator, size: int, shape: Sequence[int]) -> np.ndarray:
    return rng.integers(-size, size, shape) if size else np.zeros(shape, np.int64)


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_planes_interleave(dtype: str) -> None:
    """Two to four channels first become channels last, whatever the number of pixels."""
    for channels in (2, 3, 4, 5):
        for pixels in (*range(1, 10), 1023, 1030, 4099):
            x = (np.arange(2 * channels * pixels) % 251).astype(dtype).reshape(2, channels, pixels)
            equals("Transpose", [x], {"perm": (0, 2, 1)})


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_planes_of_any_number(dtype: str) -> None:
    for channels, pixels in ((16, 16), (17, 40), (31, 23), (48, 7), (8, 65)):
        x = (np.arange(2 * channels * pixels) * 7 % 251).astype(dtype).reshape(2, channels, pixels)
        equals("Transpose", [x], {"perm": (0, 2, 1)})


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_runs_of_rows_are_joined_and_parted(dtype: str) -> None:
    """Runs of sizes that have code of their own and of others; more parts than go at once, longer ones than a cache holds."""
    for rows, sizes in (
        (1, (3, 0, 5)),
        (700, (4, 8, 16, 32, 64, 128, 7)),
        (3, (5000, 1, 9000)),
        (11, tuple(range(1, 71))),
    ):
        x = (np.arange(rows * sum(sizes)) * 7 % 251).astype(dtype).reshape(rows, -1)
        parts = np.split(x, np.cumsum(sizes)[:-1], axis=1)
        equals("Concat", parts, {"axis": 1})
        equals("Split", [x, np.array(sizes)], {"axis": 1}, outputs=len(sizes))


@settings(max_examples=80)
@given(shapes, st.integers(0, 3), st.sampled_from(TYPES), st.sampled_from(["none", "add", "max", "min"]), seeds)
def test_scatter_elements(shape: Any, axis: int, dtype: str, how: str, rng: np.random.Generator) -> None:
    axis %= len(shape)
    target = tuple(
        int(rng.integers(0, 5)) if i == axis and size else int(rng.integers(0, size + 1))
        for i, size in enumerate(shape)
    )
    picks = indices(rng, shape[axis], target).astype(rng.choice(["int32", "int64"]))
    how = "none" if dtype == "bool" else how
    if how == "none":  # of several updates of one element the last one counts here, any one in NumPy
        picks = np.sort(picks, axis)
        picks = picks if len(set(picks.ravel().tolist())) == picks.size or picks.size == 0 else picks[:0]
    x = array(rng, shape, dtype)
    equals("ScatterElements", [x, picks, array(rng, picks.shape, dtype)], {"axis": axis, "reduction": how})


@settings(max_examples=80)
@given(shapes, st.integers(1, 3), st.sampled_from(TYPES), seeds)
def test_tuples_of_indices(shape: Any, width: int, dtype: str, rng: np.random.Generator) -> None:
    width = min(width, len(shape))
    count = 0 if 0 in shape[:width] else int(rng.integers(0, 5))
    picks = np.stack([indices(rng, size, (count,)) for size in shape[:width]], -1)
    x = array(rng, shape, dtype)
    equals("GatherND", [x, picks])
    distinct = np.unique(picks % np.array([max(size, 1) for size in shape[:width]], np.int64), axis=0)
    equals("ScatterND", [x, distinct, array(rng, (len(distinct), *shape[width:]), dtype)])


@settings(max_examples=50)
@given(st.integers(0, 2), shapes, seeds)
def test_tuples_of_indices_for_each_entry_of_a_batch(batch: int, rest: Any, rng: np.random.Generator) -> None:
    shape = (2, 3)[:batch] + rest
    count = 0 if not rest[0] else 3
    picks = indices(rng, rest[0], (*shape[:batch], count, 1))
    equals("GatherND", [array(rng, shape, "float32"), picks], {"batch_dims": batch})


@settings(max_examples=50)
@given(shapes, st.integers(-1, 3), st.sampled_from(TYPES), seeds)
def test_compress(shape: Any, axis: int, dtype: str, rng: np.random.Generator) -> None:
    size = int(np.prod(shape)) if axis < 0 else shape[axis % len(shape)]
    keep = rng.random(int(rng.integers(0, size + 1))) < 0.5
    equals("Compress", [array(rng, shape, dtype), keep], {} if axis < 0 else {"axis": axis % len(shape)})


@settings(max_examples=50)
@given(shapes, st.booleans(), st.sampled_from(TYPES), seeds)
def test_reverse_sequence(rest: Any, time_first: bool, dtype: str, rng: np.random.Generator) -> None:
    steps, entries = (int(n) for n in rng.integers(0, 5, 2))
    shape = ((steps, entries) if time_first else (entries, steps)) + rest[1:]
    attributes = {"time_axis": 1 - time_first, "batch_axis": int(time_first)}
    equals("ReverseSequence", [array(rng, shape, dtype), rng.integers(0, steps + 1, entries)], attributes)


@settings(max_examples=50)
@given(shapes, st.sampled_from(("float32", "int64")), seeds)
def test_columns_of_a_table(shape: Any, dtype: str, rng: np.random.Generator) -> None:
    picks = rng.integers(0, shape[-1], (1, 5)) if shape[-1] else np.zeros((1, 0), np.int64)
    equals("ArrayFeatureExtractor", [array(rng, shape, dtype), picks], domain="ai.onnx.ml")


@settings(max_examples=50)
@given(st.integers(0, 12), st.integers(0, 3), st.integers(0, 20), st.booleans(), seeds)
def test_boxes(count: int, classes: int, limit: int, centered: bool, rng: np.random.Generator) -> None:
    """Every number of boxes left, none of them included; ties, empty boxes, corners in any order."""
    boxes = rng.integers(0, 6, (2, count, 4)).astype(np.float32)
    scores = (rng.integers(0, 5, (2, classes, count)) / 4).astype(np.float32)
    inputs = [boxes, scores, np.array(limit), np.float32(rng.choice([0, 0.3, 1])), np.float32(rng.choice([-1, 0.3, 2]))]
    equals("NonMaxSuppression", [np.asarray(x) for x in inputs], {"center_point_box": int(centered)})


def test_a_size_that_only_the_run_knows() -> None:
    """NonMaxSuppression in a plan whose other shapes are static, with constant boxes too many to be folded."""
    rng = np.random.default_rng(0)
    low = rng.random((1, 1000, 2), np.float32) * 50
    boxes, scores = np.concatenate([low, low + 3], 2), rng.random((1, 5, 1000), np.float32)
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    (least,) = [builder.input("least", TensorType("float32", (1,)))]
    values = [builder.constant(x) for x in (boxes, scores, np.array([1000]), np.array([0.2], np.float32))]
    (by_data,) = builder.node("NonMaxSuppression", [*values, least])
    (fixed,) = builder.node("NonMaxSuppression", values)
    graph.outputs.extend(
        [builder.node("Shape", [by_data])[0], builder.node("Gather", [fixed, builder.constant(2)], {"axis": 1})[0]]
    )
    native = lower(graph, 1)
    for limit in (0.0, 0.5, 2.0, 0.5):
        feeds = {"least": np.array([limit], np.float32)}
        for name, wanted in run_graph(graph, feeds).items():
            np.testing.assert_array_equal(native.run(feeds)[name], wanted)


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        ("GatherND", [np.ones((2, 3), np.float32), np.array([[0, 3]])], r"index 3 is outside \[-3, 2\]"),
        ("ScatterND", [np.ones((2, 3), np.float32), np.array([[2]]), np.ones((1, 3), np.float32)], "index 2 is outside"),
        ("ScatterND", [np.ones((2, 3), np.float32), np.array([[1]]), np.ones((1, 2), np.float32)], r"need \[1, 3\]"),
        ("ScatterElements", [np.ones(2, np.float32), np.array([5]), np.ones(1, np.float32)], "index 5 is outside"),
        ("Compress", [np.ones(2, np.float32), np.array([True, False, True])], "picks entry 2 of 2"),
        ("ReverseSequence", [np.ones((2, 1), np.float32), np.array([3])], "length 3 of 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(op: str, inputs: list[np.ndarray], message: str) -> None:
    made = program(op, inputs)
    for _ in range(2):
        with pytest.raises(RunError, match=message):
            made.run({str(i): x for i, x in enumerate(inputs)})


def test_every_dimension_dynamic() -> None:
    """A chain of data movement whose sizes follow from the data, on shapes that change from call to call."""
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    x = builder.input("x", TensorType("float32", (symbol("n"), symbol("m"))))
    (positive,) = builder.node("Greater", [x, builder.constant(np.float32(0))])
    (places,) = builder.node("NonZero", [positive])
    (places,) = builder.node("Transpose", [places], {"perm": (1, 0)})
    (picked,) = builder.node("GatherND", [x, places])
    (back,) = builder.node("ScatterND", [x, places, builder.node("Neg", [picked])[0]])
    (rows,) = builder.node("ReduceMax", [back, builder.constant(np.array([1]))], {"keepdims": 0})
    (kept,) = builder.node(
        "Compress", [back, builder.node("Less", [rows, builder.constant(np.float32(-0.5))])[0]], {"axis": 0}
    )
    graph.outputs.extend([picked, back, kept])
    native, rng = lower(graph, 1), np.random.default_rng(0)
    for shape in [(3, 4), (0, 4), (5, 0), (1, 1), (3, 4), (40, 3), (0, 4), (1, 1)]:
        feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
        for name, wanted in run_graph(graph, feeds).items():
            np.testing.assert_array_equal(native.run(feeds)[name], wanted)
