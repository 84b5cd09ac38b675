"""If, Loop and Scan in the native executor against the reference executor: nested, capturing, growing, failing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.runtime.builder import Builder
from headrace.runtime.errors import RunError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.lower import lower
from headrace.runtime.model import Model
from headrace.runtime.ops.control import loop
from headrace.runtime.shapes import symbol
from headrace.runtime.types import OptionalType, SequenceType, TensorType, Type

COLUMNS = 4
INT, BOOL = TensorType("int64", ()), TensorType("bool", ())
ANY = TensorType("float32")


def start(**inputs: Type) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    return graph, builder, [builder.input(name, type) for name, type in inputs.items()]


def block(builder: Builder, types: Sequence[Type], body: Callable[..., Sequence[Value]]) -> Block:
    """A block whose nodes `body` adds, given a builder and the block's inputs."""
    made = Block([Value(builder.fresh("in"), type) for type in types], [], [])
    made.outputs.extend(body(builder.inner(made), *made.inputs))
    return made


def ints(builder: Builder, *values: int) -> Value:
    return builder.constant(np.array(values, np.int64))


def number(builder: Builder, value: Any, dtype: Any = np.int64) -> Value:
    return builder.constant(np.array(value, dtype))


def check(graph: Graph, *feeds: dict[str, Any], callbacks: bool = False) -> list[dict[str, Any]]:
    """Native results equal the reference's on every feed, twice over (generic, then specialised); no node is a callback
    unless that is expected."""
    program = lower(graph, 1, machine=False)
    assert callbacks or all(variant for _, _, variant in program.nodes()), program.nodes()
    found = []
    for turn, feed in enumerate([*feeds, *feeds, *feeds]):
        program.specialise(turn >= len(feeds))
        result, wanted = program.run(feed), run_graph(graph, feed)
        assert result is not None
        for name, value in wanted.items():
            same(result[name], value, name)
        found.append(result)
    return found[: len(feeds)]


def same(found: Any, wanted: Any, name: str) -> None:
    if isinstance(wanted, list):
        assert len(found) == len(wanted), name
        for a, b in zip(found, wanted):
            same(a, b, name)
    elif wanted is None:
        assert found is None, name
    else:
        assert found.dtype == np.asarray(wanted).dtype and found.shape == np.shape(wanted), name
        if found.dtype.kind == "O":
            assert found.tolist() == np.asarray(wanted).tolist(), name
        else:
            # Sums of the largest value's size may have cancelled on the way to the others.
            scale = max(1.0, float(np.abs(wanted).max(initial=0))) if found.dtype.kind == "f" else 1.0
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5 * scale, err_msg=name)


# ---- random programs: each step answers one more value of shape [n, 4]


def _scale(b: Builder, x: Value, y: Value) -> Value:
    (h,) = b.node("Tanh", [x])
    return b.node("Add", [h, y])[0]


def _by_data(b: Builder, x: Value, y: Value) -> Value:
    (row,) = b.node("ReduceMax", [x, ints(b, 1)], {"keepdims": 0})
    (places,) = b.node("NonZero", [b.node("Greater", [row, number(b, 0, np.float32)])[0]])
    (picked,) = b.node("Gather", [y, b.node("Squeeze", [places, ints(b, 0)])[0]])
    (total,) = b.node("ReduceSum", [picked, ints(b, 0)], {"keepdims": 1})
    return b.node("Sub", [x, b.node("Tanh", [total])[0]])[0]


def _view(b: Builder, x: Value, y: Value) -> Value:
    (flat,) = b.node("Reshape", [x, ints(b, -1)])
    return b.node("Reshape", [flat, ints(b, -1, COLUMNS)])[0]


def _keep(b: Builder, x: Value, y: Value) -> Value:
    return x


def _condition(b: Builder, x: Value) -> Value:
    (total,) = b.node("ReduceSum", [x], {"keepdims": 0})
    return b.node("Greater", [total, number(b, 0, np.float32)])[0]


