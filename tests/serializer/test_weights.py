"""safetensors: what the library writes and reads, and one attack per rule."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from serializer_graphs import every_array, same

from headrace.runtime import dtypes
from headrace.runtime.errors import HeadraceError, LoadError
from headrace.serializer import weights

LIBRARY_TYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
]


def encoded(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    return b"".join(weights.encode(arrays, metadata))


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from(LIBRARY_TYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_the_library_reads_ours_and_we_read_its(parts: dict[str, tuple[str, list[int]]]) -> None:
    parts = {name: part for name, part in parts.items() if name != "__metadata__" and "\ud800" not in name}
    arrays = {
        name: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        for name, (dtype, shape) in parts.items()
    }
    theirs = safetensors.numpy.load(encoded(arrays))
    ours, _ = weights.decode(memoryview(safetensors.numpy.save(arrays)))
    for name, array in arrays.items():
        assert same(theirs[name], array) and same(ours[name], array)
    assert theirs.keys() == ours.keys() == arrays.keys()


def test_every_type_and_metadata_round_trip() -> None:
    arrays = {name: array for name, array in every_array().items() if name != "string"}
    stored, metadata = weights.decode(memoryview(encoded(arrays, {"k": "é"})))
    assert metadata == {"k": "é"}
    for name, array in arrays.items():
        assert same(weights.logical(stored[name], dtypes.of(array), array.shape, name), array), name


def test_four_bits_take_four_bits() -> None:
    array = np.zeros((1000, 10), dtypes.BY_NAME["int4"].numpy)
    assert weights.as_stored(array).nbytes == 5000


def test_large_arrays_are_aligned() -> None:
    arrays = {
        "a": np.zeros(3, np.uint8),
        "b": np.zeros(64, np.float64),
        "c": np.zeros(5, np.float32),
        "d": np.zeros((16, 16), np.int8),
    }
    data = encoded(arrays)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for name, array in arrays.items():
        offset = header[name]["data_offsets"][0]
        assert offset % (64 if array.nbytes % 64 == 0 else array.itemsize) == 0


def test_bool_bytes_become_true_or_false() -> None:
    data = bytearray(encoded({"b": np.array([True, False])}))
    data[-2:] = b"\x07\x00"
    assert weights.decode(memoryview(bytes(data)))[0]["b"].tobytes() == b"\x01\x00"


def test_strings_are_refused() -> None:
    with pytest.raises(HeadraceError, match="strings"):
        weights.encode({"s": np.array(["a"], object)})


def raw(header: object, body: bytes = b"", length: int | None = None) -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(struct.pack("<Q", len(text) if length is None else length) + text + body)


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        memoryview(b""), memoryview(b"1234567"), raw(b"{}", length=3), raw(b"{}", length=1 << 62), raw(b"{}", length=(1 << 64) - 1),
        raw(b"[]"), raw(b"null"), raw(b"{"), raw(b"\xff\xfe"), raw(b'{"a":{},"a":{}}'), raw(b"[" * 5000),
        raw({}, b"x"), raw({"a": 1}), raw({"a": {}}), raw({"a": {**entry(), "x": 1}}, bytes(4)),
        raw({"a": entry("F31")}, bytes(4)), raw({"a": entry(["F32"])}, bytes(4)), raw({"a": entry(3)}, bytes(4)),
        raw({"a": entry(shape=[-1])}, bytes(4)), raw({"a": entry(shape=[True])}, bytes(4)), raw({"a": entry(shape=[1.0])}, bytes(4)), raw({"a": entry(shape=1)}, bytes(4)),
        raw({"a": entry(shape=[1] * 33)}, bytes(4)), raw({"a": entry(shape=[1 << 62, 4, 1 << 62])}, bytes(4)), raw({"a": entry(shape=[2])}, bytes(4)),
        raw({"a": entry(offsets=[0])}, bytes(4)), raw({"a": entry(offsets=[4, 0])}, bytes(4)), raw({"a": entry(offsets=[-4, 0])}, bytes(4)), raw({"a": entry(offsets=["0", "4"])}, bytes(4)),
        raw({"a": entry()}, bytes(3)), raw({"a": entry()}, bytes(5)), raw({"a": entry(offsets=[1, 5])}, bytes(5)),
        raw({"a": entry(), "b": entry()}, bytes(8)), raw({"a": entry(), "b": entry(offsets=[2, 6])}, bytes(8)), raw({"a": entry(), "b": entry(offsets=[5, 9])}, bytes(9)),
        raw({"a": entry(shape=[0], offsets=[2, 2]), "b": entry()}, bytes(4)),
        raw({"__metadata__": {"a": 1}}), raw({"__metadata__": []}),
    ],
)  # fmt: skip
def test_attacks(data: memoryview) -> None:
    with pytest.raises(LoadError):
        weights.decode(data)


def test_the_header_is_bounded() -> None:
    text = b"{}" + b" " * weights.HEADER_LIMIT
    with pytest.raises(LoadError, match="header"):
        weights.decode(raw(text))


@pytest.mark.parametrize(
    ("name", "shape", "stored"),
    [
        ("float32", (2,), np.zeros(3, np.float32)),
        ("int4", (3,), np.zeros(3, np.uint8)),
        ("int4", (3,), np.zeros(2, np.int8)),
        ("complex128", (1,), np.zeros(15, np.uint8)),
    ],
)
def test_a_logical_type_must_fit(name: str, shape: tuple[int, ...], stored: np.ndarray) -> None:
    with pytest.raises(LoadError):
        weights.logical(stored, dtypes.BY_NAME[name], shape, "here")
