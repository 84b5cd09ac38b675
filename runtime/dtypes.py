"""Element types: one table for names, NumPy types, ONNX codes and sizes.

A dtype is named by its NumPy-like name ("float32", "bfloat16", "string"). Types narrower than a byte are held one
element per byte in memory, as `ml_dtypes` arrays are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class DType:
    """One element type. `onnx` is the code of TensorProto.DataType; `bits` the logical width."""

    name: str
    onnx: int
    numpy: np.dtype
    bits: int
    kind: str  # 'f' float, 'i' signed, 'u' unsigned, 'b' bool, 's' string, 'c' complex

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory (0 for strings)."""
        return 0 if self.kind == "s" else self.numpy.itemsize

    def __str__(self) -> str:
        return self.name


def _row(name: str, onnx: int, numpy: object, bits: int, kind: str) -> DType:
    return DType(name, onnx, np.dtype(numpy), bits, kind)  # type: ignore[call-overload]


TABLE: tuple[DType, ...] = (
    _row("float32", 1, np.float32, 32, "f"),
    _row("uint8", 2, np.uint8, 8, "u"),
    _row("int8", 3, np.int8, 8, "i"),
    _row("uint16", 4, np.uint16, 16, "u"),
    _row("int16", 5, np.int16, 16, "i"),
    _row("int32", 6, np.int32, 32, "i"),
    _row("int64", 7, np.int64, 64, "i"),
    _row("string", 8, object, 0, "s"),
    _row("bool", 9, np.bool_, 8, "b"),
    _row("float16", 10, np.float16, 16, "f"),
    _row("float64", 11, np.float64, 64, "f"),
    _row("uint32", 12, np.uint32, 32, "u"),
    _row("uint64", 13, np.uint64, 64, "u"),
    _row("complex64", 14, np.complex64, 64, "c"),
    _row("complex128", 15, np.complex128, 128, "c"),
    _row("bfloat16", 16, ml_dtypes.bfloat16, 16, "f"),
    _row("float8_e4m3fn", 17, ml_dtypes.float8_e4m3fn, 8, "f"),
    _row("float8_e4m3fnuz", 18, ml_dtypes.float8_e4m3fnuz, 8, "f"),
    _row("float8_e5m2", 19, ml_dtypes.float8_e5m2, 8, "f"),
    _row("float8_e5m2fnuz", 20, ml_dtypes.float8_e5m2fnuz, 8, "f"),
    _row("uint4", 21, ml_dtypes.uint4, 4, "u"),
    _row("int4", 22, ml_dtypes.int4, 4, "i"),
    _row("float4_e2m1fn", 23, ml_dtypes.float4_e2m1fn, 4, "f"),
    _row("float8_e8m0fnu", 24, ml_dtypes.float8_e8m0fnu, 8, "f"),
    _row("uint2", 25, ml_dtypes.uint2, 2, "u"),
    _row("int2", 26, ml_dtypes.int2, 2, "i"),
)
BY_NAME = {row.name: row for row in TABLE}
BY_ONNX = {row.onnx: row for row in TABLE}

FLOAT = frozenset({"float32", "float64", "float16", "bfloat16"})
COMPLEX = frozenset({"complex64", "complex128"})
FLOAT8 = frozenset(row.name for row in TABLE if row.name.startswith("float8"))
SIGNED = frozenset({"int8", "int16", "int32", "int64"})
UNSIGNED = frozenset({"uint8", "uint16", "uint32", "uint64"})
INTEGER = SIGNED | UNSIGNED
NUMERIC = FLOAT | INTEGER
ANY = frozenset(BY_NAME)


@cache
def _by_numpy(dtype: np.dtype) -> DType:
    if dtype.kind in "OUST":
        return BY_NAME["string"]
    for row in TABLE:
        if row.numpy == dtype:
            return row
    raise TypeError(f"no element type for NumPy's {dtype}; allowed: {', '.join(BY_NAME)}")


def of(value: object) -> DType:
    """The element type of an array, a NumPy dtype or type, or a name. Raises TypeError for what has none."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in BY_NAME:
        return BY_NAME[value]
    if isinstance(value, np.ndarray | np.generic):
        return _by_numpy(value.dtype)
    return _by_numpy(np.dtype(value))  # type: ignore[call-overload]
