"""Plans of the CUDA executor on the emulator: signatures, arena, copies, fallbacks, replay."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parents[1] / "passes"), str(Path(__file__).parents[2] / "benchmarks")]
from cuda_models import minilm, minilm_feeds
from graph_cases import feeds_of, make

from headrace.runtime.cuda import executor, graphs
from headrace.runtime.cuda.arena import ALIGNMENT, Arena
from headrace.runtime.cuda.buckets import bucket
from headrace.runtime.cuda.constants import Constants
from headrace.runtime.cuda.emul import EmulationError, EmulDevice
from headrace.runtime.cuda.placement import Download, OnDevice, OnHost, Upload
from headrace.runtime.cuda.plan import Plan
from headrace.runtime.errors import InputError, RunError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.model import Model, load
from headrace.runtime.plan import Step, byte_size, plan_memory, specialise
from headrace.runtime.types import TensorType


@pytest.fixture
def device() -> EmulDevice:
    return EmulDevice()


def on(device: EmulDevice, graph: Graph, **sizes: int) -> tuple[Model, dict[str, np.ndarray]]:
    """A model on the device, without passes, and feeds; its answers are compared with the reference's."""
    model = load(graph, device=device)
    feeds = feeds_of(graph, np.random.default_rng(0), **sizes)
    want, found = run_graph(graph, feeds), model.run(feeds)
    assert list(found) == list(want)
    for name in want:
        np.testing.assert_allclose(found[name], want[name], rtol=1e-5, atol=1e-6)
    return model, feeds


def newest(model: Model) -> Plan:
    return next(reversed(model._program._plans.values()))


def steps(model: Model) -> list[str]:
    """The placement in words: the node's operator, or what is copied."""
    words = []
    for step in newest(model).placement.steps:
        match step:
            case OnDevice(node=node):
                words.append(node.kind)
            case OnHost(node=node):
                words.append(f"host {node.kind}")
            case Upload(value=value):
                words.append(f"up {value.name}")
            case Download(value=value):
                words.append(f"down {value.name}")
    return words


# ---- signatures


def test_a_signature_is_planned_once_and_a_new_one_anew(device: EmulDevice) -> None:
    graph = make(lambda F, x: F.Tanh(F.Relu(x)), x=("float32", ("n", 3)))
    model, feeds = on(device, graph, n=4)
    first = newest(model)
    model.run(feeds)
    assert newest(model) is first and len(model._program.plans()) == 1
    model.run({"x": np.ones((8, 3), np.float32)})
    assert newest(model) is not first
    assert [plan["inputs"] for plan in model._program.plans()] == [{"x": "float32[8, 3]"}, {"x": "float32[4, 3]"}]
    model.run(feeds)
    assert newest(model) is first


def test_the_signature_used_longest_ago_goes_and_its_memory_with_it(
    device: EmulDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "PLANS", 2)
    graph = make(lambda F, x: F.Relu(x), x=("float32", ("n",)))
    model = load(graph, device=device)
    for n in (1, 2, 1, 4):
        model.run({"x": np.ones(n, np.float32)})
    assert [plan["inputs"]["x"] for plan in model._program.plans()] == ["float32[4]", "float32[1]"]
    held = len(device._sizes)
    model.run({"x": np.ones(8, np.float32)})
    assert len(device._sizes) == held


def test_what_a_signature_made_constant_goes_with_its_plan(device: EmulDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "PLANS", 1)
    model = load(minilm(), device=device)
    model.run(minilm_feeds(2, 5))
    held = sorted(device._sizes.values())
    for length in (3, 4, 5):
        model.run(minilm_feeds(2, length))
    assert sorted(device._sizes.values()) == held


