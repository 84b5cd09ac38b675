"""The native executor against the reference executor: random graphs, changing shapes, aliases, threads, errors."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.runtime import _native
from headrace.runtime.builder import Builder
from headrace.runtime.errors import InputError, LoadError, RunError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.lower import lower
from headrace.runtime.model import Model
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

COLUMNS = 6


def start(*shapes: tuple[Any, ...], dtype: str = "float32") -> tuple[Graph, Builder, list[Value]]:
    graph = Graph(Block([], [], []))
    graph.block.inputs.extend(Value(f"x{i}", TensorType(dtype, shape)) for i, shape in enumerate(shapes))
    return graph, Builder(graph), graph.inputs


def ints(builder: Builder, *values: int) -> Value:
    return builder.constant(np.array(values, np.int64))


# One random step: given values of shape [n, 6], each answers one more value of that shape.
def _views(b: Builder, x: Value, y: Value) -> Value:
    (flat,) = b.node("Reshape", [x, ints(b, -1)])
    (tall,) = b.node("Unsqueeze", [flat, ints(b, 0)])
    (same,) = b.node("Identity", [tall])
    return b.node("Reshape", [same, ints(b, -1, COLUMNS)])[0]


def _split(b: Builder, x: Value, y: Value) -> Value:
    left, right = b.node("Split", [x], {"axis": 1, "num_outputs": 2}, outputs=2)
    (left,) = b.node("Neg", [left])
    return b.node("Concat", [right, left], {"axis": 1})[0]


def _transposed(b: Builder, x: Value, y: Value) -> Value:
    (turned,) = b.node("Transpose", [x], {"perm": (1, 0)})
    (turned,) = b.node("Relu", [turned])
    return b.node("Transpose", [turned], {"perm": (1, 0)})[0]


def _by_shape(b: Builder, x: Value, y: Value) -> Value:
    (shape,) = b.node("Shape", [x])
    (row,) = b.node("ReduceMax", [y, ints(b, 1)], {"keepdims": 1})
    return b.node("Expand", [row, shape])[0]


def _by_data(b: Builder, x: Value, y: Value) -> Value:
    """A size that only the data knows: rows are picked by NonZero, then summed and spread again."""
    (row,) = b.node("ReduceMax", [x, ints(b, 1)], {"keepdims": 0})
    (positive,) = b.node("Greater", [row, b.constant(np.float32(0))])
    (places,) = b.node("NonZero", [positive])
    (places,) = b.node("Squeeze", [places, ints(b, 0)])
    (picked,) = b.node("Gather", [y, places])
    (picked,) = b.node("Add", [picked, picked])
    (total,) = b.node("ReduceSum", [picked, ints(b, 0)], {"keepdims": 1})
    return b.node("Sub", [x, total])[0]


def _callback(b: Builder, x: Value, y: Value) -> Value:
    (bounded,) = b.node("Clip", [x, b.constant(np.float32(-1)), b.constant(np.float32(1))])
    return b.node("Atan", [bounded])[0]  # no native kernel


def _two(op: str) -> Any:
    return lambda b, x, y: b.node(op, [x, y])[0]


def _one(op: str) -> Any:
    return lambda b, x, y: b.node(op, [x])[0]


STEPS = [_views, _split, _transposed, _by_shape, _by_data, _callback, *map(_two, ("Add", "Sub", "Mul", "Max")),
         *map(_one, ("Relu", "Neg", "Sigmoid", "Identity", "Softmax"))]  # fmt: skip


@st.composite
def graphs(draw: Any) -> Graph:
    graph, builder, inputs = start((symbol("n"), COLUMNS), (symbol("n"), COLUMNS))
    values = list(inputs)
    for _ in range(draw(st.integers(1, 14))):
        step = draw(st.sampled_from(STEPS))
        x, y = (values[draw(st.integers(max(0, len(values) - 4), len(values) - 1))] for _ in range(2))
        values.append(step(builder, x, y))
    count = draw(st.integers(1, 3))
    graph.outputs.extend(draw(st.permutations(values))[:count])
    if draw(st.booleans()):
        graph.outputs.append(values[-1])
    graph.block.outputs[:] = list(dict.fromkeys(graph.outputs))
    return graph


def feeds_for(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {f"x{i}": rng.standard_normal((rows, COLUMNS)).astype(np.float32) for i in range(2)}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-5, err_msg=name)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 2))
def test_random_graphs(graph: Graph, sizes: list[int], threads: int) -> None:
    """Generic and specialised plans, in place or not, give what the reference gives, and leave the feeds alone."""
    program, rng = lower(graph, threads, machine=False), np.random.default_rng(0)
    kept = []
    for turn, rows in enumerate([*sizes, *sizes, sizes[0]]):
        program.specialise(turn > 0)
        feeds = feeds_for(rng, rows)
        before = {name: array.copy() for name, array in feeds.items()}
        wanted, found = run_graph(graph, feeds), program.run(feeds)
        assert_same(found, wanted)
        assert all(np.array_equal(feeds[name], before[name]) for name in feeds)
        kept.append((found, wanted))
    for found, wanted in kept:  # outputs are never arena memory: later runs do not change them
        assert_same(found, wanted)


def test_outputs_are_fresh_and_writable() -> None:
    graph, builder, (x,) = start((symbol("n"), 4))
    (same,) = builder.node("Identity", [x])
    graph.outputs.extend([same, x])
    program, feed = lower(graph, 1), np.ones((2, 4), np.float32)
    for _ in range(3):
        found = program.run({"x0": feed})
        for array in found.values():
            assert array.flags.writeable and not np.shares_memory(array, feed)


def test_views_and_in_place_share_memory_in_the_plan() -> None:
    """A chain of views and elementwise nodes on a fixed shape needs no arena: everything lies in the output."""
    graph, builder, (x,) = start((8, 4))
    (h,) = builder.node("Sigmoid", [x])
    (h,) = builder.node("Reshape", [h, ints(builder, 4, 8)])
    (h,) = builder.node("Relu", [h])
    (h,) = builder.node("Neg", [h])
    graph.outputs.append(h)
    for without, steps in ((["chains"], 3), ([], 2)):
        program = lower(graph, 1, without=without)
        program.run({"x0": np.ones((8, 4), np.float32)})
        (plan,) = program.plans()
        assert plan["arena_bytes"] == 0 and plan["direct"] == 1 and plan["steps"] == steps and not plan["generic"]


def test_shape_arithmetic_folds() -> None:
    graph, builder, (x,) = start((symbol("n"), 3, 4))
    (shape,) = builder.node("Shape", [x])
    (rows,) = builder.node("Gather", [shape, ints(builder, 0)])
    (target,) = builder.node("Concat", [rows, ints(builder, -1)], {"axis": 0})
    (flat,) = builder.node("Reshape", [x, target])
    graph.outputs.extend(builder.node("Relu", [flat]))
    program = lower(graph, 1)
    for _ in range(3):
        assert program.run({"x0": np.ones((5, 3, 4), np.float32)})["relu"].shape == (5, 12)
    special = [plan for plan in program.plans() if not plan["generic"]]
    assert [plan["steps"] for plan in special] == [1] and special[0]["dynamic"] == 0


def test_the_first_signature_and_each_that_comes_back_get_a_plan() -> None:
    graph, builder, (x,) = start((symbol("n"), 2))
    graph.outputs.extend(builder.node("Exp", [x]))
    program = lower(graph, 1)
    planned = []
    for rows in (3, 4, 5, 4, 3):
        program.run({"x0": np.zeros((rows, 2), np.float32)})
        planned.append(sum(not plan["generic"] for plan in program.plans()))
    assert planned == [1, 1, 1, 2, 2]


def test_many_signatures_are_bounded() -> None:
    graph, builder, (x,) = start((symbol("n"), 2))
    graph.outputs.extend(builder.node("Exp", [x]))
    program = lower(graph, 1)
    for _ in range(2):
        for rows in range(40):
            assert program.run({"x0": np.zeros((rows, 2), np.float32)})["exp"].shape == (rows, 2)
    assert len(program.plans()) <= 17


def test_concurrent_runs_equal_serial_ones() -> None:
    graph, builder, (x,) = start((symbol("n"), 64))
    h = x
    for _ in range(6):
        (g,) = builder.node("Softmax", [h])
        (h,) = builder.node("Add", [g, x])
    graph.outputs.append(h)
    model, rng = Model(graph, threads=2), np.random.default_rng(1)
    cases = [rng.standard_normal((rows, 64)).astype(np.float32) for rows in (1, 3, 40, 200)]
    wanted = [model.run({"x0": case})[h.name] for case in cases]
    failures: list[str] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        for _ in range(60):
            k = int(order.integers(len(cases)))
            if not np.array_equal(model.run({"x0": cases[k]})[h.name], wanted[k]):
                failures.append(f"case {k}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_rows_do_not_depend_on_batch_or_threads() -> None:
    graph, builder, (x,) = start((symbol("n"), 300))
    (h,) = builder.node("Softmax", [x])
    (h,) = builder.node("ReduceSum", [h, ints(builder, 1)], {"keepdims": 1})
    (h,) = builder.node("Mul", [h, x])
    graph.outputs.append(h)
    data = np.random.default_rng(2).standard_normal((333, 300)).astype(np.float32)
    whole = lower(graph, 1).run({"x0": data})[h.name]
    assert np.array_equal(lower(graph, 2).run({"x0": data})[h.name], whole)
    alone = lower(graph, 1)
    for row in (0, 7, 332):
        assert np.array_equal(alone.run({"x0": data[row : row + 1]})[h.name], whole[row : row + 1])


def test_small_plans_take_turns() -> None:
    """A small plan's frame stays where the next call finds it; other shapes and larger plans come between."""
    graph, builder, (x, y) = start((symbol("n"), COLUMNS), (symbol("m"), COLUMNS))
    (sums,) = builder.node("ReduceSum", [y, ints(builder, 0)], {"keepdims": 1})
    (h,) = builder.node("Mul", [x, sums])
    graph.outputs.extend(builder.node("Relu", [h]))
    program, rng = lower(graph, 1), np.random.default_rng(4)
    answers = []
    for n, m in [(2, 3), (3, 2), (2, 3), (3, 2), (2, 3), (9000, 2), (9000, 2), (2, 3), (9000, 2), (3, 2), (2, 3)]:
        feeds = {
            "x0": rng.integers(-9, 9, (n, 6)).astype(np.float32),
            "x1": rng.integers(-9, 9, (m, 6)).astype(np.float32),
        }
        wanted = np.maximum(feeds["x0"] * feeds["x1"].sum(0), 0)
        answers.append((next(iter(program.run(feeds).values())), wanted))
    for found, wanted in answers:  # none was written into by a later call
        assert np.array_equal(found, wanted)
    assert sorted(plan["small"] for plan in program.plans()) == [False, False, True, True]


