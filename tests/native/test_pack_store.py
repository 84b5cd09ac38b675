"""Packed constants in a store: filled by one program, read by others, with equal bits; a store from a descriptor is refused
where any number in it is wrong."""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from headrace.runtime import _native
from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError, LoadError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.lower import lower
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

rng = np.random.default_rng(5)
HEAD = struct.Struct("<8sQQQQQ")  # magic, file bytes, index at, count, checksum of the index, bytes of the key
ROW = struct.Struct("<QQQQ")  # kind, offset, bytes, checksum


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def integers(*shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape, np.int8)


def one_node(x: np.ndarray, node: str, *constants: np.ndarray, domain: str = "", **attributes: Any) -> Graph:
    """node(x, *constants)."""
    graph = Graph(Block([Value("x", TensorType(str(x.dtype), (symbol("n"), *x.shape[1:])))], [], []))
    build = Builder(graph)
    graph.outputs.extend(
        build.node(node, [graph.inputs[0], *map(build.constant, constants)], attributes, domain=domain)
    )
    return graph


def scalar(dtype: str, value: float) -> np.ndarray:
    return np.array(value, dtype)


def qconv(x: np.ndarray, w: np.ndarray, **attributes: Any) -> Graph:
    scales = scalar("float32", 0.1), scalar("uint8", 3), w, scalar("float32", 0.02), scalar("int8", 0)
    return one_node(x, "QLinearConv", *scales, scalar("float32", 0.5), scalar("uint8", 7), **attributes)


IMAGE, ROWS = floats(1, 32, 9, 9), floats(3, 200)
BYTES = rng.integers(0, 256, (1, 32, 9, 9), np.uint8)
CASES = {
    "MatMul": (ROWS, one_node(ROWS, "MatMul", floats(200, 130))),
    "MatMul of float64": (ROWS.astype("f8"), one_node(ROWS.astype("f8"), "MatMul", floats(200, 130).astype("f8"))),
    "Conv": (IMAGE, one_node(IMAGE, "Conv", floats(90, 32, 3, 3), floats(90), pads=[1, 1, 1, 1])),
    "ConvTranspose": (IMAGE, one_node(IMAGE, "ConvTranspose", floats(32, 90, 3, 3))),
    "MatMulInteger": (BYTES.reshape(-1, 9), one_node(BYTES.reshape(-1, 9), "MatMulInteger", integers(9, 9000))),
    "QLinearConv": (BYTES, qconv(BYTES, integers(250, 32, 3, 3))),
    "depthwise QLinearConv": (
        np.repeat(BYTES, 64, 1),
        qconv(np.repeat(BYTES, 64, 1), integers(2048, 1, 3, 3), group=2048),
    ),
}


def packed(graph: Graph, shared: bool = True) -> tuple[_native.PackStore, Any]:
    store = _native.PackStore("key", shared)
    program = lower(graph, 1, packing=_native.Packing(store))
    store.finish()
    return store, program


@pytest.fixture
def store() -> _native.PackStore:
    return packed(CASES["MatMul"][1])[0]


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_what_one_program_packed_others_read(name: str, shared: bool) -> None:
    x, graph = CASES[name]
    alone = lower(graph, 1).run({"x": x})
    store, first = packed(graph, shared)
    assert store.complete and store.blocks == 1 and store.size >= 64 << 10
    if shared:
        store = _native.PackStore.open(store.descriptor, "key", True)
    packing = _native.Packing(store)
    second = lower(graph, 1, packing=packing)
    assert packing.fits and packing.reused == store.size
    del store, packing
    for program in (first, second):
        found = program.run({"x": x})
        assert alone and found
        for key, array in alone.items():
            np.testing.assert_array_equal(found[key], array)


def test_blocks_of_many_sizes_are_what_they_are_alone() -> None:
    """They lie one behind the other, in regions that grow; small ones behind large ones, and beyond a region's end."""
    rng = np.random.default_rng(3)
    sizes = [130, 700, 130, 1500, 40, 900, 64, 2000, 300]
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), sizes[0])))], [], []))
    build, value = Builder(graph), graph.inputs[0]
    for rows, columns in itertools.pairwise(sizes):
        (value,) = build.node(
            "MatMul", [value, build.constant(rng.standard_normal((rows, columns), np.float32) / rows)]
        )
    graph.outputs.append(value)
    x = rng.standard_normal((3, sizes[0]), np.float32)
    (wanted,) = (lower(graph, 1).run({"x": x}) or {}).values()
    store, program = packed(graph, False)
    assert store.blocks == len(sizes) - 1
    np.testing.assert_array_equal(*(program.run({"x": x}) or {}).values(), wanted)
    descriptor = os.memfd_create("file")
    for piece in store.pieces():
        os.write(descriptor, piece)
    assert not store.mapped
    store.rest_in(descriptor)
    assert store.mapped
    np.testing.assert_array_equal(*(program.run({"x": x}) or {}).values(), wanted)
    os.close(descriptor)


