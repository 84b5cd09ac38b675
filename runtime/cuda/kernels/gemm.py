"""Matrix products (csrc/gemm_s8.cu, csrc/gemm_f32.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from headrace.runtime.cuda.interface import Arg, Device
from headrace.runtime.cuda.kernels._launch import (
    broadcast_steps,
    ceil_div,
    ints,
    longs,
    merge_dimensions,
    pointers,
    structure,
)
from headrace.runtime.cuda.kernels.requantize import Epilogue
from headrace.runtime.cuda.sources import codes

# Kernel -> tile, threads, bytes of shared memory.
TILES = {"dp4a": (64, 256, 4160), "mma64": (64, 128, 24576), "mma128": (128, 256, 49152)}
SIGN = {"uint8": "u8", "int8": "s8"}
PRODUCT = np.dtype(
    [("m", np.int64)]
    + [(name, np.int64, 3) for name in ("batch", "a_batch", "b_batch", "r_batch")]
    + [(name, np.int64) for name in ("a_m", "a_k", "b_k", "b_n", "y_m", "y_batch", "r_m", "r_n", "bias_n")]
    + [(name, np.int32) for name in ("n", "k", "function")]
    + [(name, np.float32) for name in ("alpha", "beta", "f_a", "f_b")]
    + [("unused", np.int32)]
)
F32_TILE, F32_SHARED = 64, 8704
BATCH = 65535  # what grid.z holds


def choose_tile(m: int, n: int, *aligned: int) -> str:
    """The integer kernel for a size: tensor cores where every one of `aligned` (addresses, strides) is a multiple of 16, in
    large tiles where they give work to many multiprocessors."""
    if any(value % 16 for value in aligned):
        return "dp4a"
    return "mma128" if ceil_div(m, 128) * ceil_div(n, 128) >= 64 else "mma64"


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
    tile: str | None = None,
) -> None:
    """y [batch, m, n] = epilogue(a [batch, m, k] (uint8 or int8) . b [batch, n, k]^T (int8)). Leading dimensions and the
    strides between matrices of a batch (a, b, y) in elements. `tile`: a name of TILES instead of the choice by size."""
    if not (m and n and batch):
        return
    lda, ldb, ldy = (k if lda is None else lda, k if ldb is None else ldb, n if ldy is None else ldy)
    tile = tile or choose_tile(m, n, a, b, lda, ldb, *strides[:2])
    size, threads, shared = TILES[tile]
    args: list[Arg] = [*pointers(a, b, y), epilogue.packed(), *longs(m), *ints(n, k), *longs(lda, ldb, ldy, *strides)]
    device.launch(
        f"gemm_{SIGN[a_dtype]}s8_{tile}", (ceil_div(m, size), ceil_div(n, size), batch), (threads, 1, 1), shared, args
    )


def gemm_f32(
    device: Device,
    a: int,
    b: int,
    y: int,
    a_shape: Sequence[int],
    b_shape: Sequence[int],
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    alpha: float = 1.0,
    bias: int = 0,
    bias_size: int = 0,
    r: int = 0,
    r_shape: Sequence[int] = (),
    beta: float = 1.0,
    function: str = "identity",
    f_a: float = 0.0,
    f_b: float = 0.0,
) -> None:
    """y = function(alpha * (a' @ b') + bias + beta * r), float32, as NumPy's matmul of matrices (rank >= 2) whose batch
    dimensions broadcast; ' exchanges the last two dimensions where trans_a, trans_b. bias: [n], or one value. r broadcasts to
    y. ValueError where the batch dimensions do not merge into three, or are more than 65535 matrices."""
    (am, ak), (bk, bn) = a_shape[-2:], b_shape[-2:]
    a_step, b_step = (ak, 1), (bn, 1)
    if trans_a:
        am, ak, a_step = ak, am, (1, a_shape[-1])
    if trans_b:
        bk, bn, b_step = bn, bk, (1, b_shape[-1])
    if ak != bk:
        raise ValueError(f"a product of {list(a_shape)} and {list(b_shape)}: depths {ak} and {bk} differ")
    batch = np.broadcast_shapes(tuple(a_shape[:-2]), tuple(b_shape[:-2]))
    r_full = (*(1,) * (len(batch) + 2 - len(r_shape)), *r_shape)
    dims, steps = merge_dimensions(
        batch,
        [broadcast_steps(s[:-2], len(batch), prod(s[-2:])) for s in (a_shape, b_shape, r_full)],
        f"batch dimensions {list(batch)}", 3,
    )  # fmt: skip
    count = prod(batch)
    if count > BATCH:
        raise ValueError(f"a product of {count} matrices; allowed: {BATCH}")
    if not (am and bn and count):
        return
    product = structure(
        PRODUCT,
        m=am, n=bn, k=ak, batch=dims, a_batch=steps[0], b_batch=steps[1], r_batch=steps[2],
        a_m=a_step[0], a_k=a_step[1], b_k=b_step[0], b_n=b_step[1], y_m=bn, y_batch=am * bn,
        r_m=r_full[-1] if r_full[-2] != 1 else 0, r_n=1 if r_full[-1] != 1 else 0, bias_n=1 if bias_size != 1 else 0,
        function=codes("Unary")[function], alpha=alpha, beta=beta, f_a=f_a, f_b=f_b,
    )  # fmt: skip
    grid = (ceil_div(am, F32_TILE), ceil_div(bn, F32_TILE), count)
    device.launch("gemm_f32", grid, (256, 1, 1), F32_SHARED, [*pointers(a, b, bias, r, y), product])