def _if(steps: Sequence[Any]) -> Any:
    def step(b: Builder, x: Value, y: Value) -> Value:
        branches = [block(b, [], lambda inner, k=k: [steps[k](inner, x, y)]) for k in (0, 1)]
        return b.node("If", [_condition(b, x)], {"then_branch": branches[0], "else_branch": branches[1]})[0]

    return step


def _loop(steps: Sequence[Any], trips: int) -> Any:
    def step(b: Builder, x: Value, y: Value) -> Value:
        def body(inner: Builder, trip: Value, going: Value, h: Value, kept: Value) -> list[Value]:
            now = steps[0](inner, h, y)
            other = steps[1](inner, kept, now)
            (ahead,) = inner.node("Less", [trip, number(inner, trips - 1)])
            return [ahead, now, other, inner.node("ReduceSum", [now, ints(inner, 0)], {"keepdims": 0})[0]]

        made = block(b, [INT, BOOL, ANY, ANY], body)
        h, kept, scanned = b.node("Loop", [None, number(b, trips > 0, bool), x, y], {"body": made}, outputs=3)
        (h,) = b.node("Reshape", [b.node("Add", [h, kept])[0], ints(b, -1, COLUMNS)])  # a rank that inference may lose
        (scanned,) = b.node("Reshape", [scanned, ints(b, -1, COLUMNS)])
        return b.node("Add", [h, b.node("ReduceSum", [scanned, ints(b, 0)], {"keepdims": 1})[0]])[0]

    return step


def _scan(steps: Sequence[Any], backward: int) -> Any:
    def step(b: Builder, x: Value, y: Value) -> Value:
        def body(inner: Builder, total: Value, column: Value) -> list[Value]:
            (after,) = inner.node("Add", [total, column])
            (wide,) = inner.node("Unsqueeze", [after, ints(inner, 1)])
            (wide,) = inner.node("Expand", [wide, ints(inner, 1, COLUMNS)])
            (seen,) = inner.node("ReduceMax", [steps[0](inner, wide, x), ints(inner, 1)], {"keepdims": 0})
            return [after, seen]

        made = block(b, [ANY, ANY], body)
        (zero,) = b.node("ReduceMin", [y, ints(b, 1)], {"keepdims": 0})
        attributes = {"body": made, "num_scan_inputs": 1, "scan_input_axes": (1,), "scan_output_axes": (1,)}
        turns = {"scan_input_directions": (backward,), "scan_output_directions": (backward,)}
        _, seen = b.node("Scan", [zero, x], {**attributes, **turns}, outputs=2)
        return b.node("Reshape", [seen, ints(b, -1, COLUMNS)])[0]

    return step


def steps(depth: int) -> st.SearchStrategy[Any]:
    plain = st.sampled_from([_scale, _by_data, _view, _keep])
    if not depth:
        return plain
    two = st.tuples(steps(depth - 1), steps(depth - 1))
    return st.one_of(
        plain,
        st.builds(_if, two),
        st.builds(_loop, two, st.integers(0, 5)),
        st.builds(_scan, two, st.integers(0, 1)),
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(steps(2), min_size=1, max_size=4), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_random_programs(chosen: list[Any], sizes: list[int]) -> None:
    graph, builder, (x, y) = start(
        x=TensorType("float32", (symbol("n"), COLUMNS)), y=TensorType("float32", (symbol("n"), COLUMNS))
    )
    rng = np.random.default_rng(0)
    for step in chosen:
        x, y = step(builder, x, y), x
    graph.outputs.extend(dict.fromkeys([builder.node("Identity", [x])[0], x, y]))
    check(
        graph,
        *({name: rng.standard_normal((n, COLUMNS)).astype(np.float32) for name in ("x", "y")} for n in sizes),
    )


# ---- what each operator promises


def test_a_loop_of_no_trip_answers_what_it_began_with() -> None:
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (symbol("n"), 3)))
    body = block(b, [INT, BOOL, ANY], lambda i, trip, going, h: [going, i.node("Neg", [h])[0], i.node("Abs", [h])[0]])
    graph.outputs.extend(b.node("Loop", [m, None, x], {"body": body}, outputs=2))
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    none, some = check(graph, {"m": np.array(0), "x": data}, {"m": np.array(3), "x": data})
    assert none["loop_2"].shape[0] == 0 and some["loop_2"].shape == (3, 2, 3)
    assert not np.shares_memory(none["loop"], data)