def test_a_memfd_goes_when_its_blocks_rest_in_a_file(store: _native.PackStore, file: int) -> None:
    os.write(file, b"".join(store.pieces()))
    store.rest_in(file)
    assert store.descriptor == -1 and store.mapped
    assert b"".join(store.pieces()) == os.pread(file, os.fstat(file).st_size, 0)


def test_blocks_rest_only_in_a_file_that_has_them() -> None:
    store, _program = packed(CASES["MatMul"][1], False)
    descriptor = os.memfd_create("file")
    with pytest.raises(ValueError, match="the file has 0 bytes, and blocks end at"):
        store.rest_in(descriptor)
    os.write(descriptor, b"".join(store.pieces()))
    store.rest_in(descriptor)
    with pytest.raises(RuntimeError, match="only blocks in memory"):
        store.rest_in(descriptor)
    os.close(descriptor)


def test_small_constants_are_packed_again() -> None:
    store, _ = packed(one_node(floats(2, 8), "MatMul", floats(8, 8)))
    assert store.complete and store.blocks == 0


def test_a_program_outlives_its_store() -> None:
    x, graph = CASES["MatMul"]
    store, program = packed(graph)
    before = program.run({"x": x})
    del store
    after = program.run({"x": x})
    assert before and after
    np.testing.assert_array_equal(*before.values(), *after.values())


def test_blocks_of_another_program_are_not_used(store: _native.PackStore) -> None:
    x, graph = CASES["Conv"]
    packing = _native.Packing(store)
    program = lower(graph, 1, packing=packing)
    assert not packing.fits and packing.reused == 0
    found, wanted = program.run({"x": x}), lower(graph, 1).run({"x": x})
    assert found and wanted
    np.testing.assert_array_equal(*found.values(), *wanted.values())


def test_a_store_with_more_blocks_than_asked_for_does_not_fit(store: _native.PackStore) -> None:
    packing = _native.Packing(store)
    lower(one_node(floats(2, 8), "MatMul", floats(8, 8)), 1, packing=packing)
    assert not packing.fits


def test_a_memfd_is_sealed(store: _native.PackStore) -> None:
    seals = fcntl.fcntl(store.descriptor, fcntl.F_GET_SEALS)
    wanted = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert seals == wanted
    with pytest.raises(PermissionError):
        os.pwrite(store.descriptor, b"x", 0)


def test_pieces_are_the_bytes_of_the_memfd(store: _native.PackStore) -> None:
    size = os.fstat(store.descriptor).st_size
    assert b"".join(store.pieces()) == os.pread(store.descriptor, size, 0)


def written(store: _native.PackStore, file: int) -> bytearray:
    return bytearray(b"".join(store.pieces()))


def refused(file: int, data: bytes, why: str, key: str = "key") -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, data, 0)
    with pytest.raises(ValueError, match=why):
        _native.PackStore.open(file, key, True)


