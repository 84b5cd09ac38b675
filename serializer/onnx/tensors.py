"""TensorProto <-> NumPy arrays, every element type of ONNX, sizes checked before anything is allocated.

Types narrower than a byte are packed in the file (first element in the low bits) and one element per byte here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.dtypes import DType
from headrace.runtime.errors import LoadError
from headrace.serializer.onnx.external import ExternalData
from headrace.serializer.weights import pack, unpack

MAX_RANK = 32
# A sparse tensor may say little and mean much; what all of a file's sparse tensors may become, in bytes.
SPARSE_LIMIT = 64 << 20

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
# Which repeated field holds the elements of a type that is not given as raw bytes (onnx.proto, TensorProto).
_FIELDS = {
    "float32": "float_data",
    "complex64": "float_data",
    "float64": "double_data",
    "complex128": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
    "string": "string_data",
}
_DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def element_type(code: int, where: str) -> DType:
    """The dtype behind a TensorProto.DataType code. Raises LoadError for codes that stand for nothing."""
    if code not in dtypes.BY_ONNX:
        raise LoadError(
            f"{where}: element type {code} is unknown; allowed: {', '.join(f'{row.onnx} ({row.name})' for row in dtypes.TABLE)}"
        )
    return dtypes.BY_ONNX[code]


def read_tensor(proto: Any, external: ExternalData, where: str) -> np.ndarray:
    """The array of a TensorProto; read-only where it is a view. Raises LoadError naming `where`."""
    dtype = element_type(proto.data_type, where)
    shape = _dims(proto.dims, where)
    count = math.prod(shape)
    used = [name for name in _DATA_FIELDS if len(getattr(proto, name))]
    raw, outside = proto.HasField("raw_data"), proto.data_location == _EXTERNAL
    if len(used) + raw + outside > 1:
        raise LoadError(
            f"{where}: elements are given in more than one place: {', '.join(used + ['raw_data'] * raw + ['external_data'] * outside)}"
        )
    if proto.HasField("segment"):
        raise LoadError(f"{where}: segmented tensors are not supported")
    if raw or outside:
        if dtype.kind == "s":
            raise LoadError(f"{where}: strings cannot be raw or external data")
        size = (count * dtype.bits + 7) // 8
        data = external.read(proto.external_data, size, where) if outside else external.raw(proto.raw_data)
        return _from_bytes(data, dtype, shape, where)
    field = _FIELDS.get(dtype.name, "int32_data")
    if used and used[0] != field:
        raise LoadError(f"{where}: elements of {dtype} belong in {field}, not in {used[0]}")
    return _from_field(getattr(proto, field), dtype, shape, where)


def _dims(dims: Any, where: str) -> tuple[int, ...]:
    shape = tuple(dims)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise LoadError(f"{where}: dims {list(shape[: MAX_RANK + 1])} must be at most {MAX_RANK} numbers >= 0")
    return shape


def _from_bytes(data: memoryview, dtype: DType, shape: tuple[int, ...], where: str) -> np.ndarray:
    count = math.prod(shape)
    size = (count * dtype.bits + 7) // 8
    if len(data) != size:
        raise LoadError(f"{where}: {len(data)} bytes of data, but {dtype} with dims {list(shape)} needs {size}")
    if dtype.bits < 8:
        return unpack(np.frombuffer(data, np.uint8), dtype, count).reshape(shape)
    if dtype.name == "bool":
        return np.asarray(np.frombuffer(data, np.uint8) != 0).reshape(shape)
    array = np.frombuffer(data, np.uint8)
    if array.ctypes.data % dtype.itemsize:
        array = array.copy()  # kernels read aligned elements only
    return array.view(dtype.numpy).reshape(shape)


def _from_field(values: Any, dtype: DType, shape: tuple[int, ...], where: str) -> np.ndarray:
    count = math.prod(shape)
    expected = count * 2 if dtype.kind == "c" else (count * dtype.bits + 7) // 8 if dtype.bits in (2, 4) else count
    if len(values) != expected:
        raise LoadError(
            f"{where}: {len(values)} elements of data, but {dtype} with dims {list(shape)} needs {expected}"
        )
    if dtype.kind == "s":
        return _strings(values, where).reshape(shape)
    if dtype.kind == "c":
        half = np.float32 if dtype.name == "complex64" else np.float64
        return np.array(values, half).view(dtype.numpy).reshape(shape)
    if _FIELDS.get(dtype.name) is not None:
        return np.array(values, dtype.numpy).reshape(shape)
    plain = np.array(values, np.int32)
    if dtype.name == "bool":
        return np.asarray(plain != 0).reshape(shape)
    low, high = _plain_range(dtype)
    if plain.size and not (low <= plain.min() and plain.max() <= high):
        raise LoadError(f"{where}: an element lies outside {dtype}: allowed are {low} to {high}")
    if dtype.bits in (2, 4):
        return unpack(plain.astype(np.uint8), dtype, count).reshape(shape)
    if dtype.kind in "iu":
        return plain.astype(dtype.numpy).reshape(shape)
    # float16, bfloat16 and float8 stand there as the integer with the same bits
    return plain.astype(f"u{dtype.itemsize}").view(dtype.numpy).reshape(shape)


def _plain_range(dtype: DType) -> tuple[int, int]:
    """What one entry of int32_data may be."""
    if dtype.kind == "i" and dtype.bits >= 8:
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    if dtype.bits < 8:
        return -128, 255  # writers disagree on the sign of a packed byte
    return 0, (1 << dtype.bits) - 1


def _strings(values: Any, where: str) -> np.ndarray:
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        try:
            array[index] = value.decode()
        except UnicodeDecodeError:
            raise LoadError(f"{where}: string {index} is not UTF-8") from None
    return array


def read_sparse(
    proto: Any, external: ExternalData, where: str, spend: Callable[[int], None] | None = None
) -> np.ndarray:
    """A SparseTensorProto as a dense array. `spend(bytes)` is asked before anything is allocated."""
    shape = _dims(proto.dims, where)
    values = read_tensor(proto.values, external, where)
    indices = read_tensor(proto.indices, external, where)
    dtype, count = dtypes.of(values), math.prod(shape)
    size = count * max(dtype.itemsize, 8 if dtype.kind == "s" else 1)
    if size > SPARSE_LIMIT:
        raise LoadError(
            f"{where}: a sparse tensor with dims {list(shape)} is {size} bytes dense; allowed are {SPARSE_LIMIT}"
        )
    if spend is not None:
        spend(size)
    if (
        values.ndim != 1
        or indices.dtype != np.int64
        or indices.shape not in ((values.size,), (values.size, len(shape)))
    ):
        raise LoadError(
            f"{where}: sparse values {list(values.shape)} and int64 indices {list(indices.shape)} do not fit dims {list(shape)}"
        )
    limits = np.array([count] if indices.ndim == 1 else shape, np.int64)
    rows = indices.reshape(values.size, -1)
    if ((rows < 0) | (rows >= limits)).any():
        raise LoadError(f"{where}: a sparse index lies outside dims {list(shape)}")
    dense = np.full(shape, "", object) if dtype.kind == "s" else np.zeros(shape, dtype.numpy)
    flat = (
        indices
        if indices.ndim == 1
        else np.ravel_multi_index(tuple(indices.T), shape)
        if values.size
        else indices.reshape(-1)
    )
    dense.reshape(-1)[flat] = values
    return dense


def write_tensor(array: np.ndarray, name: str = "") -> Any:
    """The TensorProto of an array: raw bytes, strings as string_data."""
    import onnx

    dtype = dtypes.of(array)
    proto = onnx.TensorProto(name=name, data_type=dtype.onnx, dims=array.shape)
    if dtype.kind == "s":
        proto.string_data.extend(
            value if isinstance(value, bytes) else str(value).encode() for value in array.reshape(-1)
        )
    elif dtype.bits < 8:
        proto.raw_data = pack(np.ascontiguousarray(array), dtype).tobytes()
    else:
        proto.raw_data = np.ascontiguousarray(array).tobytes()
    return proto
