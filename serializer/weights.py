"""Arrays by name in the safetensors format, read as views of the bytes they are in.

    8 bytes: length of the header | header: JSON name -> dtype, shape, data_offsets | data

The reader's rules: the header has at most 1 MiB; every size is computed in Python integers and equals its bytes; the
tensors, sorted, cover the data without a gap or an overlap. Element types that the format lacks (int4, ...) are stored
as rows of bytes, packed where they are narrower than a byte; who stores them keeps the type (`logical`).
Source: the format's README (huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.dtypes import DType
from headrace.runtime.errors import HeadraceError, LoadError
from headrace.serializer import strict_json

HEADER_LIMIT = 1 << 20
MAX_RANK = 32
ALIGNMENT = 64

CODES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "complex64": "C64",
}  # fmt: skip
_DTYPES = {code: dtypes.BY_NAME[name] for name, code in CODES.items()}


def encode(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None, *, header_limit: int = HEADER_LIMIT
) -> list[memoryview]:
    """The file as a list of buffers, whose bytes depend on names and contents only. Large arrays begin at multiples of
    64 bytes, all at multiples of their element size. Raises HeadraceError for arrays of strings or objects."""
    stored = {name: as_stored(array, name) for name, array in arrays.items()}
    order = sorted(stored, key=lambda name: (stored[name].nbytes % ALIGNMENT != 0, -stored[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in order:
        array = stored[name]
        header[name] = {
            "dtype": CODES[dtypes.of(array).name],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > header_limit:
        raise HeadraceError(f"{len(order)} arrays need a header of {len(text)} bytes; allowed are {header_limit}")
    return [memoryview(struct.pack("<Q", len(text)) + text), *(_bytes_of(stored[name]) for name in order)]


def as_stored(array: np.ndarray, name: str = "") -> np.ndarray:
    """The array that stands in the file for `array`: itself, or its bytes where the format has no such type."""
    dtype = dtypes.of(array)
    if dtype.kind == "s":
        raise HeadraceError(f"array {name!r} holds strings; allowed are numbers")
    array = np.ascontiguousarray(array).reshape(array.shape)
    if dtype.name in CODES:
        return array
    if dtype.bits < 8:
        return pack(array, dtype)
    return array.reshape(-1).view(np.uint8)


def logical(array: np.ndarray, dtype: DType, shape: tuple[int, ...], where: str) -> np.ndarray:
    """What `as_stored` stored, as an array of `dtype` and `shape`: a view, except that narrow types are unpacked."""
    count = math.prod(shape)
    if dtype.name in CODES:
        found, need = (array.dtype, array.shape), (dtype.numpy, shape)
    else:
        found, need = (array.dtype, array.shape), (np.dtype(np.uint8), ((count * dtype.bits + 7) // 8,))
    if found != need:
        raise LoadError(
            f"{where}: stored as {found[0]}{list(found[1])}, but {dtype}{list(shape)} needs {need[0]}{list(need[1])}"
        )
    if dtype.name in CODES:
        return array
    return (unpack(array, dtype, count) if dtype.bits < 8 else array.view(dtype.numpy)).reshape(shape)


def pack(array: np.ndarray, dtype: DType) -> np.ndarray:
    """A 2- or 4-bit array as bytes, first element in the low bits."""
    per_byte = 8 // dtype.bits
    fields = array.reshape(-1).view(np.uint8) & np.uint8((1 << dtype.bits) - 1)
    padded = np.zeros(-(-fields.size // per_byte) * per_byte, np.uint8)
    padded[: fields.size] = fields
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(dtype.bits)
    return np.asarray(np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1))


def unpack(packed: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """`count` elements of a 2- or 4-bit type out of packed bytes."""
    shifts = np.arange(8 // dtype.bits, dtype=np.uint8) * np.uint8(dtype.bits)
    fields = (packed[:, None] >> shifts) & np.uint8((1 << dtype.bits) - 1)
    found: np.ndarray = fields.reshape(-1)[:count].view(dtype.numpy)
    return found


def decode(
    data: memoryview, where: str = "the file", *, header_limit: int = HEADER_LIMIT
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays (read-only views of `data`, in the order of the file) and metadata. Raises LoadError naming `where`."""
    size = len(data)
    if size < 8:
        raise LoadError(f"{where}: {size} bytes are no safetensors file")
    (length,) = struct.unpack("<Q", data[:8])
    if not length <= min(header_limit, size - 8):
        raise LoadError(f"{where}: the header claims {length} bytes; allowed are {min(header_limit, size - 8)}")
    header = strict_json.read(data[8 : 8 + length], f"{where}, header", header_limit)
    if not isinstance(header, dict):
        raise LoadError(f"{where}: the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LoadError(f"{where}: __metadata__ must map names to texts")
    body = np.frombuffer(data, np.uint8)[8 + length :]
    body.flags.writeable = False  # and so is every view of it
    address = body.__array_interface__["data"][0]
    entries = sorted((_entry(name, item, where) for name, item in header.items()), key=lambda entry: entry[3])
    _check_cover([(name, span) for name, _, _, span in entries], len(body), where)
    return {
        name: _view(body[start:end], dtype, shape, (address + start) % dtype.itemsize == 0)
        for name, dtype, shape, (start, end) in entries
    }, metadata


def _entry(name: str, item: object, where: str) -> tuple[str, DType, tuple[int, ...], tuple[int, int]]:
    """Dtype, shape and span of one tensor, the span proven to be what dtype and shape need."""
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise LoadError(f"{where}: tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype = _DTYPES.get(item["dtype"]) if isinstance(item["dtype"], str) else None
    if dtype is None:
        raise LoadError(
            f"{where}: tensor {name!r} has the dtype {str(item['dtype'])[:40]!r}; allowed: {', '.join(_DTYPES)}"
        )
    shape, span = _numbers(item["shape"], name, where), _numbers(item["data_offsets"], name, where)
    if len(shape) > MAX_RANK or len(span) != 2:
        raise LoadError(f"{where}: tensor {name!r} needs at most {MAX_RANK} dimensions and exactly 2 offsets")
    need = math.prod(shape) * dtype.itemsize
    if span[1] - span[0] != need:
        raise LoadError(f"{where}: tensor {name!r} has {span[1] - span[0]} bytes; {dtype}{list(shape)} needs {need}")
    return name, dtype, shape, (span[0], span[1])


def _numbers(value: object, name: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(number) is int and number >= 0 for number in value):
        raise LoadError(f"{where}: shape and data_offsets of tensor {name!r} must be lists of integers >= 0")
    return tuple(value)


def _check_cover(spans: Iterable[tuple[str, tuple[int, int]]], size: int, where: str) -> None:
    """The sorted spans must cover 0..size exactly."""
    position = 0
    for name, (start, end) in spans:
        if start != position:
            raise LoadError(f"{where}: tensor {name!r} begins at {start}, but the one before it ends at {position}")
        position = end
    if position != size:
        raise LoadError(f"{where}: the tensors cover {position} bytes of {size}")


def _view(data: np.ndarray, dtype: DType, shape: tuple[int, ...], aligned: bool) -> np.ndarray:
    if dtype.name == "bool":
        return np.asarray(data != 0).reshape(shape)  # a byte of 2 would be a third truth value
    if not aligned and data.size:
        data = data.copy()  # a foreign file need not align its data
        data.flags.writeable = False
    return data.view(dtype.numpy).reshape(shape)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
