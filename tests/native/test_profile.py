"""The profiler: what was done in which time, measured limits, traces."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime import _native, machine
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.model import Model
from headrace.runtime.ops import find
from headrace.runtime.profile import NodeRow, by_kernel
from headrace.runtime.types import TensorType


def one_node(
    kind: str, arrays: list[Any], attributes: dict[str, Any], outputs: int = 1
) -> tuple[Graph, dict[str, Any]]:
    """The first array is fed, the others are constants."""
    graph = Graph(Block([Value("x", TensorType(str(arrays[0].dtype), arrays[0].shape))], [], []))
    builder = Builder(graph)
    inputs = [graph.inputs[0], *(None if a is None else builder.constant(a) for a in arrays[1:])]
    graph.outputs.extend(builder.node(kind, inputs, attributes, outputs=outputs))
    return graph, {"x": arrays[0]}


def f32(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "kind, arrays, attributes, flops",
    [
        ("MatMul", [f32(3, 5), f32(5, 7)], {}, 2 * 3 * 5 * 7),
        ("MatMul", [f32(4, 3, 5), f32(5)], {}, 2 * 4 * 3 * 5),
        ("Gemm", [f32(5, 3), f32(7, 5)], {"transA": 1, "transB": 1}, 2 * 3 * 5 * 7),
        ("Conv", [f32(2, 4, 9, 8), f32(6, 2, 3, 3)], {"group": 2}, 2 * (2 * 6 * 7 * 6) * 2 * 9),  # runs channels last
        ("ConvTranspose", [f32(1, 4, 5, 5), f32(4, 3, 2, 2)], {}, 2 * (4 * 25) * 3 * 4),
        ("LSTM", [f32(6, 2, 3), f32(1, 16, 3), f32(1, 16, 4)], {"hidden_size": 4}, 2 * 6 * 2 * (16 * 3 + 16 * 4)),
        ("Relu", [f32(3, 5)], {}, None),
    ],
)  # fmt: skip
def test_arithmetic_is_counted(kind: str, arrays: list[Any], attributes: dict[str, Any], flops: int | None) -> None:
    graph, feeds = one_node(kind, arrays, attributes)
    with Model(graph, threads=1) as model:
        rows: list[NodeRow] = list(model.profile(feeds, runs=2))  # type: ignore[arg-type]
    counted = [row["flops"] for row in rows if row["flops"] is not None]
    assert counted == ([] if flops is None else [flops])
    assert all(row["calls"] == 1 and row["bytes"] > 0 and row["of_limit"] >= 0 for row in rows)
    assert math.isclose(sum(row["share"] for row in rows), 1)


@given(st.tuples(*[st.integers(0, 5)] * 4), st.booleans(), st.booleans())
def test_a_product_counts_the_same_in_every_orientation(sizes: tuple[int, ...], left: bool, right: bool) -> None:
    batch, m, k, n = sizes
    product = find("FusedMatMul", "headrace")
    assert product is not None
    a, b = (batch, k, m) if left else (batch, m, k), (n, k) if right else (k, n)
    assert product.flops([a, b], [(batch, m, n)]) == 2 * batch * m * k * n


def test_attention_counts_its_cache() -> None:
    attention = find("Attention", "")
    assert attention is not None
    heads, length, past, size = 2, 3, 4, 8
    q, cache = (1, heads, length, size), (1, heads, past, size)
    plain = attention.flops([q, q, q], [q])
    cached = attention.flops([q, q, q, None, cache, cache], [q])
    assert plain == 2 * 2 * heads * length * length * size
    assert cached == 2 * 2 * heads * length * (length + past) * size
    flat = (1, length, heads * size)
    assert attention.flops([flat, flat, flat], [flat]) == plain


def test_limits_are_measured() -> None:
    tier = _native.cpu_tier()
    assert machine.peak("float32") > 1e8
    rates = machine.bandwidths()
    assert list(rates)[-1] == "memory" and min(rates.values()) > 1e7
    assert machine.bandwidth(2**40) == rates["memory"] and machine.bandwidth(0) == next(iter(rates.values()))
    assert (machine.peak("bf16") > 0) == (tier == "avx512_bf16")
    assert machine.peak("no such precision") == 0


@pytest.mark.parametrize("threads, size", [(0, 1 << 20), (-1, 1 << 20), (1, 0), (1, 1023), (1, (1 << 30) + 1)])
def test_what_cannot_be_measured_is_refused(threads: int, size: int) -> None:
    with pytest.raises(ValueError, match="bandwidth takes"):
        _native.bandwidth(threads, size)


def test_the_least_time_is_the_longer_of_arithmetic_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights come from what holds all of them, values from what holds the node's own."""
    graph = Graph(Block([Value("x", TensorType("float32", (1, 64)))], [], []))
    builder = Builder(graph)
    middle = builder.node("MatMul", [graph.inputs[0], builder.constant(f32(64, 32))])[0]
    graph.outputs.extend(builder.node("MatMul", [middle, builder.constant(f32(32, 16))]))
    weights, other = 4 * (64 * 32 + 32 * 16), 4 * (32 + 16)
    monkeypatch.setattr(machine, "bandwidth", lambda size, threads=1: 1.0 if size == weights else 1e6)
    with Model(graph, threads=1) as model:
        monkeypatch.setattr(machine, "peak", lambda precision, threads=1: 1e9)
        rows: list[NodeRow] = list(model.profile({"x": f32(1, 64)}, runs=1))  # type: ignore[arg-type]
        second = next(row for row in rows if row["flops"] == 2 * 32 * 16)
        assert math.isclose(second["limit_ms"], (4 * 32 * 16 / 1.0 + other / 1e6) * 1e3)
        assert math.isclose(second["of_limit"], second["limit_ms"] / second["ms"])
        monkeypatch.setattr(machine, "peak", lambda precision, threads=1: 1e-3)
        rows = list(model.profile({"x": f32(1, 64)}, runs=1))  # type: ignore[arg-type]
    assert any(math.isclose(row["limit_ms"], 2 * 32 * 16 / 1e-3 * 1e3) for row in rows)
    (product,) = (one for one in by_kernel(rows) if one["gflops"])
    assert math.isclose(product["limit_ms"], sum(row["limit_ms"] for row in rows))


