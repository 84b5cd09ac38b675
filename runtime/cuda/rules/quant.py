"""Integer operators. Their parameters must be constants; results have the CPU's bytes (runtime/ops/quant/_arithmetic.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.cuda.kernels import gemm, quant, window
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns, pack_weights
from headrace.runtime.cuda.rules.base import Bound, Rule, Site, Work
from headrace.runtime.cuda.rules.conv import LAST, conv_window
from headrace.runtime.ops.quant._arithmetic import multiplier

INT8 = ("uint8", "int8")
W, BIAS, R = 3, 8, 9  # input numbers of QConv and QGemm


@dataclass
class Scaled:
    """What QConv and QGemm share: the packed weights, the vectors of the epilogue, and its scalars."""

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


Pack = Callable[[np.ndarray], np.ndarray]


def scaled(site: Site, features: int, how: str, pack: Pack, exact_sums: bool = False) -> Scaled:
    """Read the constants. `pack` makes int8 weights [features, ...] of the constant ones, `how` names it. The zero point of x
    is folded into `col`, unless the kernel subtracts it itself (`exact_sums`)."""
    site.need_dtypes(INT8, 0, W, R)
    x_scale, x_zp, w, w_scale, w_zp = (site.fixed(i) for i in range(1, 6))
    y_scale, y_zp = (site.fixed(i) if site.has(i) else None for i in (6, 7))
    bias = site.fixed(BIAS) if site.has(BIAS) else np.zeros(1, np.int32)
    shift = 128 if w.dtype == np.uint8 else 0  # what makes unsigned weights signed
    site.need(not np.any(w_zp.astype(np.int64) - shift), "weights with a zero point")
    x_zero = 0 if exact_sums else int(x_zp.reshape(()))
    packed = site.derived(f"{how} weights", [w], lambda: pack(w))
    factor = [x_scale, w_scale] if y_scale is None else [x_scale, w_scale, y_scale]

    def wide(values: Any) -> np.ndarray:
        return np.array(np.broadcast_to(values, (features,)))

    def folded() -> np.ndarray:
        sums = 0 if exact_sums else packed.reshape(features, -1).sum(1, dtype=np.int64)
        return wide(fold_columns(np.asarray(sums), 0, x_zero, None, bias))

    units = np.float32(1) if y_scale is None else np.float32(y_scale).reshape(())
    lo, hi = bounds(site.attributes, units)
    r_scale, r_zero = np.float32(0), 0
    if site.has(R):
        r_scale = np.float32(site.fixed(R + 1)).reshape(())
        r_scale = r_scale if y_scale is None else np.float32(r_scale / units)
        r_zero = int(site.fixed(R + 2).reshape(()))
    return Scaled(
        packed,
        site.derived(f"{how} col {x_zero}", [w, bias if site.has(BIAS) else w], folded),
        site.derived("scale", factor, lambda: wide(multiplier(*factor))),
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
    shape, dtype = site.shape(), site.dtype()
    m, k, n = math.prod(shape[:-1]), shape[-1], site.shape(W)[1]
    given = scaled(site, n, "columns", lambda w: pack_weights(w)[0])
    site.need(not site.has(R) or site.shape(R) == site.out_shape(), "a residual that broadcasts")

    def emit(at: Bound) -> None:
        gemm.gemm_s8(
            at.device, dtype, at.inputs[0], at.constant(given.weights), at.outputs[0], m, n, k, given.epilogue(at, n),
            ldb=given.weights.shape[1],
        )  # fmt: skip

    return Work(f"gemm_{dtype}_{given.out}", emit)


def _conv(site: Site) -> Work:
    site.need(not site.has(R) or site.shape(R) == site.out_shape(), "a residual that broadcasts")
    shape, dtype = site.shape(W), site.dtype()
    features, geometry = shape[0], conv_window(site, shape)
    if geometry.group == geometry.c > 1 and shape[1] == 1:
        return _depthwise(site, geometry, features)
    given = scaled(site, features, "taps", lambda w: window.pack_conv_weights(w)[0])
    zero = site.fixed(2)
    outside = site.derived("outside", [zero], lambda: np.full(window.OUTSIDE, zero.reshape(()), zero.dtype))

    def emit(at: Bound) -> None:
        window.conv_s8(
            at.device, dtype, at.inputs[0], at.constant(given.weights), at.outputs[0], at.constant(outside), geometry,
            given.epilogue(at, features), given.weights.shape[1],
        )  # fmt: skip

    return Work(f"conv_{dtype}", emit)


def _depthwise(site: Site, geometry: window.Window, features: int) -> Work:
    def pack(w: np.ndarray) -> np.ndarray:  # [taps, features]
        return np.ascontiguousarray(signed(w).reshape(features, -1).T)

    given, dtype, x_zero = scaled(site, features, "depthwise", pack, exact_sums=True), site.dtype(), site.fixed(2)

    def emit(at: Bound) -> None:
        window.conv_depthwise_s8(
            at.device, dtype, at.inputs[0], at.constant(given.weights), at.outputs[0], int(x_zero.reshape(())), geometry,
            given.epilogue(at, features),
        )  # fmt: skip

    return Work(f"conv_depthwise_{dtype}", emit)


def signed(w: np.ndarray) -> np.ndarray:
    """Weights as int8; unsigned ones lowered by 128."""
    return (w.astype(np.int16) - 128).astype(np.int8) if w.dtype == np.uint8 else w


def _add(site: Site) -> Work:
    site.need_dtypes(INT8, 0, 3)
    y_scale, zero = np.float32(site.fixed(6)).reshape(()), int(site.fixed(7).reshape(()))
    lo, hi = bounds(site.attributes, y_scale)
    out = site.out_dtype()

    def levels(first: int) -> Callable[[int], quant.Levels]:
        """The operand whose inputs begin at `first`, for its address; its scale is in units of the result's."""
        shape, dtype, x_zero = site.shape(first), site.dtype(first), int(site.fixed(first + 2).reshape(()))
        scale = float(np.float32(np.float32(site.fixed(first + 1)).reshape(()) / y_scale))
        return lambda address: quant.Levels(address, shape, dtype, x_zero, scale)

    left, right = levels(0), levels(3)

    def emit(at: Bound) -> None:
        a, b = left(at.inputs[0]), right(at.inputs[3])
        quant.add_levels(at.device, a, b, at.outputs[0], out, zero, lo, hi)

    return Work(f"add_levels {out}", emit)


