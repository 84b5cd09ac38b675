"""Packed weights of a model in worker processes: packed by one of them, mapped by all."""

from __future__ import annotations

import gc
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from test_workers import model, pids, serve, until

from headrace import runtime
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive
from headrace.serve import Client

SIZE = 512  # a weight of 1 MiB
MEMORY = re.compile(r"/memfd:headrace-packed|.*\.packed")
pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's smaps")


def mappings(pid: int | str) -> dict[str, dict[str, int]]:
    """Inode of packed weights in a process -> its counters of memory in KiB, summed over mappings."""
    found: dict[str, dict[str, int]] = {}
    counters: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            parts = line.split(maxsplit=5)
            shared = len(parts) == 6 and MEMORY.match(parts[5])
            counters = found.setdefault(parts[4], {"writable": 0}) if shared else {}
            counters["writable"] = counters.get("writable", 0) + ("w" in parts[1])
        else:
            key, _, value = line.partition(":")
            if value.strip().endswith("kB"):
                counters[key] = counters.get(key, 0) + int(value.split()[0])
    return found


def held() -> list[str]:
    """Packed weights that this process has a descriptor of."""
    gc.collect()
    links = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:
            continue
    return [link for link in links if MEMORY.match(link)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), SIZE)))], [], []))
    build, rng = Builder(graph), np.random.default_rng(3)
    weight = build.constant(rng.standard_normal((SIZE, SIZE), np.float32))
    graph.outputs.extend(build.node("MatMul", [graph.inputs[0], weight], outputs=["y"]))
    (tmp_path / "m" / "1").mkdir(parents=True)
    archive.save(graph, tmp_path / "m" / "1" / "model.hr")
    return tmp_path


@pytest.mark.parametrize("kept", [False, True])
def test_workers_map_what_one_of_them_packed(kept: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In sealed memory that the server hands on, or in the file that a start leaves for the next."""
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(root.parent / "cache"))
    x = np.random.default_rng(4).standard_normal((3, SIZE), np.float32)
    with runtime.load(root / "m" / "1" / "model.hr", device="cpu", threads=1) as alone:
        wanted = alone.run({"x": x})["y"]
    with (
        serve(root, count=2, loader=None, keep_packed=kept) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        for _ in range(4):
            np.testing.assert_array_equal(client.infer("m", x=x)["y"], wanted)
        first, second = map(mappings, pids(server))
        assert list(first) == list(second) and len(first) == 1
        for counters in (*first.values(), *second.values()):
            assert counters["Size"] >= SIZE * SIZE * 4 >> 10
            assert counters["Anonymous"] == 0 and counters["writable"] == 0
        assert len(held()) == (0 if kept else 1)

        gone = pids(server)[0]
        os.kill(gone, signal.SIGKILL)
        until(lambda: gone not in pids(server) and model(server).alive == 2)
        assert all(list(mappings(pid)) == list(first) for pid in pids(server))
        for _ in range(4):
            np.testing.assert_array_equal(client.infer("m", x=x)["y"], wanted)
        client.unload("m")
        until(lambda: not held())
    assert not held()
