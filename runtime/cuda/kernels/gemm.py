"""Matrix products (csrc/gemm_*.cu)."""

from __future__ import annotations

from headrace.runtime.cuda.interface import Arg, Device
from headrace.runtime.cuda.kernels._launch import BLOCK, ceil_div, ints, longs, pointers
from headrace.runtime.cuda.kernels.requantize import Epilogue

DP4A_TILE, DP4A_SHARED = 64, 4160


def gemm_s8(
    device: Device,
    a_dtype: str,
    a: int,
    b: int,
    y: int,
    m: int,
    n: int,
    k: int,
    epilogue: Epilogue,
    *,
    lda: int | None = None,
    ldb: int | None = None,
    ldy: int | None = None,
    batch: int = 1,
    strides: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """y [batch, m, n] = epilogue(a [batch, m, k] (uint8 or int8) . b [batch, n, k]^T (int8)). Leading dimensions and the
    strides between matrices of a batch in elements."""
    if not (m and n and batch):
        return
    lda, ldb, ldy = (k if lda is None else lda, k if ldb is None else ldb, n if ldy is None else ldy)
    sign = "u8" if a_dtype == "uint8" else "s8"
    args: list[Arg] = [*pointers(a, b, y), epilogue.packed(), *longs(m), *ints(n, k), *longs(lda, ldb, ldy, *strides)]
    grid = (ceil_div(m, DP4A_TILE), ceil_div(n, DP4A_TILE), batch)
    device.launch(f"gemm_{sign}s8_dp4a", grid, (BLOCK, 1, 1), DP4A_SHARED, args)
