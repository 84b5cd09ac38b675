"""onnxruntime's products of integers: QGemm, DynamicQuantizeMatMul, MatMulIntegerToFloat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime.ops.base import Attr, Context, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.microsoft.levels import flat, quantize
from headrace.runtime.ops.quant.integer import levels, number, scale
from headrace.runtime.ops.spelled import EITHER8, FLOAT32, INT32, Spelled, times
from headrace.runtime.types import TensorType, Type


class QGemm(Spelled):
    """(alpha * a_scale * b_scale) * (A' @ B' + C), as levels of y_scale where it is given: headrace.QGemm.
    Source: onnxruntime, com.microsoft.QGemm-1."""

    inputs = (
        In("A", EITHER8), In("a_scale", FLOAT32), In("a_zero_point", EITHER8), In("B", EITHER8), In("b_scale", FLOAT32), In("b_zero_point", EITHER8),
        In("C", INT32, optional=True), In("y_scale", FLOAT32, optional=True), In("y_zero_point", EITHER8, optional=True),
    )  # fmt: skip
    outputs = (Out("Y", EITHER8 | FLOAT32),)
    types = {}
    attributes = {"alpha": Attr("float", 1.0), "transA": Attr("int", 0, (0, 1)), "transB": Attr("int", 0, (0, 1))}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = inputs
        a = F.Transpose(a, perm=(1, 0)) if attributes["transA"] else a
        b = F.Transpose(b, perm=(1, 0)) if attributes["transB"] else b
        a_scale, a_zero, y_scale, y_zero = flat(F, a_scale, a_zero, y_scale, y_zero)
        a_scale = times(F, a_scale, attributes["alpha"])
        if c is None or F.rank(c) == 1:
            return F.QGemm(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, c)
        y = F.Cast(F.Add(F.MatMulInteger(a, b, a_zero, b_zero), c), to=1)  # a bias for each row
        y = F.Mul(y, F.Mul(a_scale, b_scale))
        return y if y_scale is None else quantize(F, y, y_scale, y_zero, F.dtype(y_zero))

    def _unranked(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(8) if context.has(8) else "float32")]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8"):
            a = [levels(rng, (4, 6), kind), scale(0.05), number(3, kind)]
            b = [levels(rng, (6, 3), "int8"), scale(0.01), number(0, "int8")]
            c, y = rng.integers(-500, 500, 3).astype(np.int32), [scale(0.2), number(2, kind)]
            columns = [b[0].T.copy(), np.array([0.01, 0.02, 0.03], np.float32), np.zeros(3, np.int8)]
            yield Sample([*a, *b, c, *y])
            yield Sample([*a, *columns, c, *y], {"transB": 1})
            yield Sample([*a, *b, None, *y], {"alpha": 0.5})
            yield Sample([*a, *b, c])
            yield Sample(
                [a[0].T.copy(), *a[1:], *b, rng.integers(-500, 500, (4, 3)).astype(np.int32), *y], {"transA": 1}
            )


class MatMulIntegerToFloat(Spelled):
    """MatMulInteger(A, B) * (a_scale * b_scale) + bias: the operator of this name of headrace. Source: onnxruntime,
    com.microsoft.MatMulIntegerToFloat-1."""

    inputs = (
        In("A", EITHER8), In("B", EITHER8), In("a_scale", FLOAT32), In("b_scale", FLOAT32), In("a_zero_point", EITHER8, optional=True),
        In("b_zero_point", EITHER8, optional=True), In("bias", FLOAT32, optional=True),
    )  # fmt: skip
    outputs = (Out("Y", FLOAT32),)
    types = {}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return scaled_product(F, *inputs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8"):
            a, b, bias = levels(rng, (2, 4, 6), kind), levels(rng, (6, 3), "int8"), draw(rng, (3,), "float32")
            columns = np.array([0.01, 0.02, 0.03], np.float32)
            yield Sample([a, b, scale(0.05), scale(0.01), number(3, kind), number(2, "int8"), bias])
            yield Sample([a, b, scale(0.05), columns, number(3, kind)])


def scaled_product(F: Any, a: Any, b: Any, a_scale: Any, b_scale: Any, a_zero: Any, b_zero: Any, bias: Any) -> Any:
    """Exact products of levels, as float32; `b_scale` is one number or one a column."""
    a_scale, a_zero = flat(F, a_scale, a_zero)
    return F.MatMulIntegerToFloat(a, b, a_scale, b_scale, a_zero, b_zero, bias)


class DynamicQuantizeMatMul(Spelled):
    """A, quantized by DynamicQuantizeLinear, times 8-bit B, and a bias. Source: onnxruntime,
    com.microsoft.DynamicQuantizeMatMul-1."""

    inputs = (In("A", FLOAT32), In("B", EITHER8), In("b_scale", FLOAT32), In("b_zero_point", EITHER8, optional=True), In("bias", FLOAT32, optional=True))  # fmt: skip
    outputs = (Out("Y", FLOAT32),)
    types = {}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, b, b_scale, b_zero, bias = inputs
        q, a_scale, a_zero = F.DynamicQuantizeLinear(a, outputs=3)
        return scaled_product(F, q, b, a_scale, b_scale, a_zero, b_zero, bias)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a, bias, columns = (
            draw(rng, (2, 4, 6), "float32"),
            draw(rng, (3,), "float32"),
            np.array([0.01, 0.02, 0.03], np.float32),
        )
        for kind in ("int8", "uint8"):
            b = levels(rng, (6, 3), kind)
            yield Sample([a, b, scale(0.01), number(2, kind), bias])
            yield Sample([a, b, columns, np.full(3, 5, kind)])
            yield Sample([a, b, scale(0.01)])
