"""An archive that was proven on this host is not read again before somebody asks for what is in it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from headrace.runtime import notes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import LoadError
from headrace.runtime.graph import Block, Graph
from headrace.runtime.notes import Notes
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(notes, "SETTLED_NS", 0)
    graph = Graph(Block([], [], []), name="net")
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("n"), 40)))
    graph.outputs.extend(build.node("Add", [x, build.constant(np.arange(40, dtype=np.float32))], outputs=["y"]))
    archive.save(graph, tmp_path / "net.hr", optimized=True)
    return tmp_path / "net.hr"


def test_nothing_is_read_before_it_is_asked_for(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Notes(tmp_path / "notes")
    first = archive.open_program(net, optimized=True, notes=known)
    first.proof()
    with monkeypatch.context() as patch:
        patch.setattr(archive, "list_members", lambda data: pytest.fail("the file is read"))
        again = archive.open_program(net, optimized=True, notes=known)
        again.proof()
        assert again.digest == first.digest
    assert again.program.main.hash() == first.program.main.hash() and again.properties == first.properties


def test_what_is_not_proven_is_not_known(net: Path, tmp_path: Path) -> None:
    known = Notes(tmp_path / "notes")
    archive.open_program(net, optimized=True, notes=known)
    assert not (tmp_path / "notes").exists()


def test_a_file_that_was_written_since_is_proven_again(net: Path, tmp_path: Path) -> None:
    known = Notes(tmp_path / "notes")
    archive.open_program(net, optimized=True, notes=known).proof()
    data, found = bytearray(net.read_bytes()), net.stat()
    data[len(data) // 2] ^= 1
    net.write_bytes(data)
    os.utime(net, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(LoadError, match="damaged"):
        archive.open_program(net, optimized=True, notes=known).proof()


def test_a_reader_of_everything_proves_everything(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Notes(tmp_path / "notes")
    archive.open_program(net, optimized=True, notes=known).proof()
    seen: list[object] = []
    check = archive._check
    monkeypatch.setattr(archive, "_check", lambda *given, **named: seen.append(named) or check(*given, **named))
    archive.open_program(net, notes=known)
    assert seen == [{}]


def test_a_file_changed_just_now_is_not_noted(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "SETTLED_NS", 60 * 10**9)
    archive.open_program(net, optimized=True, notes=Notes(tmp_path / "notes")).proof()
    assert not (tmp_path / "notes").exists()
