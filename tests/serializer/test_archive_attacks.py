"""Hostile archives: one test for each rule of the container, the manifest, the interface, the golden data."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serializer_graphs import feeds_of, make_graph

from headrace.runtime import _native
from headrace.runtime.errors import LoadError, UnsupportedOperator
from headrace.runtime.executor import run_graph
from headrace.runtime.interface import Golden, Opened
from headrace.serializer import archive, golden, manifest, strict_json, weights, zip_reader
from headrace.serializer.zip_writer import Entry, layout

Members = dict[str, bytes]


@pytest.fixture(autouse=True, params=["before", "after"])
def proofs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums are compared before the graph is decoded, or, as where a model is loaded, after: both refuse the same."""
    if request.param == "after":
        real = archive.open_program

        def open_program(source: Any, **options: Any) -> Opened:
            opened = real(source, **{**options, "optimized": True})
            assert opened.contents is not None
            opened.proof()
            return opened

        monkeypatch.setattr(archive, "open_program", open_program)


@pytest.fixture
def members(tmp_path: Path) -> Members:
    graph = make_graph()
    feeds = feeds_of(graph)
    archive.save(graph, tmp_path / "net.hr", golden=Golden([feeds], [run_graph(graph, feeds)]))
    with zipfile.ZipFile(tmp_path / "net.hr") as file:
        return {name: file.read(name) for name in file.namelist()}


def container(members: Members, names: list[str] | None = None) -> bytes:
    """The members as an archive, by the format's own layout."""
    names = sorted(members) if names is None else names
    plan = layout([Entry(name, len(members[name]), zlib.crc32(members[name])) for name in names])
    return b"".join(header + members[name] for header, name in zip(plan.headers, names)) + plan.tail


def relisted(members: Members, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Members:
    """The members with a manifest that lists them as they are now, then changed."""
    document = json.loads(members["manifest.json"])
    document["members"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
        if name != "manifest.json"
    }
    change(document)
    return {**members, "manifest.json": json.dumps(document).encode()}


def refused(data: bytes | Members, *words: str) -> None:
    data = container(data) if isinstance(data, dict) else data
    with pytest.raises(LoadError) as caught:
        archive.open_program(data)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_helpers_make_good_archives(members: Members) -> None:
    archive.open_program(container(members))
    archive.open_program(container(relisted(members)))


# The container


def test_compressed_members(members: Members) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    refused(buffer.getvalue(), "compressed")


def test_stored_by_another_tool(members: Members) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    refused(buffer.getvalue())


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "/etc/passwd",
        "pre/../../x.txt",
        "pre\\x.txt",
        "pre//x.txt",
        "pre/./x.txt",
        "pre/\x01.txt",
        "C:x",
        "x" * 300,
        "",
        "pre/",
    ],
)
def test_names_that_lead_elsewhere(members: Members, name: str) -> None:
    refused(relisted({**members, name: b""}))


def test_names_that_differ_only_in_case(members: Members) -> None:
    refused(relisted({**members, "pre/A.txt": b"", "pre/a.txt": b""}), "two members")


def test_a_member_twice(members: Members) -> None:
    refused(container(members, sorted([*members, "graph.pb"])), "two members")


def test_members_out_of_order(members: Members) -> None:
    refused(container(members, sorted(members, reverse=True)), "order")


def test_bytes_before_between_after(members: Members) -> None:
    data = container(members)
    refused(b"\0" * 64 + data)
    refused(data + b"\0")
    middle = data.index(b"PK\3\4", 10)
    refused(data[:middle] + b"\0" * 64 + data[middle:])


def test_a_comment(members: Members) -> None:
    data = container(members)
    refused(data[:-2] + struct.pack("<H", 4) + b"evil")


def test_overlapping_members() -> None:
    """Two directory entries of one local file: the classic small bomb."""
    plan = layout([Entry("a", 100, 0), Entry("b", 100, 0)])
    body = plan.headers[0] + bytes(100)
    second = bytearray(plan.directory[1])
    second[42:46] = bytes(4)
    directory = plan.directory[0] + bytes(second)
    end = bytearray(plan.end)
    end[12:20] = struct.pack("<II", len(directory), len(body))
    refused(body + directory + bytes(end))


