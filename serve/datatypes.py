"""Open Inference Protocol datatypes, their NumPy dtypes and wire sizes, and the BYTES codec.

The raw form is row-major, unpadded, little-endian; a BYTES element is a uint32 length and then that many bytes.
"""

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Buffer = bytes | bytearray | memoryview
Array = np.ndarray[Any, np.dtype[Any]]

if sys.byteorder != "little":  # the raw form is then not the memory of the arrays
    raise ImportError("headrace.serve needs a little-endian machine")


@dataclass(frozen=True, slots=True)
class Datatype:
    """One wire datatype. `size` is bytes an element (0 for BYTES), `field` its typed field in InferTensorContents."""

    name: str
    dtype: np.dtype[Any]
    size: int
    field: str | None
    config: str


def _row(name: str, dtype: Any, field: str | None, config: str | None = None) -> Datatype:
    kind = np.dtype(dtype)
    return Datatype(name, kind, 0 if kind.kind == "O" else kind.itemsize, field, config or f"TYPE_{name}")


_TABLE = (
    _row("BOOL", np.bool_, "bool_contents"),
    _row("UINT8", np.uint8, "uint_contents"),
    _row("UINT16", np.uint16, "uint_contents"),
    _row("UINT32", np.uint32, "uint_contents"),
    _row("UINT64", np.uint64, "uint64_contents"),
    _row("INT8", np.int8, "int_contents"),
    _row("INT16", np.int16, "int_contents"),
    _row("INT32", np.int32, "int_contents"),
    _row("INT64", np.int64, "int64_contents"),
    _row("FP16", np.float16, None),
    _row("FP32", np.float32, "fp32_contents"),
    _row("FP64", np.float64, "fp64_contents"),
    _row("BF16", ml_dtypes.bfloat16, None),
    _row("BYTES", object, "bytes_contents", "TYPE_STRING"),
)

DATATYPES: dict[str, Datatype] = {row.name: row for row in _TABLE}
_BY_DTYPE: dict[str, Datatype] = {row.dtype.name: row for row in _TABLE} | {
    "string": DATATYPES["BYTES"],
    "object": DATATYPES["BYTES"],
}


def of_dtype(name: str) -> Datatype:
    """The wire datatype of a NumPy-like dtype name ("float32", "bfloat16", "string"); KeyError when it has none."""
    return _BY_DTYPE[name]


def of_array(array: Array) -> Datatype:
    """The wire datatype of an array; unicode and bytes arrays are BYTES. KeyError when it has none."""
    return DATATYPES["BYTES"] if array.dtype.kind in "OSU" else _BY_DTYPE[array.dtype.name]


def decode_bytes(data: Buffer, count: int) -> Array:
    """`count` BYTES elements of the raw form as a flat object array of bytes. ValueError unless `data` is consumed."""
    if count * 4 > len(data):
        raise ValueError(f"{count} elements need at least {count * 4} bytes, got {len(data)}")
    view = memoryview(data)
    out = np.empty(count, dtype=object)
    unpack, at, end = struct.Struct("<I").unpack_from, 0, len(view)
    for i in range(count):
        if at + 4 > end:
            raise ValueError(f"element {i} has no room for its length")
        start = at + 4
        at = start + unpack(view, at)[0]
        if at > end:
            raise ValueError(f"element {i} claims {at - start} bytes, {end - start} are left")
        out[i] = bytes(view[start:at])
    if at != end:
        raise ValueError(f"{end - at} bytes are left after {count} elements")
    return out


def encode_bytes(elements: Iterable[Any]) -> bytes:
    """The raw form of BYTES elements; text becomes UTF-8. TypeError for anything but str and bytes."""
    pack = struct.Struct("<I").pack
    parts: list[bytes] = []
    for element in elements:
        if isinstance(element, str):
            element = element.encode("utf-8")
        elif not isinstance(element, (bytes, bytearray)):
            raise TypeError(f"a BYTES element must be str or bytes, not {type(element).__name__}")
        parts += (pack(len(element)), element)
    return b"".join(parts)


def to_wire(array: Array) -> Buffer:
    """The raw form of an array: a view of its memory where it is contiguous, an encoding for BYTES."""
    if array.dtype.kind in "OSU":
        return encode_bytes(array.ravel().tolist())
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