def test_strings_sequences_and_options_flow_between_callbacks() -> None:
    graph, builder, (x,) = start((symbol("n"),), dtype="string")
    (same,) = builder.node("Identity", [x])
    graph.outputs.append(same)
    model = Model(graph)
    text = np.array(["a", "bc"], object)
    for feed in (text, ["a", "bc"], np.array(["a", "bc"])):
        assert model.run({"x0": feed})[same.name].tolist() == ["a", "bc"]


def test_feeds_that_are_not_plain() -> None:
    graph, builder, (x,) = start((symbol("n"), 4))
    graph.outputs.extend(builder.node("Neg", [x]))
    model, base = Model(graph), np.arange(24, dtype=np.float32).reshape(4, 6)
    for feed in (
        base[:, 1:5],
        base[::2, :4],
        base[:, ::-1][:, :4],
        base[:, :4].astype(">f4"),
        np.asfortranarray(base[:, :4]),
        base[:, :4].tolist(),
    ):
        assert np.array_equal(model.run({"x0": feed})["neg"], -np.asarray(feed, np.float32))


def test_a_wrong_feed_is_named() -> None:
    graph, builder, (x, y) = start((symbol("n"), 4), (symbol("n"), 4))
    graph.outputs.extend(builder.node("Add", [x, y]))
    model, fine = Model(graph), np.zeros((2, 4), np.float32)
    wrong: list[tuple[Any, str]] = [
        ({"x0": fine}, "x1.*missing"),
        ({"x0": fine, "x1": fine, "z": fine}, "no input 'z'"),
        ({"x0": fine, "x1": fine.astype(np.float64)}, "x1.*float32.*float64"),
        ({"x0": fine, "x1": fine[0]}, "x1.*rank 2"),
        ({"x0": fine, "x1": fine[:, :3]}, "x1.*dimension 1 must be 4"),
        ({"x0": fine, "x1": fine[:1]}, "x1.*dimension 0 is 1, but n is 2"),
        ({"x0": fine, "x1": "text"}, "x1"),
        ([fine, fine], "mapping"),
    ]
    for feeds, pattern in wrong:
        with pytest.raises(InputError, match=pattern):
            model.run(feeds)