def test_sizes_beyond_the_file(members: Members) -> None:
    data = bytearray(container(members))
    position = data.index(b"PK\1\2")
    data[position + 20 : position + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    refused(bytes(data))


def test_too_many_members() -> None:
    names = [f"pre/{index}.txt" for index in range(zip_reader.MEMBER_LIMIT + 1)]
    refused(dict.fromkeys(names, b""), str(zip_reader.MEMBER_LIMIT))


def test_encrypted_flag_link_mode_and_date(members: Members) -> None:
    data = container(members)
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    for position in (local + 6, local + 10, central + 8, central + 38):
        damaged = bytearray(data)
        damaged[position + (2 if position == central + 38 else 0)] ^= 1
        refused(bytes(damaged))


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"PK\5\6" + bytes(18), b"not a zip file at all, but long enough to look at"]
)
def test_no_archive(data: bytes) -> None:
    refused(data)


# The manifest


def test_a_member_too_many(members: Members) -> None:
    refused({**members, "pre/x.txt": b"x"}, "pre/x.txt", "not listed")


@pytest.mark.parametrize(
    "name", ["graph.pb", "weights.safetensors", "interface.json", "golden.safetensors", "manifest.json"]
)
def test_a_member_missing(members: Members, name: str) -> None:
    refused({key: data for key, data in members.items() if key != name}, name)


def test_code_and_signatures_are_foreign(members: Members) -> None:
    for name in ("run.py", "pre/run.py", "lib.so", "manifest.sig", "data.pkl"):
        refused(relisted({**members, name: b""}), name, "not allowed")


def test_damage_is_told_before_what_follows_from_it(members: Members) -> None:
    """A graph that no longer parses is damaged, not badly made."""
    refused({**members, "graph.pb": b"\xff" + members["graph.pb"][1:]}, "graph.pb", "SHA-256")


def test_changed_bytes_with_a_right_crc(members: Members) -> None:
    data = bytearray(members["weights.safetensors"])
    data[-1] ^= 1
    refused({**members, "weights.safetensors": bytes(data)}, "weights.safetensors", "SHA-256")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"format": "headrace"}',
        b"\xff",
        b"[" * 100_000,
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
    ],
)
def test_a_manifest_that_is_none(members: Members, text: bytes) -> None:
    refused({**members, "manifest.json": text}, "manifest.json")


def test_a_manifest_of_two_megabytes(members: Members) -> None:
    refused({**members, "manifest.json": members["manifest.json"] + b" " * (2 << 20)}, "manifest.json", "allowed")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "other"), ("format_version", "2.0"), ("format_version", "0.9"), ("format_version", "1"), ("format_version", 1), ("format_version", None),
        ("producer", 3), ("created", 3), ("opsets", []), ("opsets", {"": "28"}), ("operators", "Add"), ("operators", [1]), ("members", []),
        ("properties", {"a": 1}), ("golden", {}), ("golden", {"cases": -1, "rtol": 0, "atol": 0}), ("golden", {"cases": 1, "rtol": -1, "atol": 0}),
        ("golden", {"cases": True, "rtol": 0, "atol": 0}), ("golden", None), ("surplus", 1),
    ],
)  # fmt: skip
def test_manifest_fields(members: Members, key: str, value: object) -> None:
    refused(relisted(members, lambda document: document.update({key: value})))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"size": 1},
        {"size": "1", "sha256": "0" * 64},
        {"size": 1, "sha256": "0" * 63},
        {"size": 1, "sha256": "0" * 64, "x": 1},
        1,
    ],
)
def test_manifest_member_entries(members: Members, entry: object) -> None:
    refused(relisted(members, lambda document: document["members"].update({"graph.pb": entry})))


def test_a_newer_minor_version(members: Members) -> None:
    """Loads where its operators exist; is refused by naming those that do not."""
    newer = relisted(members, lambda document: document.update({"format_version": "1.7", "surplus": 1}))
    assert archive.open_program(container(newer)).properties["format_version"] == "1.7"
    unknown = relisted(
        members,
        lambda document: document.update({"format_version": "1.7", "operators": ["Add", "Frobnicate", "Mul", "Relu"]}),
    )
    with pytest.raises(UnsupportedOperator, match="Frobnicate"):
        archive.open_program(container(unknown))


def test_operators_must_be_those_of_the_graph(members: Members) -> None:
    refused(relisted(members, lambda document: document.update({"operators": ["Add"]})), "operators")


# Interface and golden data


