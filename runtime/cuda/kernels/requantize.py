"""The epilogue of integer products (csrc/requantize.cuh), and what the host prepares for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.cuda.interface import Array
from headrace.runtime.cuda.kernels._launch import structure
from headrace.runtime.cuda.sources import codes

EPILOGUE = np.dtype(
    [
        (name, np.uint64)
        for name in ("col", "w_zero", "row_sum", "row_shift", "col_sum", "scale", "bias", "row_scale", "r")
    ]
    + [("ldr", np.int64)]
    + [(name, np.float32) for name in ("r_scale", "lo", "hi", "a", "b")]
    + [(name, np.int32) for name in ("r_signed", "r_zero", "zero", "function", "out")]
)
OUT = {"int32": "out_s32", "float32": "out_f32", "uint8": "out_u8", "int8": "out_s8"}


def level_bounds(dtype: str, zero: int, lo: float, hi: float) -> tuple[np.float32, np.float32]:
    """lo and hi, for uint8 and int8 within the levels that the type holds."""
    low, high = np.float32(lo), np.float32(hi)
    if dtype in ("uint8", "int8"):
        bounds = np.iinfo(dtype)
        least, most = np.float32(bounds.min - zero), np.float32(bounds.max - zero)
        low, high = min(max(low, least), most), max(min(high, most), least)
    return low, high


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the sums. Addresses (0: absent) of vectors: `col`, `w_zero`, `col_sum` int32 [n], `scale`, `bias`
    float32 [n], `row_sum`, `row_shift` int32 [m], `row_scale` float32 [m]; `r` [m, ldr], the residual, uint8 or int8.

    v = sum + col - w_zero * row_sum + row_shift * col_sum, and by `out`: int32 v; float32 function(clamp(v * row_scale *
    scale + (r - r_zero) * r_scale + bias)); uint8, int8 rint(clamp(v * scale + (r - r_zero) * r_scale)) + zero, saturated.
    lo, hi: the clamp's bounds (levels for uint8 and int8, NaN-free).
    """

    out: str
    col: int = 0
    scale: int = 0
    bias: int = 0
    zero: int = 0
    lo: float = -np.inf
    hi: float = np.inf
    w_zero: int = 0
    row_sum: int = 0
    row_shift: int = 0
    col_sum: int = 0
    row_scale: int = 0
    r: int = 0
    ldr: int = 0
    r_dtype: str = "uint8"
    r_zero: int = 0
    r_scale: float = 0.0
    function: str = "identity"
    a: float = 0.0
    b: float = 0.0

    def packed(self) -> Array:
        lo, hi = level_bounds(self.out, self.zero, self.lo, self.hi)
        given = {
            name: getattr(self, name)
            for name in EPILOGUE.names or ()
            if name not in ("lo", "hi", "r_signed", "function", "out")
        }
        return structure(
            EPILOGUE,
            **given,
            lo=lo,
            hi=hi,
            r_signed=self.r_dtype == "int8",
            function=codes("Unary")[self.function],
            out=codes("Out", "requantize.cuh")[OUT[self.out]],
        )


def pack_weights(w: Any, multiple: int = 16) -> tuple[Array, Array]:
    """[K, N] int8 or uint8 -> ([N, K rounded up to `multiple`] int8, zero beyond K; int32 sums [N] of the packed columns).
    Unsigned weights are shifted by 128: their zero point is to be lowered by 128 too."""
    w = np.asarray(w)
    signed = (w.astype(np.int16) - 128).astype(np.int8) if w.dtype == np.uint8 else w
    k, n = signed.shape
    packed = np.zeros((n, -(-k // multiple) * multiple), np.int8)
    packed[:, :k] = signed.T
    return packed, signed.sum(0, dtype=np.int32)


def fold_columns(column_sums: Any, k: int, x_zero: int = 0, w_zero: Any = None, bias: Any = None) -> Array:
    """The epilogue's `col`: bias - x_zero * (column sum - k * w_zero), int32 [N]."""
    sums = column_sums.astype(np.int64) - k * np.asarray(0 if w_zero is None else w_zero, np.int64).reshape(-1)
    col = -x_zero * sums if bias is None else bias.astype(np.int64) - x_zero * sums
    return np.asarray(col, np.int32)