def test_a_failing_node_is_named_and_the_model_lives_on() -> None:
    graph, builder, (x,) = start((symbol("n"),), dtype="int64")
    table = builder.constant(np.arange(5, dtype=np.float32))
    graph.outputs.extend(builder.node("Gather", [table, x], name="lookup"))
    model = Model(graph, optimize=False)
    for specialise in (False, True, True):
        model._program.specialise(specialise)
        with pytest.raises(RunError, match=r"lookup.*index 9 is outside \[-5, 4\]"):
            model.run({"x0": np.array([1, 9])})
        assert model.run({"x0": np.array([1, -1])})["gather"].tolist() == [1.0, 4.0]


def test_a_failing_callback_is_named() -> None:
    graph, builder, (x,) = start((symbol("n"), 3))
    (y,) = builder.node("Atan", [x], name="turn")
    graph.outputs.append(y)
    program = lower(graph, 1)

    def broken(inputs: list[Any]) -> list[Any]:
        raise RunError("node 'turn': broken")

    recipe = _native.Recipe()
    node = ("Nothing", "turn", {}, [0], [1], 1, True, [], [])
    recipe.add_block([1, 1], [-1, -1], [("a", None)], [node], [("b", 1)])
    (inner,) = recipe.build(1, RunError)
    assert inner.finish() == [0]
    inner.set_callback(0, broken)
    with pytest.raises(IndexError, match="does not exist"):
        inner.set_callback(1, broken)
    for _ in range(2):
        with pytest.raises(RunError, match="broken"):
            inner.run({"a": np.zeros(3, np.float32)})
    assert program.run({"x0": np.zeros((1, 3), np.float32)})[y.name].shape == (1, 3)