def test_values_that_grow() -> None:
    """Every trip has a new shape; many calls do not plan for each of them."""
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (1, 2)))
    body = block(b, [INT, BOOL, ANY], lambda i, trip, going, h: [going, i.node("Concat", [h, x], {"axis": 0})[0]])
    graph.outputs.extend(b.node("Loop", [m, None, x], {"body": body}))
    for count in (0, 1, 40):
        (found,) = check(graph, {"m": np.array(count), "x": np.ones((1, 2), np.float32)})
        assert found["loop"].shape == (count + 1, 2)


def test_a_while_loop_ends_on_its_data() -> None:
    graph, b, (x,) = start(x=TensorType("float32", ()))

    def body(i: Builder, trip: Value, going: Value, h: Value) -> list[Value]:
        (twice,) = i.node("Add", [h, h])
        return [i.node("Less", [twice, number(i, 1000, np.float32)])[0], twice, twice, i.node("Identity", [trip])[0]]

    graph.outputs.extend(
        b.node("Loop", [None, number(b, True, bool), x], {"body": block(b, [INT, BOOL, ANY], body)}, outputs=3)
    )
    (found,) = check(graph, {"x": np.array(3, np.float32)})
    assert found["loop_2"].tolist() == [6, 12, 24, 48, 96, 192, 384, 768, 1536]
    assert found["loop_3"].tolist() == list(range(9))


def test_outputs_that_nobody_wants_and_constants_that_blocks_answer() -> None:
    graph, b, (c, x) = start(c=BOOL, x=TensorType("float32", (2,)))
    constant = b.constant(np.array([7, 8], np.float32))
    yes = block(b, [], lambda i: [constant, x])
    no = block(b, [], lambda i: [i.node("Neg", [x])[0], constant])
    first, _ = b.node("If", [c], {"then_branch": yes, "else_branch": no}, outputs=["a", None])
    _, second = b.node("If", [c], {"then_branch": yes, "else_branch": no}, outputs=[None, "b"])
    graph.outputs.extend([first, second])
    feeds = [{"c": np.array(flag), "x": np.array([1, 2], np.float32)} for flag in (True, False)]
    kept = check(graph, *feeds)
    kept[0]["a"][:] = 0  # an answer is the caller's own, never the constant itself
    assert check(graph, *feeds)[0]["a"].tolist() == [7, 8]


def test_scan_along_the_last_axis_backwards() -> None:
    graph, b, (s, x) = start(s=TensorType("float32", (3,)), x=TensorType("float32", (3, symbol("t"))))

    def body(i: Builder, total: Value, entry: Value) -> list[Value]:
        (after,) = i.node("Add", [total, entry])
        return [after, after]

    for turned in (0, 1):
        made = block(b, [TensorType("float32", (3,)), TensorType("float32", (3,))], body)
        attributes = {"body": made, "num_scan_inputs": 1, "scan_input_axes": (-1,), "scan_output_axes": (-1,)}
        turns = {"scan_input_directions": (turned,), "scan_output_directions": (1 - turned,)}
        graph.outputs.extend(b.node("Scan", [s, x], {**attributes, **turns}, outputs=2))
    rng = np.random.default_rng(1)
    check(graph, *({"s": np.ones(3, np.float32), "x": rng.random((3, t), np.float32)} for t in (0, 1, 5)))