def test_damage_is_refused(store: _native.PackStore, file: int) -> None:
    data = written(store, file)
    _, size, index, count, _, _ = HEAD.unpack_from(data)
    assert (size, count) == (len(data), 1) and index == size - ROW.size
    _, offset, length, _ = ROW.unpack_from(data, index)
    for at in (offset, offset + length // 2, offset + length - 1):
        data[at] ^= 1
        refused(file, data, "block 0 is damaged")
        data[at] ^= 1
    for at in range(index, size):
        data[at] ^= 0x80
        refused(file, data, "its index is damaged")
        data[at] ^= 0x80
    refused(file, data, "another archive", key="other")
    refused(file, b"", "no file of packed constants")
    refused(file, data[:100], "no file of packed constants")
    refused(file, data[:-1], "was written with")
    refused(file, data + b"x", "was written with")
    refused(file, b"x" + data[1:], "does not begin")
    os.pwrite(file, data, 0)
    os.ftruncate(file, len(data))
    assert _native.PackStore.open(file, "key", True).blocks == 1


@pytest.mark.parametrize(
    "position, value, why",
    [
        (16, 0, "index"),  # index at
        (16, (1 << 64) - 1, "index"),
        (24, 0, "index"),  # count
        (24, 1 << 62, "index"),
        (24, (1 << 59) + 1, "index"),  # times 32 is 32 again
        (40, 0, "another archive"),  # bytes of the key
        (40, (1 << 64) - 1, "another archive"),
    ],
)
def test_numbers_that_lie_are_refused(store: _native.PackStore, file: int, position: int, value: int, why: str) -> None:
    data = written(store, file)
    struct.pack_into("<Q", data, position, value)
    refused(file, data, why)


@pytest.mark.parametrize("offset", [0, 4095, 4097, 1 << 40, (1 << 64) - 4096])
@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1, None])
def test_blocks_lie_inside_the_file(store: _native.PackStore, file: int, offset: int, length: int | None) -> None:
    """An index with a right checksum, as only who means harm writes it."""
    data = written(store, file)
    index = HEAD.unpack_from(data)[2]
    kind, _, size, total = ROW.unpack_from(data, index)
    ROW.pack_into(data, index, kind, offset, size if length is None else length, total)
    struct.pack_into("<Q", data, 32, checksum(bytes(data[index:])))
    refused(file, data, "block 0 is not inside it")


def checksum(data: bytes) -> int:
    """`checksum` of native/pack_store.cpp."""

    def mixed(one: int, word: int) -> int:
        product = (one ^ word) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        return (product << 29 | product >> 35) & (1 << 64) - 1

    lanes = list(range(1, 9))
    whole = len(data) // 64 * 64
    for at in range(0, whole, 64):
        lanes = [mixed(one, word) for one, word in zip(lanes, struct.unpack_from("<8Q", data, at))]
    total = len(data)
    for byte in data[whole:]:
        total = mixed(total, byte)
    for one in lanes:
        total = mixed(total, one)
    return total


def of_three(*weights: np.ndarray) -> Graph:
    """Three products one after the other: the first alone is worth a thread that makes kernels."""
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), 300)))], [], []))
    build, value = Builder(graph), graph.inputs[0]
    for weight in weights:
        (value,) = build.node("MatMul", [value, build.constant(weight)])
    graph.outputs.append(value)
    return graph


WEIGHTS = floats(300, 300), floats(300, 310), floats(310, 320)


@pytest.mark.parametrize("processors", ["one", "several"])
def test_kernels_that_a_thread_makes_are_those_of_a_program_without_a_store(processors: str) -> None:
    allowed, x = os.sched_getaffinity(0), floats(5, 300)
    graph = of_three(*WEIGHTS)
    alone = lower(graph, 1)
    expected = alone.run({"x": x})
    if processors == "one":
        os.sched_setaffinity(0, {min(allowed)})
    try:
        for _ in range(5):
            store, program = packed(graph, False)
            found = program.run({"x": x})
            assert found and expected
            np.testing.assert_array_equal(*found.values(), *expected.values())
            assert store.blocks == 3 and program.nodes() == alone.nodes()
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("stored", [False, True])
def test_a_node_that_nothing_runs_and_one_whose_kernel_fails_are_told(stored: bool) -> None:
    def lowered(graph: Graph) -> _native.Program:
        packing = _native.Packing(_native.PackStore("key", False)) if stored else None
        return lower(graph, 1, machine=False, packing=packing)

    graph = of_three(*WEIGHTS)
    graph.block.nodes[2].operator, graph.block.nodes[2].domain = "Nothing", "headrace.cpu"
    with pytest.raises(LoadError, match=r"headrace\.cpu\.Nothing.*this CPU has no kernel for it"):
        lowered(graph)
    graph.block.nodes[1].operator, graph.block.nodes[1].domain = "FusedMatMul", "headrace"
    graph.block.nodes[1].attributes["alpha"] = "two"
    with pytest.raises(ValueError, match="'alpha' must be a number"):
        lowered(graph)


def test_a_lowering_that_fails_waits_for_its_thread() -> None:
    graph = of_three(*WEIGHTS)
    graph.block.nodes[2].inputs[0] = Value("nobody", TensorType("float32", (symbol("n"), 310)))
    for _ in range(5):
        with pytest.raises(GraphError, match="before anything computes it"):
            lower(graph, 1, machine=False, packing=_native.Packing(_native.PackStore("key", False)))