@pytest.mark.parametrize("packed", [False, True])
def test_a_kernel_does_not_run_a_node_with_an_attribute_that_it_does_not_know(packed: bool) -> None:
    """An extension that is older than the Python code beside it would answer wrong numbers."""
    graph, _, (x,) = start((symbol("n"), 4, 4, 2))
    node = Node("MaxPool", [x], [Value("y", x.type)], {"kernel_shape": (2, 2)}, domain="headrace.cpu", name="pool")
    graph.block.nodes.append(node)
    graph.outputs.extend(value for value in node.outputs if value is not None)
    lower(graph, 1)
    node.attributes["rounds"] = 2  # headrace.cpu: there is no reference that would know it
    with pytest.raises(LoadError, match=r"pool.*does not know the attribute 'rounds'.*build it again"):
        lower(graph, 1, packing=_native.Packing(_native.PackStore("", False)) if packed else None)
    recipe = _native.Recipe()
    nodes = [("Relu", "", {"later": 1}, [0], [1 + i], 14, True, said, []) for i, said in enumerate((["later"], []))]
    recipe.add_block([1, 1, 1], [-1, -1, -1], [("x", None)], nodes, [])
    (program,) = recipe.build(1, RunError)
    assert program.finish() == [0]


def test_closed_models_and_profiles() -> None:
    graph, builder, (x,) = start((2, 2))
    graph.outputs.extend(builder.node("Exp", [x]))
    model = Model(graph)
    model._program.profile(1)
    model.run({"x0": np.zeros((2, 2), np.float32)})
    ((label, op, variant, calls, nanoseconds, _, _),) = model._program.profile_rows()
    assert op == "Exp" and "exp" in label and variant and calls == 1 and nanoseconds >= 0
    model.close()
    with pytest.raises(Exception, match="closed"):
        model.run({})


