"""The one arithmetic of quantization, which every kernel on every device repeats to the byte.

An accumulator is an exact integer with the zero points folded in. Requantization is float32, one operation at a time
(no fused multiply-add): accumulator * multiplier [+ residual term] [clipped], rounded half to even, + zero point,
saturated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.ops.base import MIXED, Context
from headrace.runtime.ops.linear.matmul import matmul_rows

ACTIVATIONS = ("", "Relu", "Clip")  # of integer results


def exact_matmul(a: Any, b: Any) -> Any:
    """The product of integer arrays as int64. float64 holds every sum below 2**53 exactly: 8-bit factors allow 2**36
    of them."""
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)


def centred(x: Any, zero: Any, axis: int | None = None) -> Any:
    """x - zero as int64; a zero point of rank 1 lies along `axis`."""
    if zero is None:
        return x.astype(np.int64)
    zero = zero.astype(np.int64)
    if zero.ndim == 1 and zero.size > 1 and axis is not None:
        zero = along(zero, x.ndim, axis)
    elif zero.ndim == 1 and zero.size == 1:
        zero = zero.reshape(())
    return x.astype(np.int64) - zero


def along(values: Any, rank: int, axis: int) -> Any:
    """A vector as an array that broadcasts along one axis; a scalar stays one."""
    values = np.asarray(values)
    if values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


def multiplier(x_scale: Any, w_scale: Any, y_scale: Any = None) -> Any:
    """(x_scale * w_scale) / y_scale in float32; without y_scale the factor that dequantizes."""
    factor = np.float32(x_scale).reshape(()) * np.asarray(w_scale, np.float32)
    return factor if y_scale is None else (factor / np.float32(y_scale).reshape(())).astype(np.float32)


def saturate(values: Any, zero: Any, dtype: Any) -> Any:
    """float32 levels -> rint, + zero point, clipped to the integer type. NaN becomes the zero point."""
    bounds = np.iinfo(dtype)
    level = np.float32(0 if zero is None else int(np.asarray(zero).reshape(())))
    with np.errstate(invalid="ignore"):
        rounded = np.rint(np.where(np.isnan(values), np.float32(0), values)) + level
    return np.clip(rounded, bounds.min, bounds.max).astype(dtype)


def residual(r: Any, r_scale: Any, r_zp: Any, y_scale: Any) -> Any:
    """(r - zero) * (r_scale / y_scale) in float32; y_scale None: in real units."""
    factor = np.float32(r_scale).reshape(())
    if y_scale is not None:
        factor = np.float32(factor / np.float32(y_scale).reshape(()))
    return centred(r, r_zp).astype(np.float32) * factor


def activate_levels(levels: Any, attributes: Mapping[str, Any], y_scale: Any) -> Any:
    """Relu or Clip of values in units of y_scale (None: real units)."""
    unit = np.float32(1) if y_scale is None else np.float32(y_scale).reshape(())
    match attributes["activation"]:
        case "Relu":
            return np.maximum(levels, np.float32(0))
        case "Clip":
            low, high = attributes.get("clip_min"), attributes.get("clip_max")
            if low is not None:
                levels = np.maximum(levels, np.float32(np.float32(low) / unit))
            if high is not None:
                levels = np.minimum(levels, np.float32(np.float32(high) / unit))
    return levels


def quantize_rows(x: Any) -> tuple[Any, Any, Any]:
    """Each row along the last axis to uint8 by the formula of DynamicQuantizeLinear: (q, scale [..., 1], zero [..., 1])."""
    with np.errstate(all="ignore"):
        low = np.minimum(x.min(-1, keepdims=True, initial=0), np.float32(0)).astype(np.float32)
        high = np.maximum(x.max(-1, keepdims=True, initial=0), np.float32(0)).astype(np.float32)
        scale = ((high - low) / np.float32(255)).astype(np.float32)
        scale = np.where(scale == 0, np.float32(1), scale)  # a row of zeros; onnxruntime does the same
        zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.float32)
        levels = np.rint(x / scale)
    q = np.clip(np.where(np.isnan(levels), np.float32(0), levels) + zero, 0, 255).astype(np.uint8)
    return q, scale, zero.astype(np.uint8)


def product_rows(tags: Sequence[int | None], context: Context, a: int, b: int) -> list[int | None]:
    """Rows of a product of input `a` with fixed weights `b`, scales, zero points and bias."""
    if all(tag is None for tag in tags):
        return [None]
    if any(tag is not None for index, tag in enumerate(tags) if index != a):
        return [MIXED]
    return [matmul_rows([tags[a], None], context.shape(a), context.shape(b))]