def test_limits_follow_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CPU_TIER", "baseline")
    assert _native.peak("bf16", 1) == 0


def test_of_a_table_only_what_is_taken_counts() -> None:
    graph = Graph(Block([Value("i", TensorType("int64", (3,)))], [], []))
    builder = Builder(graph)
    graph.outputs.extend(builder.node("Gather", [builder.constant(f32(1000, 4)), graph.inputs[0]]))
    with Model(graph, threads=1) as model:
        (row,) = model.profile({"i": np.arange(3)}, runs=1)
    assert row["bytes"] == 2 * 3 * 4 * 4  # type: ignore[typeddict-item]


def looping() -> tuple[Graph, dict[str, Any]]:
    """Three trips that double x."""
    inner = [Value("trip", TensorType("int64", ())), Value("go", TensorType("bool", ())), Value("c", TensorType("float32", (2,)))]  # fmt: skip
    graph = Graph(Block([Value("x", TensorType("float32", (2,)))], [], []))
    builder = Builder(graph)
    doubled, still = Value("d", TensorType("float32", (2,))), Value("s", TensorType("bool", ()))
    from headrace.runtime.graph import Node

    body = Block(inner, [Node("Add", [inner[2], inner[2]], [doubled], name="double"), Node("Identity", [inner[1]], [still])], [still, doubled])  # fmt: skip
    inputs = [builder.constant(np.array(3)), builder.constant(np.array(True)), graph.inputs[0]]
    graph.outputs.extend(builder.node("Loop", inputs, {"body": body}, outputs=1))
    return graph, {"x": np.ones(2, np.float32)}


def test_a_trace_nests_bodies_in_their_loop() -> None:
    graph, feeds = looping()
    with Model(graph, threads=1, optimize=False) as model:
        document = json.loads(json.dumps(model.trace(feeds)))
        again = model.trace(feeds)
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    (loop,) = [event for event in events if event["cat"] == "Loop"]
    bodies = [event for event in events if event["cat"] == "Add"]
    assert len(bodies) == 3  # one for each trip, and none of the runs before
    assert all(loop["ts"] <= b["ts"] and b["ts"] + b["dur"] <= loop["ts"] + loop["dur"] + 1e-3 for b in bodies)
    assert bodies[0]["args"]["inputs"] == ["float32[2]", "float32[2]"]
    assert min(event["ts"] for event in events) == 0
    assert len(again["traceEvents"]) == len(document["traceEvents"])


def test_a_profile_counts_every_trip() -> None:
    graph, feeds = looping()
    with Model(graph, threads=1, optimize=False) as model:
        rows = {row["operator"]: row for row in model.profile(feeds, runs=4)}
    assert rows["Add"]["calls"] == 3  # type: ignore[typeddict-item]


def test_kernels_are_sums_of_their_nodes() -> None:
    graph = Graph(Block([Value("x", TensorType("float32", (4, 8)))], [], []))
    builder, value = Builder(graph), graph.inputs[0]
    for _ in range(3):
        (value,) = builder.node("MatMul", [value, builder.constant(f32(8, 8))])
        (value,) = builder.node("Erf", [value])
    graph.outputs.append(value)
    with Model(graph, threads=1) as model:
        rows: list[NodeRow] = list(model.profile({"x": f32(4, 8)}))  # type: ignore[arg-type]
    sums = by_kernel(rows)
    assert sum(one["nodes"] for one in sums) == len(rows)
    assert math.isclose(sum(one["ms"] for one in sums), sum(row["ms"] for row in rows))
    assert [one["ms"] for one in sums] == sorted((one["ms"] for one in sums), reverse=True)
    (products,) = [one for one in sums if one["gflops"] is not None]
    assert products["nodes"] == 3