def test_an_unknown_tier_is_an_error_of_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, builder, (x,) = start((2,))
    graph.outputs.extend(builder.node("Exp", [x]))
    monkeypatch.setenv("HEADRACE_CPU_TIER", "avx9")
    with pytest.raises(LoadError, match=r"avx9.*no CPU tier; allowed here: baseline"):
        lower(graph)


@pytest.mark.parametrize("tier", _native.cpu_tiers())
def test_every_tier_of_this_cpu(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
    graph, builder, (x,) = start((symbol("n"), 33))
    h = x
    for op in ("Exp", "Log", "Tanh", "Sigmoid", "Erf", "Gelu", "Softmax", "Elu", "Softplus"):
        (h,) = builder.node(op, [h])
        graph.outputs.append(h)
    feeds = {"x0": np.random.default_rng(3).standard_normal((5, 33)).astype(np.float32)}
    assert_same(lower(graph, 1).run(feeds), run_graph(graph, feeds))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_thread_pool_survives_fork() -> None:
    graph, builder, (x,) = start((symbol("n"), 1000))
    graph.outputs.extend(builder.node("Exp", [x]))
    program, data = lower(graph, 2), np.ones((400, 1000), np.float32)
    wanted = program.run({"x0": data})["exp"]
    child = os.fork()
    if child == 0:
        same = np.array_equal(program.run({"x0": data})["exp"], wanted)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("rows", [2, "n"])
def test_equal_bytes_are_not_a_place_to_write_into(rows: Any) -> None:
    """4 int64 have the bytes of 32 bools, but these are computed from the 4 again and again."""
    graph, b, (limit, column) = start((), (rows if isinstance(rows, int) else symbol(rows), 1), dtype="int64")
    row = b.node("Range", [b.constant(np.array(0)), limit, b.constant(np.array(1))])[0]
    wide = b.node("Unsqueeze", [b.node("Add", [column, row])[0], ints(b, 2)])[0]
    graph.outputs.extend(b.node("LessOrEqual", [row, wide]))
    model = Model(graph)
    feeds = {"x0": np.array(4), "x1": np.zeros((2, 1), np.int64)}
    expected = run_graph(graph, feeds)
    for _ in range(3):
        for name, found in model.run(feeds).items():
            np.testing.assert_array_equal(found, expected[name])


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_of_inputs_are_not_copied(threads: int) -> None:
    """A leading index or range of an input or a constant is that memory; further nodes, blocks and outputs read the right piece,
    and what a call answered does not change with the caller's array."""
    graph, b, (x,) = start((symbol("n"), 3, 32), dtype="float32")
    table = b.constant(np.arange(4 * 3 * 32, dtype=np.float32).reshape(4, 3, 32))

    def pick(value: Value, at: int) -> Value:
        return b.node("Gather", [value, b.constant(np.array(at, np.int64))], {"axis": 0})[0]

    (cut,) = b.node("Slice", [x, ints(b, 1), ints(b, 3), ints(b, 0)])
    (inner,) = b.node("Slice", [pick(x, -1), ints(b, 2), ints(b, 3), ints(b, 0)])
    (turned,) = b.node("Slice", [x, ints(b, -1), ints(b, -99), ints(b, 0), ints(b, -1)])
    (columns,) = b.node("Slice", [pick(x, 1), ints(b, 16), ints(b, 32), ints(b, 1)])
    row = pick(pick(x, 1), 2)
    sums = [b.node("Add", [pick(pick(table, 3), 1), value])[0] for value in (row, inner, pick(cut, 1))]
    (negative,) = b.node("Neg", [row])
    (flat,) = b.node("Reshape", [cut, ints(b, -1)])
    graph.outputs.extend([cut, inner, turned, columns, row, *sums, negative, flat])
    program = lower(graph, threads, machine=False)
    rng = np.random.default_rng(0)
    for size in (3, 3, 3, 5, 4, 4):
        feeds = {"x0": rng.standard_normal((size, 3, 32)).astype(np.float32)}
        wanted = run_graph(graph, {"x0": feeds["x0"].copy()})
        found = program.run(feeds)
        assert found is not None
        feeds["x0"][...] = 7
        assert_same(found, wanted)
    with pytest.raises(RunError, match=r"Slice|Gather"):
        program.run({"x0": np.zeros((1, 3, 32), np.float32)})