def test_plans_together_keep_to_the_memory_limit(device: EmulDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ARENAS", 2 * ALIGNMENT)
    model = load(make(lambda F, x: F.Relu(x), x=("float32", ("n",))), device=device)
    for n in (1, 2, 4):
        model.run({"x": np.ones(n, np.float32)})
    assert [plan["inputs"]["x"] for plan in model._program.plans()] == ["float32[4]", "float32[2]"]


def test_batches_of_independent_rows_share_the_plan_of_their_bucket(device: EmulDevice) -> None:
    model = load(make(lambda F, x: F.Softmax(F.Relu(x)), x=("float32", ("n", 3))), device=device)
    rng = np.random.default_rng(0)
    for n in (3, 4, 5, 8, 7, 1):
        x = rng.standard_normal((n, 3)).astype(np.float32)
        found = model.run({"x": x})["softmax"]
        np.testing.assert_allclose(found, run_graph(model.graph, {"x": x})["softmax"], rtol=1e-5)
    assert {plan["inputs"]["x"] for plan in model._program.plans()} == {f"float32[{n}, 3]" for n in (1, 4, 8)}


def test_batches_whose_rows_meet_keep_their_size(device: EmulDevice) -> None:
    graph = make(lambda F, x: F.Sub(x, F.ReduceMean(x, F.const(np.array([0])))), x=("float32", ("n", 3)))
    model, _ = on(device, graph, n=3)
    assert [plan["inputs"]["x"] for plan in model._program.plans()] == ["float32[3, 3]"]


@pytest.mark.parametrize(
    ("rows", "wanted"), [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (33, 64), (64, 64), (65, 128), (129, 192)]
)
def test_buckets(rows: int, wanted: int) -> None:
    assert bucket(rows) == wanted


def test_constants_are_uploaded_once_for_all_signatures(device: EmulDevice) -> None:
    weight = np.arange(3, dtype=np.float32)
    model = load(make(lambda F, x: F.Mul(x, F.const(weight)), x=("float32", ("n", 3))), device=device)
    for n in (1, 2):
        model.run({"x": np.ones((n, 3), np.float32)})
    assert model._program.constants.bytes == weight.nbytes


def test_inputs_that_do_not_fit_are_named(device: EmulDevice) -> None:
    model = load(make(lambda F, x: F.Relu(x), x=("float32", ("n", 3))), device=device)
    for feeds in ({}, {"x": np.ones((2, 4), np.float32)}, {"x": np.ones((2, 3))}, {"y": np.ones(1)}):
        with pytest.raises(InputError):
            model.run(feeds)


def test_sizes_that_come_from_shapes_are_constants_of_the_plan() -> None:
    def body(F: Any, x: Value) -> Value:
        rows = F.Gather(F.Shape(x), F.const(np.int64(0)), axis=0)
        return F.Add(x, F.Cast(F.Range(F.const(np.int64(0)), rows, F.const(np.int64(1))), to=1))

    graph = make(body, x=("float32", ("n", "n")))
    special = specialise(graph, {"x": (4, 4)})
    assert [node.kind for node in special.nodes] == ["Add"]
    assert str(graph.nodes[0].outputs[0].type) == "int64[2]" and len(graph.nodes) == 5  # the given graph is as it was


# ---- placement


def test_an_operator_without_a_kernel_runs_on_the_cpu_between_copies_and_is_listed(device: EmulDevice) -> None:
    graph = make(lambda F, x: F.Relu(F.Det(F.Tanh(x))), x=("float32", (2, 3, 3)))
    model, _ = on(device, graph)
    assert steps(model) == ["Tanh", "down tanh", "host Det", "up det", "Relu", "down relu"]
    assert model.properties["fallbacks"] == "Det (no CUDA kernel)"
    assert [row for row in model.kernels() if row["reason"]] == [
        {"operator": "Det", "node": "node Det -> det", "kernel": "reference", "reason": "no CUDA kernel"}
    ]
    assert model._program.plans()[0]["segments"] == 2


def test_fallbacks_are_listed_before_the_first_call(device: EmulDevice) -> None:
    model = load(make(lambda F, x: F.Relu(F.Det(x)), x=("float32", ("n", 3, 3))), device=device)
    assert not model._program.plans()
    assert model.properties["fallbacks"] == "Det (no CUDA kernel)"


def test_the_listing_takes_sizes_that_fit_the_model(device: EmulDevice) -> None:
    def body(F: Any, x: Value) -> Value:
        return F.GlobalAveragePool(F.MaxPool(x, kernel_shape=(3, 3), strides=(3, 3)))

    model = load(make(body, x=("float32", ("n", 2, "h", "w"))), device=device)
    assert [(row["operator"], row["reason"]) for row in model.kernels()] == [("MaxPool", ""), ("GlobalAveragePool", "")]


def test_a_value_is_copied_once_each_way(device: EmulDevice) -> None:
    def body(F: Any, x: Value) -> list[Value]:
        a = F.Relu(x)
        d = F.Det(a)
        return [F.Add(d, F.Det(a)), F.Tanh(d), a]

    model, _ = on(device, make(body, x=("float32", (2, 3, 3))))
    assert [word for word in steps(model) if word.startswith(("up", "down"))].count("down relu") == 1
    assert steps(model).count("up det") == 1


def test_sizes_that_depend_on_data_are_the_cpu_s(device: EmulDevice) -> None:
    model, _ = on(device, make(lambda F, x: F.Neg(F.Cast(F.NonZero(F.Relu(x)), to=1)), x=("float32", ("n", 3))), n=4)
    assert [(row["operator"], row["reason"]) for row in model.kernels()] == [
        ("Relu", ""), ("NonZero", "no CUDA kernel"), ("Cast", "sizes depend on data"), ("Neg", "sizes depend on data"),
    ]  # fmt: skip


def test_reshapes_are_views_and_cost_no_command(device: EmulDevice) -> None:
    def body(F: Any, x: Value) -> Value:
        return F.Reshape(F.Relu(F.Reshape(x, F.const(np.array([2, 6])))), F.const(np.array([4, 3])))

    model, _ = on(device, make(body, x=("float32", (3, 4))))
    assert [word for word in steps(model) if not word.startswith("down")] == ["Relu"]
    assert model._program.plans()[0]["commands"] == 1


def test_inputs_constants_and_repeated_outputs_come_back_as_arrays_of_their_own(device: EmulDevice) -> None:
    graph = make(lambda F, x: [x, F.const(np.ones(2, np.float32)), F.Relu(x)], x=("float32", (2,)))
    model, feeds = on(device, graph)
    found = model.run(feeds)
    for array in found.values():
        assert array.flags.owndata and array.flags.writeable
        array += 1
    again = model.run(feeds)
    assert feeds["x"].tobytes() == again["x"].tobytes() and not np.shares_memory(found["x"], feeds["x"])


def test_empty_tensors(device: EmulDevice) -> None:
    graph = make(lambda F, x: F.Relu(F.Tanh(x)), x=("float32", ("n", 3)))
    model = load(graph, device=device)
    assert model.run({"x": np.zeros((0, 3), np.float32)})["relu"].shape == (0, 3)
    total = load(make(lambda F, x: F.ReduceSum(x, F.const(np.array([0]))), x=("float32", ("n", 3))), device=device)
    assert total.run({"x": np.zeros((0, 3), np.float32)})["reducesum"].tolist() == [[0, 0, 0]]


def test_blocks_run_on_the_cpu_with_what_they_capture(device: EmulDevice) -> None:
    def body(F: Any, x: Value, yes: Value) -> Value:
        y = F.Tanh(x)
        branches = []
        for name in ("Relu", "Neg"):
            block = Block([], [], [])
            block.outputs = [F.builder.inner(block).node(name, [y])[0]]
            branches.append(block)
        return F.Abs(F.If(yes, then_branch=branches[0], else_branch=branches[1]))

    graph = make(body, x=("float32", (3,)), yes=("bool", ()))
    model = load(graph, device=device)
    x = np.array([-1, 0, 2], np.float32)
    for yes in (True, False):
        feeds = {"x": x, "yes": np.array(yes)}
        np.testing.assert_allclose(model.run(feeds)["abs"], run_graph(graph, feeds)["abs"], rtol=1e-6)
    assert "host If" in steps(model)


def test_an_index_outside_is_an_error_that_names_the_node(device: EmulDevice) -> None:
    graph = make(lambda F, x, i: F.Relu(F.Gather(x, i, axis=0)), x=("float32", (4, 2)), i=("int64", ("n",)))
    model = load(graph, device=device)
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert model.run({"x": x, "i": np.array([3, -4])})["relu"].tolist() == [[6, 7], [0, 1]]
    for wrong in (4, -5):
        with pytest.raises(RunError, match=r"Gather -> gather.*: an index lies outside axis 0 of size 4"):
            model.run({"x": x, "i": np.array([0, wrong])})
    assert model.run({"x": x, "i": np.array([1, 1])})["relu"].tolist() == [[2, 3], [2, 3]]


def test_a_branch_that_is_not_taken_may_be_wrong_for_the_sizes(device: EmulDevice) -> None:
    def body(F: Any, x: Value, yes: Value) -> Value:
        branches = []
        for axes in ([0], [1]):
            block = Block([], [], [])
            block.outputs = F.builder.inner(block).node("Squeeze", [F.Relu(x), F.const(np.array(axes))])
            branches.append(block)
        return F.Neg(F.If(yes, then_branch=branches[0], else_branch=branches[1]))

    graph = make(body, x=("float32", ("n", "m")), yes=("bool", ()))
    model = load(graph, device=device)
    for shape, yes in (((1, 3), True), ((3, 1), False)):
        feeds = {"x": np.arange(3, dtype=np.float32).reshape(shape), "yes": np.array(yes)}
        assert model.run(feeds)["neg"].tolist() == [0, -1, -2]


# ---- memory


@given(st.integers(0, 2**32 - 1))
def test_values_that_live_at_once_never_share_a_byte(seed: int) -> None:
    """A random program: each step reads some earlier values (the first as a candidate to be overwritten) and makes one."""
    rng = np.random.default_rng(seed)
    program: list[tuple[list[int], int, int]] = []
    for _ in range(rng.integers(0, 15)):
        reads = [int(i) for i in rng.integers(0, 30, rng.integers(0, 4))]
        program.append((reads, int(rng.integers(1, 1500)), int(rng.integers(0, 2) * rng.integers(0, 600))))
    values = [Value("input", TensorType("uint8", (100,)))]
    planned = []
    for reads, size, scratch in program:
        given = [values[i % len(values)] for i in reads]
        made = Value(f"v{len(values)}", TensorType("uint8", (size,)))
        planned.append(Step(given, (made,), scratch, given[:1]))
        values.append(made)
    kept = values[-1:]
    memory = plan_memory(planned, {}, values[:1], kept, ALIGNMENT)
    last = {value: len(planned) if value in kept else -1 for value in values}
    for number, step in enumerate(planned):
        for value in (*step.reads, *step.writes):
            last[value] = max(last[value], number)
    holder: dict[int, Value] = {}  # byte -> the value that was written there last

    def write(value: Value) -> None:
        at = memory.offsets[value]
        assert at % ALIGNMENT == 0 and at + byte_size(value) <= memory.bytes
        holder.update(dict.fromkeys(range(at, at + byte_size(value)), value))

    def intact(value: Value) -> bool:
        at = memory.offsets[value]
        return all(holder.get(byte) is value for byte in range(at, at + byte_size(value)))

    write(values[0])
    for number, step in enumerate(planned):
        assert all(intact(value) for value in step.reads)
        if step.scratch:
            at = memory.scratch[number]
            assert at + step.scratch <= memory.bytes
            holder.update(dict.fromkeys(range(at, at + step.scratch), Value("scratch")))
            assert all(intact(value) for value in step.reads)
        write(step.writes[0])
        assert all(intact(v) for v in values[: number + 2] if last[v] > number and v in memory.offsets)


def test_an_output_takes_over_the_memory_of_an_input_that_dies(device: EmulDevice) -> None:
    model, _ = on(device, make(lambda F, x: F.Tanh(F.Relu(F.Neg(x))), x=("float32", (64,))))
    assert newest(model).arena.bytes == ALIGNMENT


def test_an_input_that_is_read_again_is_not_overwritten(device: EmulDevice) -> None:
    on(device, make(lambda F, x: F.Add(F.Relu(x), F.Tanh(x)), x=("float32", (64,))))

    def body(F: Any, x: Value) -> Value:  # the same bytes under two shapes
        y = F.Relu(x)
        return F.Add(y, F.Transpose(F.Reshape(y, F.const(np.array([2, 2]))), perm=[1, 0]))

    on(device, make(body, x=("float32", (2, 2))))


def test_nothing_lies_outside_the_arena(device: EmulDevice) -> None:
    arena = Arena(device, 1000)
    assert arena.at(0, 1000) == arena.base and arena.at(1000, 0)
    for offset, size in ((-1, 1), (0, 1001), (999, 2), (0, -1)):
        with pytest.raises(RunError, match="outside an arena of 1000"):
            arena.at(offset, size)


def test_memory_is_freed_with_its_owner(device: EmulDevice) -> None:
    model, _ = on(device, make(lambda F, x: F.Add(F.Relu(x), F.const(np.ones(3))), x=("float32", (3,))))
    assert device._sizes
    model.close()
    del model
    assert not device._sizes


def test_constants_are_uploaded_and_derived_once_by_the_model_or_by_the_plan(device: EmulDevice) -> None:
    weight, special = np.ones(3), np.zeros(2)
    model = Constants(device, [weight])
    first, second = model.inner(), model.inner()
    assert first.address(weight) == second.address(weight) == model.address(weight)
    assert first.derive("twice", [weight], lambda: weight * 2) is second.derive("twice", [weight], lambda: weight * 3)
    assert first.address(special) != second.address(special) and model.bytes == weight.nbytes
    first.derive("both", [weight, special], lambda: weight[:2] + special)
    assert not model.owns(special)
    held = len(device._sizes)
    del first
    assert len(device._sizes) == held - 1


# ---- commands and replay


def test_a_plan_is_recorded_once_and_replayed(device: EmulDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = on(device, make(lambda F, x: F.Tanh(F.Relu(x)), x=("float32", (5,))))
    kernels = [command.kernel for command in newest(model).steps[0].commands]  # type: ignore[union-attr]
    assert kernels == ["unary_f32", "unary_f32"]
    monkeypatch.setattr(graphs, "Recorder", None)  # recording again would fail
    assert model.run(feeds)


def test_a_replay_that_differs_is_not_used(
    device: EmulDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(device: EmulDevice, commands: Any) -> Any:
        return graphs.eager(device, commands[:-1])

    monkeypatch.setattr(graphs, "capture", damaged)
    model, feeds = on(device, make(lambda F, x: F.Add(F.Relu(x), F.Neg(x)), x=("float32", (5,))))
    assert "graph replay differs in add from running step by step; not replayed" in caplog.text
    assert model._program.plans()[0]["replayed"] == 0
    np.testing.assert_array_equal(model.run(feeds)["add"], np.maximum(feeds["x"], 0) - feeds["x"])


def test_a_profile_has_every_node_once(device: EmulDevice) -> None:
    model, feeds = on(device, make(lambda F, x: F.Relu(F.Det(F.Tanh(F.Neg(x)))), x=("float32", (2, 3, 3))))
    rows = model.profile(feeds, runs=2)
    assert {row["operator"]: row["kernel"] for row in rows} == {
        "Neg": "unary_f32 neg", "Tanh": "unary_f32 tanh", "Det": "reference", "Relu": "unary_f32 relu",
    }  # fmt: skip
    assert all(row["ms"] > 0 for row in rows) and abs(sum(row["share"] for row in rows) - 1) < 1e-6
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)


def test_what_may_not_be_recorded_is_refused(device: EmulDevice) -> None:
    recorder = graphs.Recorder(device.name)
    array = np.zeros(1, np.uint8)
    for forbidden in (
        lambda: recorder.alloc(1), lambda: recorder.free(0), lambda: recorder.h2d(0, array),
        lambda: recorder.d2h(array, 0), recorder.synchronize,
    ):  # fmt: skip
        with pytest.raises(RunError, match="while a plan is recorded"):
            forbidden()


def test_recorded_copies_and_fills_run(device: EmulDevice) -> None:
    a, b = device.alloc(8), device.alloc(8)
    recorder = graphs.Recorder(device.name)
    recorder.memset(a, 7, 8)
    recorder.d2d(b, a, 8)
    graphs.capture(device, recorder.commands)()
    found = np.zeros(8, np.uint8)
    device.d2h(found, b)
    assert found.tolist() == [7] * 8
    device.free(a)
    device.free(b)


def test_an_error_of_a_kernel_leaves_the_model_usable(device: EmulDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = on(device, make(lambda F, x: F.Tanh(F.Relu(x)), x=("float32", (5,))))
    with monkeypatch.context() as patch:
        patch.setattr(device, "launch", lambda *args: (_ for _ in ()).throw(EmulationError("unary_f32: broken")))
        for _ in range(5):  # more often than there are buffers: each is given back
            with pytest.raises(EmulationError):
                model.run(feeds)
    assert model.run(feeds)["tanh"].shape == (5,)


def test_calls_of_many_threads_do_not_meet(device: EmulDevice) -> None:
    model = load(minilm(), device=device)
    feeds = [minilm_feeds(seed=seed) for seed in range(6)]
    want = [model.run(each)["embedding"].tobytes() for each in feeds]
    failed: list[int] = []

    def call(index: int) -> None:
        for _ in range(3):
            if model.run(feeds[index])["embedding"].tobytes() != want[index]:
                failed.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
