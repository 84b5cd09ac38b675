"""Dynamic quantization: ranges are found while running, one for a tensor or one for a row."""

from __future__ import annotations

import math

import numpy as np

from headrace.runtime.cuda.arena import ALIGNMENT
from headrace.runtime.cuda.kernels import gemm, quant
from headrace.runtime.cuda.kernels.requantize import Epilogue, pack_weights
from headrace.runtime.cuda.rules.base import Bound, Rule, Site, Work
from headrace.runtime.cuda.rules.elementwise import activation


def _quantize(site: Site) -> Work:
    whole = site.kind == "DynamicQuantizeLinear"
    k = site.size() if whole else site.shape()[-1]
    rows = site.size() // k

    def emit(at: Bound) -> None:
        y, scale, zero = at.outputs
        quant.quantize_rows(at.device, at.inputs[0], y, scale, zero, 0, rows, k)

    site.need(len(site.node.outputs) == 3 and None not in site.node.outputs, "an output that nobody reads")
    return Work("quantize_rows", emit)


def _matmul(site: Site) -> Work:
    """Rows quantized into scratch, then one exact product whose epilogue takes the rows' scales and zero points."""
    shape, w, w_scale = site.shape(), site.fixed(1), site.fixed(2)
    k, n = w.shape
    m = math.prod(shape[:-1])
    packed = site.derived("columns weights", [w], lambda: pack_weights(w)[0])
    sums = site.derived("column sums", [w], lambda: w.sum(0, dtype=np.int32))
    scale = site.derived("column scales", [w_scale], lambda: np.array(np.broadcast_to(w_scale.reshape(-1), (n,))))
    function, a, b = activation(site.attributes)
    row_scale_at = _room(m * k)
    row_shift_at = row_scale_at + _room(4 * m)

    def emit(at: Bound) -> None:
        q, row_scale, row_shift = at.scratch, at.scratch + row_scale_at, at.scratch + row_shift_at
        quant.quantize_rows(at.device, at.inputs[0], q, row_scale, 0, row_shift, m, k)
        epilogue = Epilogue(
            "float32", scale=at.constant(scale), bias=at.inputs[3] if len(at.inputs) > 3 else 0, row_scale=row_scale,
            row_shift=row_shift, col_sum=at.constant(sums), function=function, a=a, b=b,
        )  # fmt: skip
        gemm.gemm_s8(at.device, "uint8", q, at.constant(packed), at.outputs[0], m, n, k, epilogue, ldb=packed.shape[1])

    return Work("gemm_uint8_float32 of quantized rows", emit, scratch=row_shift_at + 4 * m)


def _room(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


RULES: dict[str, Rule] = {
    "DynamicQuantizeLinear": _quantize, "headrace.DynamicQuantizeRows": _quantize, "headrace.DynamicMatMul": _matmul,
}  # fmt: skip