def test_an_interface_that_lies(members: Members) -> None:
    document = json.loads(members["interface.json"])
    document["entries"]["main"]["inputs"][0]["shape"] = ["n", 33]
    refused(relisted({**members, "interface.json": json.dumps(document).encode()}), "interface.json")
    for text in (b"[]", b"{}", b'{"entries": 1}', b'{"entries": {"main": 1}}'):
        refused(relisted({**members, "interface.json": text}), "interface.json")


@pytest.mark.parametrize("cases", [0, 2])
def test_golden_case_counts(members: Members, cases: int) -> None:
    refused(relisted(members, lambda document: document["golden"].update({"cases": cases})))


@pytest.mark.parametrize("key", ["x", "0/other/x", "-1/inputs/x", "99/inputs/x", "0", "٣/inputs/x"])
def test_golden_names(key: str) -> None:
    data = b"".join(weights.encode({}, {key: '["float32",1]'}))
    with pytest.raises(LoadError):
        golden.decode(memoryview(data), 1, 0, 0)


@pytest.mark.parametrize(
    ("offsets", "size", "text"),
    [
        ([0, 5], 4, "[1]"),
        ([1, 4], 4, "[1]"),
        ([0, 3, 2, 4], 4, "[3]"),
        ([0, -1, 4], 4, "[2]"),
        ([0, 4], 4, "[2]"),
        ([0, 4], 4, "[-1]"),
        ([0, 4], 4, "[1, true]"),
    ],
)
def test_golden_string_offsets(offsets: list[int], size: int, text: str) -> None:
    arrays = {"0/inputs.offsets/s": np.array(offsets, np.int64), "0/inputs.bytes/s": np.zeros(size, np.uint8)}
    shape = json.loads(text)
    data = b"".join(weights.encode(arrays, {"0/inputs/s": json.dumps(["string", *shape])}))
    with pytest.raises(LoadError):
        golden.decode(memoryview(data), 1, 0, 0)


def test_golden_strings_that_are_no_text() -> None:
    arrays = {"0/inputs.offsets/s": np.array([0, 1], np.int64), "0/inputs.bytes/s": np.array([255], np.uint8)}
    data = b"".join(weights.encode(arrays, {"0/inputs/s": '["string",1]'}))
    with pytest.raises(LoadError, match="UTF-8"):
        golden.decode(memoryview(data), 1, 0, 0)


def test_manifest_round_trip() -> None:
    document = manifest.Manifest(
        {"a": manifest.Digest(1, "0" * 64)},
        "p",
        {"ai.onnx": 28},
        ["Add"],
        {"k": "é"},
        "2026",
        {"cases": 1, "rtol": 0.1, "atol": 0.0},
    )
    assert manifest.decode(memoryview(document.encode())) == document
    assert strict_json.read(b'{"a": [1, 2.5, null, "x"]}', "here") == {"a": [1, 2.5, None, "x"]}


def test_the_native_reader_of_containers_takes_what_the_other_one_takes(members: Members) -> None:
    """Both see the same members; a flipped, missing or further byte outside of them is for both none of an archive."""
    good = container(members)
    rows = _native.members_of(good)
    found, sums = zip_reader._listed(memoryview(good))
    assert {name: good[at : at + size] for name, at, size, _ in rows} == {n: bytes(view) for n, view in found.items()}
    assert {name: crc for name, _, _, crc in rows} == sums
    inside = {place for _, at, size, _ in rows for place in range(at, at + size)}
    outside = [place for place in range(len(good)) if place not in inside]
    for place in outside:
        for flip in (0x01, 0x20, 0x80):
            assert not _native.members_of(good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :]), place
    for wrong in good[:-1], good + b"\0", good[1:], b"", b"PK\5\6" + bytes(18), good[-22:], good[: len(good) // 2]:
        assert not _native.members_of(wrong)


@pytest.mark.parametrize(
    "names",
    [["a", "A"], ["b", "a"], ["a", "a"], [".a"], ["a/.b"], ["a//b"], ["/a"], ["a/"], ["a", "x" * 256]],
)
def test_the_native_reader_of_containers_takes_no_other_names(names: list[str]) -> None:
    plan = layout([Entry(name, 0, 0) for name in names])
    assert not _native.members_of(b"".join(plan.headers) + plan.tail)


def test_the_native_reader_of_containers_takes_allowed_names() -> None:
    names = ["A.b", "a-b/c.d_e", "x" * 255]
    plan = layout([Entry(name, 0, 0) for name in names])
    assert [row[0] for row in _native.members_of(b"".join(plan.headers) + plan.tail)] == names
