"""Integer operators. Their parameters must be constants; results have the CPU's bytes (runtime/ops/quant/_arithmetic.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.cuda.kernels import gemm
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns, pack_weights
from headrace.runtime.cuda.rules.base import Bound, Rule, Site, Work
from headrace.runtime.ops.quant._arithmetic import multiplier

INT8 = ("uint8", "int8")
W, BIAS, R = 3, 8, 9  # input numbers of QConv and QGemm


@dataclass
class Scaled:
    """What QConv and QGemm share: the packed weights [N, K], the vectors of the epilogue, and its scalars."""

    weights: np.ndarray
    col: np.ndarray
    scale: np.ndarray
    out: str
    zero: int
    lo: float
    hi: float
    r_dtype: str
    r_scale: float
    r_zero: int

    def epilogue(self, at: Bound, ldr: int) -> Epilogue:
        residual = at.inputs[R] if len(at.inputs) > R else 0
        return Epilogue(
            self.out, col=at.constant(self.col), scale=at.constant(self.scale), zero=self.zero, lo=self.lo, hi=self.hi,
            r=residual, ldr=ldr, r_dtype=self.r_dtype, r_zero=self.r_zero, r_scale=self.r_scale,
        )  # fmt: skip


def scaled(site: Site, columns: Any) -> Scaled:
    """Read the constants. `columns` makes the weights a matrix [K, N], one column a feature."""
    site.need_dtypes(INT8, 0, W, R)
    x_scale, x_zp, w, w_scale, w_zp = (site.fixed(i) for i in range(1, 6))
    y_scale, y_zp = (site.fixed(i) if site.has(i) else None for i in (6, 7))
    bias = site.fixed(BIAS) if site.has(BIAS) else None
    shift = 128 if w.dtype == np.uint8 else 0
    site.need(not np.any(w_zp.astype(np.int64) - shift), "weights with a zero point")
    matrix = columns(w)
    depth, features = matrix.shape
    packed = site.derived(f"{site.kind} weights", [w], lambda: pack_weights(matrix)[0])
    x_zero = int(x_zp.reshape(()))
    sums = matrix.astype(np.int64).sum(0) - shift * depth

    def folded() -> np.ndarray:
        whole = fold_columns(sums, depth, x_zero, None, bias)
        return np.ascontiguousarray(np.broadcast_to(whole, (features,)))

    factor = [x_scale, w_scale] if y_scale is None else [x_scale, w_scale, y_scale]
    units = np.float32(1) if y_scale is None else np.float32(y_scale).reshape(())
    lo, hi = bounds(site.attributes, units)
    r_scale, r_zero = np.float32(0), 0
    if site.has(R):
        r_scale = np.float32(site.fixed(R + 1).reshape(()))
        r_scale = r_scale if y_scale is None else np.float32(r_scale / units)
        r_zero = int(site.fixed(R + 2).reshape(()))
    return Scaled(
        packed,
        site.derived(f"{site.kind} col", [w, x_zp] + ([] if bias is None else [bias]), folded),
        site.derived(f"{site.kind} scale", factor, lambda: np.array(np.broadcast_to(multiplier(*factor), (features,)))),
        site.out_dtype(),
        0 if y_zp is None else int(y_zp.reshape(())),
        lo,
        hi,
        site.dtype(R) or "uint8",
        float(r_scale),
        r_zero,
    )


def bounds(attributes: Mapping[str, Any], units: Any) -> tuple[float, float]:
    """Lower and upper bound of a fused Relu or Clip, in levels of float32."""
    low, high = attributes.get("clip_min"), attributes.get("clip_max")
    match attributes["activation"]:
        case "Relu":
            return 0.0, math.inf
        case "Clip":
            return (
                -math.inf if low is None else float(np.float32(np.float32(low) / units)),
                math.inf if high is None else float(np.float32(np.float32(high) / units)),
            )
    return -math.inf, math.inf


def _gemm(site: Site) -> Work:
    given = scaled(site, lambda w: w)
    shape, dtype = site.shape(), site.dtype()
    m, k, n = math.prod(shape[:-1]), shape[-1], given.col.size
    site.need(not site.has(R) or site.shape(R) == site.out_shape(), "a residual that broadcasts")

    def emit(at: Bound) -> None:
        gemm.gemm_s8(
            at.device, dtype, at.inputs[0], at.constant(given.weights), at.outputs[0], m, n, k, given.epilogue(at, n),
            ldb=given.weights.shape[1],
        )  # fmt: skip

    return Work(f"gemm_{dtype}_{given.out}", emit)


RULES: dict[str, Rule] = {"headrace.QGemm": _gemm}