def _channels(site: Site) -> tuple[int, int, int]:
    """(elements, distance between channels, channels) of a Q or DQ node."""
    site.need(not site.attributes["block_size"], "scales of blocks")
    site.need_dtypes(("float32",), 1)
    shape, n = site.shape(), site.size(1)
    site.need(not site.has(2) or site.size(2) == n, "a zero point of another size than the scale")
    axis = site.attributes["axis"] % max(len(shape), 1)
    return math.prod(shape), math.prod(shape[axis + 1 :]) if n > 1 else 1, n


def _quantize(site: Site) -> Work:
    site.need_dtypes(("float32",), 0)
    dtype, (n, inner, channels) = site.out_dtype(), _channels(site)
    site.need(dtype in INT8, f"a result of {dtype}")
    site.need(site.attributes["precision"] in (0, 1), "a precision other than float32")

    def emit(at: Bound) -> None:
        x, scale, zero = (*at.inputs, 0)[:3]
        quant.quantize(at.device, dtype, x, at.outputs[0], scale, zero, n, inner, channels)

    return Work(f"quantize {dtype}", emit)


def _dequantize(site: Site) -> Work:
    site.need_dtypes((*INT8, "int32"), 0)
    site.need(site.out_dtype() == "float32", f"a result of {site.out_dtype()}")
    dtype, (n, inner, channels) = site.dtype(), _channels(site)

    def emit(at: Bound) -> None:
        x, scale, zero = (*at.inputs, 0)[:3]
        quant.dequantize(at.device, dtype, x, at.outputs[0], scale, zero, n, inner, channels)

    return Work(f"dequantize {dtype}", emit)


def _lookup(site: Site) -> Work:
    site.need_dtypes(INT8, 0, 1)
    n = site.size()

    def emit(at: Bound) -> None:
        quant.lookup(at.device, at.inputs[0], at.inputs[1], at.outputs[0], n)

    return Work("lookup", emit, in_place=(0,))


RULES: dict[str, Rule] = {
    "headrace.QGemm": _gemm, "headrace.QConv": _conv, f"{LAST}.QConv": _conv, "headrace.QAdd": _add,
    "headrace.QLookup": _lookup,
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
}  # fmt: skip
