"""Memory: weights stay in the file that they are mapped from, what kernels pack goes when the model does, and 200 loads
leave nothing behind."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace.runtime import load
from headrace.runtime.builder import Builder
from headrace.runtime.errors import InputError
from headrace.runtime.graph import Block, Graph, Program, Value
from headrace.runtime.model import Model
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive

MIB = 1 << 20
CYCLES, ALLOWED = 200, 16 * MIB


def anonymous() -> int:
    """Bytes of this process that no file is behind."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not tell anonymous memory")


pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux 4.14's smaps_rollup")
kept = pytest.mark.skipif(
    "HEADRACE_NATIVE_DIR" in os.environ, reason="a build with sanitizers keeps freed memory for a while"
)


def alone(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """The test in a process of its own: what others left in this one may go, and their models be alive, while it measures."""

    @functools.wraps(test)
    def in_child(tmp_path: Path) -> None:
        code = f"import sys, pathlib, test_memory; test_memory.{test.__name__}.__wrapped__(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return in_child


def network(size: int, layers: int = 1) -> Graph:
    """x [n, size] through `layers` products with square matrices, which kernels pack."""
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), size)))], [], []))
    builder, rng, value = Builder(graph), np.random.default_rng(0), graph.inputs[0]
    for _ in range(layers):
        weight = builder.constant((rng.standard_normal((size, size)) / size).astype(np.float32))
        (value,) = builder.node("MatMul", [value, weight])
        (value,) = builder.node("Relu", [value])
    graph.outputs.append(value)
    return graph


def table(rows: int, columns: int) -> Graph:
    """Rows of a table by index: a weight that no kernel packs."""
    graph = Graph(Block([Value("i", TensorType("int64", (symbol("n"),)))], [], []))
    builder = Builder(graph)
    rng = np.random.default_rng(0)
    graph.outputs.extend(
        builder.node("Gather", [builder.constant(rng.random((rows, columns), np.float32)), graph.inputs[0]])
    )
    return graph


def saved(graph: Graph, path: Path) -> Path:
    archive.save(Program({"main": graph}), path)
    return path


def growth(cycle: Callable[[], object], cycles: int = CYCLES) -> int:
    """How much anonymous memory `cycles` runs of `cycle` leave, after a few that warm up."""
    for _ in range(10):
        cycle()
    before = anonymous()
    for _ in range(cycles):
        cycle()
    return anonymous() - before


@kept
@alone
def test_200_loads_leave_nothing(tmp_path: Path) -> None:
    path, x = saved(network(256, 2), tmp_path / "net.hr"), np.ones((4, 256), np.float32)

    def cycle() -> None:
        with load(path, device="cpu", threads=1) as model:
            model.run({"x": x})
            model.run({"x": x})

    assert growth(cycle) < ALLOWED


@alone
def test_a_leak_is_seen(tmp_path: Path) -> None:
    """The measure itself: a cycle that keeps each program, and so its packed weights, is caught."""
    path, kept = saved(network(256, 2), tmp_path / "net.hr"), []

    def cycle() -> None:
        with load(path, device="cpu", threads=1) as model:
            kept.append(model.program)

    assert growth(cycle) > ALLOWED


@alone
def test_weights_that_no_kernel_packs_stay_in_the_file(tmp_path: Path) -> None:
    path = saved(table(4096, 1024), tmp_path / "table.hr")  # 16 MiB
    load(path, device="cpu", threads=1).close()  # imports, tables
    before = anonymous()
    with load(path, device="cpu", threads=1) as model:
        rows = model.run({"i": np.array([0, 4095])})
        assert anonymous() - before < 4 * MIB
        assert model.memory()["packed"] == 0 and model.weight_bytes == 16 * MIB
    assert next(iter(rows.values())).shape == (2, 1024)


def in_memory(path: Path) -> int:
    """Bytes of the file that are mapped into this process and there."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.mark.parametrize("without", [(), ("fold",)], ids=["optimized", "as written"])
def test_the_file_leaves_memory_when_it_is_proven_and_packed(tmp_path: Path, without: tuple[str, ...]) -> None:
    """Checksums and packing read all of it; afterwards no more is there than a run reads, and that is what was written."""
    graph = table(4096, 1024)  # 16 MiB that are not packed, and of
    weight = np.random.default_rng(1).standard_normal((1024, 1024)).astype(np.float32)  # 4 MiB that are
    builder = Builder(graph)
    graph.outputs.extend(builder.node("MatMul", [graph.outputs[0], builder.constant(weight)]))
    path, i = tmp_path / "net.hr", np.array([0, 4095, 17])
    archive.save(Program({"main": graph}), path, optimized=True)
    expected = load(graph, device="cpu", threads=1).run({"i": i})
    with load(path, device="cpu", threads=1, without=without) as model:
        assert in_memory(path) < MIB
        found = model.run({"i": i})
        assert 0 < in_memory(path) < 4 * MIB
        assert model.graph.hash() == graph.hash()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@kept
@alone
def test_packed_weights_go_with_the_model(tmp_path: Path) -> None:
    path, x = saved(network(1024, 4), tmp_path / "net.hr"), np.ones((4, 1024), np.float32)
    load(path, device="cpu", threads=1).close()
    before = anonymous()
    model = load(path, device="cpu", threads=1)
    model.run({"x": x})
    packed = model.memory()["packed"]
    assert packed >= 16 * MIB
    assert packed - 4 * MIB < anonymous() - before < packed + 4 * MIB  # once, and no copy beside it
    model.close()
    assert anonymous() - before < 4 * MIB


@kept
@alone
def test_idle_blocks_go_with_the_last_model(tmp_path: Path) -> None:
    """Large results come from a pool of blocks, which keeps none once no program is left that would want it."""
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"),)))], [], []))
    graph.outputs.extend(Builder(graph).node("NonZero", [graph.inputs[0]]))
    x = np.ones(4 * MIB, np.float32)
    Model(graph, threads=1).close()
    before = anonymous()
    with Model(graph, threads=1) as model:
        outputs = model.run({"x": x})
    del outputs
    assert anonymous() - before < 8 * MIB


def test_memory_is_planned_as_it_is_used() -> None:
    with Model(network(64, 3), threads=1) as model:
        for _ in range(3):
            model.run({"x": np.ones((8, 64), np.float32)})
        memory = model.memory({"x": (8, 64)})
        (plan,) = [plan for plan in model._program.plans() if not plan["generic"]]
        assert memory["arena"] == plan["arena_bytes"] > 0
        assert memory["inputs"] == memory["outputs"] == 8 * 64 * 4
        assert memory["weights"] == 3 * 64 * 64 * 4 and memory["dynamic"] == 0
        parts = ("weights", "packed", "arena", "folded", "inputs", "outputs")
        assert memory["peak"] == sum(memory[part] for part in parts)  # type: ignore[literal-required]
        assert model.memory(batch=8) == memory


@pytest.mark.parametrize(
    "shapes, message",
    [
        ({"y": (1, 64)}, r"no input 'y'; its inputs: x: float32\[n, 64\]"),
        ({"x": (1, 63)}, r"do not fit the interface: x \[1, 63\]"),
        ({"x": (64,)}, "do not fit the interface"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with Model(network(64), threads=1) as model, pytest.raises(InputError, match=message):
        model.memory(shapes)