def test_sequences_optionals_and_strings_pass_through() -> None:
    """What is no tensor goes in and out of blocks as it is; the operators on it are callbacks, the blocks are not."""
    sequence = SequenceType(TensorType("float32"))
    graph, b, (m, x, text) = start(m=INT, x=TensorType("float32", (2,)), text=TensorType("string", (symbol("n"),)))

    def body(i: Builder, trip: Value, going: Value, items: Value, words: Value) -> list[Value]:
        (part,) = i.node("Mul", [x, i.node("Cast", [trip], {"to": 1})[0]])
        (items,) = i.node("SequenceInsert", [items, part])
        (words,) = i.node("Concat", [words, text], {"axis": 0})
        return [going, items, words]

    (empty,) = b.node("SequenceEmpty", [], {"dtype": 1})
    made = block(b, [INT, BOOL, sequence, TensorType("string")], body)
    items, words = b.node("Loop", [m, None, empty, text], {"body": made}, outputs=2)
    graph.outputs.extend([items, words])
    feeds = [
        {"m": np.array(m), "x": np.array([1, 2], np.float32), "text": np.array(["a", "b"], object)} for m in (0, 1, 3)
    ]
    found = check(graph, *feeds, callbacks=True)
    assert [len(result[items.name]) for result in found] == [0, 1, 3]
    assert ("Loop", "blocks") in {(op, variant) for op, _, variant in lower(graph, 1).nodes()}


def test_references_to_objects_are_given_back() -> None:
    sequence = SequenceType(TensorType("float32"))
    graph, b, (c, x) = start(c=BOOL, x=sequence)
    yes, no = (block(b, [], lambda i: [i.node("Identity", [x])[0]]), block(b, [], lambda i: [x]))
    graph.outputs.extend(b.node("If", [c], {"then_branch": yes, "else_branch": no}))
    program, item = lower(graph, 1), np.ones(3, np.float32)
    feeds = [{"c": np.array(flag), "x": [item]} for flag in (True, False)]
    for feed in feeds:
        program.run(feed)
    before = sys.getrefcount(item), [sys.getrefcount(feed["x"]) for feed in feeds]
    for _ in range(20):
        for feed in feeds:
            assert len(program.run(feed)["if"]) == 1
    assert (sys.getrefcount(item), [sys.getrefcount(feed["x"]) for feed in feeds]) == before


def test_a_kind_that_changes_falls_back() -> None:
    """A tensor on one side and an optional on the other: the reference of If runs, its blocks still natively."""
    graph, b, (c, x) = start(c=BOOL, x=TensorType("float32", (2,)))
    yes = block(b, [], lambda i: [i.node("Optional", [x])[0]])
    no = block(b, [], lambda i: [i.node("Optional", [], {"type": TensorType("float32")})[0]])
    graph.outputs.extend(b.node("If", [c], {"then_branch": yes, "else_branch": no}))
    assert isinstance(graph.outputs[0].type, OptionalType)
    feeds = [{"c": np.array(flag), "x": np.ones(2, np.float32)} for flag in (True, False)]
    check(graph, *feeds, callbacks=True)


def test_errors_name_the_node_in_the_block() -> None:
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (symbol("n"),)))

    def body(i: Builder, trip: Value, going: Value, h: Value) -> list[Value]:
        (part,) = i.node("Gather", [x, trip], name="pick")
        return [going, i.node("Add", [h, part])[0]]

    made = block(b, [INT, BOOL, TensorType("float32", ())], body)
    graph.outputs.extend(b.node("Loop", [m, None, number(b, 0, np.float32)], {"body": made}, name="all"))
    model = Model(graph, optimize=False)
    feed = np.array([1, 2, 3], np.float32)
    for _ in range(3):
        with pytest.raises(RunError, match=r"pick.*index 3 is outside \[-3, 2\]"):
            model.run({"m": np.array(4), "x": feed})
        assert model.run({"m": np.array(3), "x": feed})["loop"] == 6


