"""The archive: round trips, reproducible bytes, every bit covered, what any zip tool sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from serializer_graphs import every_array, feeds_of, graphs, inner_block, make_graph, same

from headrace.runtime.builder import Builder
from headrace.runtime.errors import HeadraceError, LoadError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Program, State, Value
from headrace.runtime.interface import Golden
from headrace.runtime.types import TensorType
from headrace.serializer import archive, zip_reader, zip_writer
from headrace.serializer.zip_writer import Entry, layout


def golden_of(graph: Graph) -> Golden:
    feeds = feeds_of(graph)
    return Golden([feeds], [run_graph(graph, feeds)], rtol=1e-3, atol=1e-6)


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    graph = make_graph()
    path = tmp_path / "net.hr"
    archive.save(
        graph,
        path,
        golden=golden_of(graph),
        properties={"name": "net"},
        extra_members={"post/labels.txt": b"a\nb\n", "LICENSE": b"MIT\n"},
    )
    return path.read_bytes()


def test_round_trip_keeps_graph_and_answers(tmp_path: Path) -> None:
    graph = make_graph()
    path = tmp_path / "net.hr"
    archive.save(
        Program({"main": graph}, {"author": "me"}),
        path,
        golden=golden_of(graph),
        properties={"name": "net"},
        created="2026-01-02",
    )
    opened = archive.open_program(path)
    assert str(opened.program.main) == str(graph)
    assert opened.program.main.hash() == graph.hash()
    assert opened.program.main.nodes[0].path == "net.scale"
    assert (
        opened.properties["name"] == "net"
        and opened.properties["author"] == "me"
        and opened.properties["created"] == "2026-01-02"
    )
    assert opened.golden is not None and (opened.golden.rtol, opened.golden.atol) == (1e-3, 1e-6)
    assert same(run_graph(opened.program.main, opened.golden.inputs[0])["out"], opened.golden.outputs[0]["out"])


@settings(max_examples=40)
@given(graphs())
def test_round_trip_of_random_graphs(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    path = tmp_path_factory.mktemp("random") / "g.hr"
    archive.save(graph, path)
    again = archive.open_program(path.read_bytes()).program.main
    assert str(again) == str(graph)
    feeds = feeds_of(graph)
    before, after = run_graph(graph, feeds), run_graph(again, feeds)
    assert before.keys() == after.keys() and all(same(before[name], after[name]) for name in before)


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    for name in ("a.hr", "b.hr"):
        graph = make_graph()
        archive.save(graph, tmp_path / name, golden=golden_of(graph), properties={"b": "1", "a": "2"})
        time.sleep(0.01)
    assert (tmp_path / "a.hr").read_bytes() == (tmp_path / "b.hr").read_bytes()


def test_every_flipped_bit_is_refused_by_name(packed: bytes) -> None:
    """All bytes of the file, one bit each (the bit changes from byte to byte): the error names the member whose header,
    data or directory entry holds the bit, or else the end record."""
    members = zip_reader.read_members(memoryview(packed))
    entries = [Entry(name, len(data), zlib.crc32(data)) for name, data in members.items()]
    plan = layout(entries)
    owners: list[str] = []
    for entry, header in zip(entries, plan.headers):
        owners += [entry.name] * (len(header) + entry.size)
    for entry, record in zip(entries, plan.directory):
        owners += [entry.name] * len(record)
    owners += ["end record"] * len(plan.end)
    assert len(owners) == len(packed)
    for position, owner in enumerate(owners):
        damaged = bytearray(packed)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(LoadError, match=re.escape(owner)):
            archive.open_program(bytes(damaged))


@pytest.mark.parametrize("end", [0, 1, 21, 22, 100, -1, -22])
def test_truncated_and_extended_files_are_refused(packed: bytes, end: int) -> None:
    with pytest.raises(LoadError):
        archive.open_program(packed[:end])
    with pytest.raises(LoadError):
        archive.open_program(packed + b"\0" * (abs(end) + 1))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_any_zip_tool_reads_it_and_members_are_aligned(packed: bytes, tmp_path: Path) -> None:
    path = _written(tmp_path / "n.hr", packed)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        names = file.namelist()
        assert names == sorted(names)
        for info in file.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            header = packed[info.header_offset : info.header_offset + 30]
            start = (
                info.header_offset
                + 30
                + int.from_bytes(header[26:28], "little")
                + int.from_bytes(header[28:30], "little")
            )
            assert start % 64 == 0 and packed[start : start + info.file_size] == file.read(info)


def test_weights_are_views_of_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "net.hr"
    archive.save(make_graph(wide=4096), path)
    w = archive.open_program(path).program.main.constants["w"]
    base = w
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base.base, memoryview) and not w.flags.writeable and not w.flags.owndata
    assert w.ctypes.data % 64 == 0


def test_constants_of_every_type(tmp_path: Path) -> None:
    """Small ones (in graph.pb) and large ones (in the weights)."""
    for repeat in (1, 200):
        graph = Graph(Block([Value("x", TensorType("float32", ()))], [], []))
        builder = Builder(graph)
        arrays = {name: np.tile(array, (repeat, 1)) for name, array in every_array().items()}
        for name, array in arrays.items():
            builder.constant(array, f"c_{name}")
        graph.outputs.append(builder.node("Neg", [graph.inputs[0]])[0])
        archive.save(graph, tmp_path / "t.hr")
        again = archive.open_program(tmp_path / "t.hr").program.main
        for name, array in arrays.items():
            assert same(again.constants[f"c_{name}"], array), name


def test_entries_share_weights_and_keep_their_own(tmp_path: Path) -> None:
    first, second, third = make_graph(), make_graph(), make_graph(seed=5)
    second.constants["w"] = first.constants["w"]
    archive.save(Program({"main": first, "encode": second, "other": third}), tmp_path / "p.hr")
    facts = archive.inspect(tmp_path / "p.hr")
    assert facts["weights"]["arrays"] == 2
    program = archive.open_program(tmp_path / "p.hr").program
    assert same(program.entries["encode"].constants["w"], first.constants["w"])
    assert same(program.entries["other"].constants["w"], third.constants["w"])


def test_states_and_blocks(tmp_path: Path) -> None:
    pytest.importorskip("headrace.runtime.ops.control")
    from headrace.runtime.ops import find

    if find("If") is None:
        pytest.skip("the operator If does not exist yet")
    graph = Graph(
        Block(
            [
                Value("x", TensorType("float32", (2,))),
                Value("c", TensorType("bool", ())),
                Value("h", TensorType("float32", (2,))),
            ],
            [],
            [],
        )
    )
    builder = Builder(graph)
    x, c, h = graph.inputs
    blocks = {"then_branch": inner_block(builder, "Add", [x, h]), "else_branch": inner_block(builder, "Sub", [x, h])}
    graph.outputs.extend(builder.node("If", [c], blocks, outputs=["next"]))
    graph.states.append(State("h", "next", np.array([1, 2], np.float32)))
    archive.save(graph, tmp_path / "s.hr")
    again = archive.open_program(tmp_path / "s.hr").program.main
    assert str(again) == str(graph)
    assert again.states[0].input == "h" and same(again.states[0].initial, graph.states[0].initial)


def test_golden_strings(tmp_path: Path) -> None:
    graph = Graph(Block([Value("s", TensorType("string", (2, 2)))], [], []))
    builder = Builder(graph)
    graph.outputs.append(builder.node("Identity", [graph.inputs[0]], outputs=["t"])[0])
    texts = np.array([["", "é"], ["a\0b", "long" * 50]], object)
    archive.save(graph, tmp_path / "s.hr", golden=Golden([{"s": texts}], [{"t": texts}]))
    golden = archive.open_program(tmp_path / "s.hr").golden
    assert golden is not None and same(golden.inputs[0]["s"], texts) and same(golden.outputs[0]["t"], texts)


def test_golden_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    graph = make_graph()
    feeds = feeds_of(graph)
    for golden in (
        Golden([{}], [{}]),
        Golden([{"x": feeds["x"].astype(np.float64)}], [{}]),
        Golden([feeds], [{"nothing": feeds["x"]}]),
    ):
        with pytest.raises(LoadError):
            archive.save(graph, tmp_path / "g.hr", golden=golden)
    assert not (tmp_path / "g.hr").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "pre/../x",
        "pre/x.py",
        "post/x.so",
        "x.txt",
        "manifest.json",
        "graph.pb",
        "pre//x.txt",
        "pre/x y.txt",
        "pre/é.txt",
    ],
)
def test_foreign_members_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HeadraceError):
        archive.save(make_graph(), tmp_path / "x.hr", extra_members={name: b""})


def test_inspect(packed: bytes) -> None:
    facts = archive.inspect(packed)
    assert facts["operators"] == ["Add", "Mul", "Relu"]
    assert facts["interface"]["main"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 32]}]
    assert facts["interface"]["main"]["batch_dimension"] == "n"
    assert set(facts["members"]) == {
        "LICENSE",
        "golden.safetensors",
        "graph.pb",
        "interface.json",
        "manifest.json",
        "post/labels.txt",
        "weights.safetensors",
    }
    assert archive.read_extra(packed) == {"LICENSE": b"MIT\n", "post/labels.txt": b"a\nb\n"}


def test_zip64_layout() -> None:
    """Offsets and sizes beyond 32 bits: the layout alone, no such file is written."""
    entries = [zip_writer.Entry("a", 5 << 30, 1), zip_writer.Entry("b", 10, 2)]
    plan = zip_writer.layout(entries)
    assert all(offset % 64 == 0 for offset in plan.offsets) and plan.offsets[1] > 5 << 30
    assert plan.end.startswith(b"PK\6\6") and len(plan.end) == 98


def test_a_hundred_megabytes_verify_quickly(tmp_path: Path) -> None:
    """A liveness bound, ten times what is expected."""
    path = tmp_path / "big.hr"
    archive.save(make_graph(wide=8 << 20), path)  # w: 3 * 8 Mi float32
    start = time.perf_counter()
    archive.open_program(path)
    assert time.perf_counter() - start < 5


def test_save_killed_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    """The writer dies without cleaning up; the old file stays, and the next save removes what is left over."""
    path = tmp_path / "net.hr"
    archive.save(make_graph(seed=1), path)
    old = path.read_bytes()
    code = (
        "import os, sys, itertools\n"
        "from headrace.runtime import atomic\n"
        "stop = int(sys.argv[2]); real = os.write; left = itertools.count()\n"
        "def write(file, data):\n"
        "    if next(left) == stop: os._exit(9)\n"
        "    return real(file, bytes(data)[:64])\n"
        "os.write = write\n"
        "atomic.replace(sys.argv[1], [b'x' * 1000])\n"
    )
    for stop in (0, 1, 7, 15):
        done = subprocess.run([sys.executable, "-c", code, str(path), str(stop)], env={**os.environ}, check=False)
        assert done.returncode == 9
        assert path.read_bytes() == old
    assert any(".tmp-" in name for name in os.listdir(tmp_path))
    archive.save(make_graph(seed=2), path)
    assert os.listdir(tmp_path) == ["net.hr"] and path.read_bytes() != old


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.hr"
    archive.save(make_graph(seed=1), path)
    old = path.read_bytes()

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        archive.save(make_graph(seed=2), path)
    monkeypatch.undo()
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["net.hr"]