def test_scanned_shapes_must_agree() -> None:
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (1,)))

    def body(i: Builder, trip: Value, going: Value, h: Value) -> list[Value]:
        (longer,) = i.node("Concat", [h, x], {"axis": 0})
        return [going, longer, longer]

    graph.outputs.extend(b.node("Loop", [m, None, x], {"body": block(b, [INT, BOOL, ANY], body)}, outputs=2))
    feeds = {"m": np.array(2), "x": np.ones(1, np.float32)}
    for run in (lower(graph, 1).run, lambda feeds: run_graph(graph, feeds)):
        with pytest.raises(RunError, match=r"(?s)Loop.*\[2\].*\[3\].*|Loop.*\[3\].*\[2\]"):
            run(feeds)


def test_a_loop_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.runtime import lower as lowering

    monkeypatch.setattr(lowering, "MAX_TRIPS", 1000)
    monkeypatch.setattr(loop, "MAX_TRIPS", 1000)
    graph, b, (x,) = start(x=TensorType("float32", ()))
    body = block(b, [INT, BOOL, ANY], lambda i, trip, going, h: [going, i.node("Neg", [h])[0]])
    graph.outputs.extend(b.node("Loop", [None, number(b, True, bool), x], {"body": body}))
    for run in (lower(graph, 1).run, lambda feeds: run_graph(graph, feeds)):
        with pytest.raises(RunError, match="did not end after 1000 trips"):
            run({"x": np.array(1, np.float32)})


def test_a_scanned_output_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.runtime import lower as lowering

    monkeypatch.setattr(lowering, "MAX_SCANNED", 4096)
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (64,)))
    body = block(b, [INT, BOOL, ANY], lambda i, trip, going, h: [going, h, h])
    graph.outputs.extend(b.node("Loop", [m, None, x], {"body": body}, outputs=2))
    program = lower(graph, 1)
    assert program.run({"m": np.array(16), "x": np.ones(64, np.float32)})["loop_2"].shape == (16, 64)
    with pytest.raises(RunError, match="larger than 4096 bytes"):
        program.run({"m": np.array(17), "x": np.ones(64, np.float32)})


def test_many_threads_share_one_program() -> None:
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (symbol("n"), 3)))

    def body(i: Builder, trip: Value, going: Value, h: Value) -> list[Value]:
        (now,) = i.node("Tanh", [i.node("Add", [h, x])[0]])
        return [going, now, now]

    graph.outputs.extend(b.node("Loop", [m, None, x], {"body": block(b, [INT, BOOL, ANY], body)}, outputs=2))
    program, rng = lower(graph, 1), np.random.default_rng(2)
    cases = [{"m": np.array(n), "x": rng.standard_normal((n, 3)).astype(np.float32)} for n in (1, 2, 7, 20)]
    wanted = [run_graph(graph, feeds) for feeds in cases]
    failures: list[int] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        for _ in range(50):
            k = int(order.integers(len(cases)))
            found = program.run(cases[k])
            if any(not np.allclose(found[name], value, 1e-5, 1e-5) for name, value in wanted[k].items()):
                failures.append(k)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_profiles_count_the_nodes_of_blocks() -> None:
    graph, b, (m, x) = start(m=INT, x=TensorType("float32", (200, 200)))
    body = block(b, [INT, BOOL, ANY], lambda i, trip, going, h: [going, i.node("Tanh", [h])[0]])
    graph.outputs.extend(b.node("Loop", [m, None, x], {"body": body}))
    rows = Model(graph, optimize=False).profile({"m": np.array(5), "x": np.ones((200, 200), np.float32)}, runs=2)
    assert {row["operator"] for row in rows} == {"Loop", "Tanh"}
    assert abs(sum(row["share"] for row in rows) - 1) < 1e-6  # the time of a body counts once
