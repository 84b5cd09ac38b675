"""Dynamic quantization: DynamicQuantizeLinear of ONNX, and the forms of ours whose rows do not influence each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.axes import kept_rows
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.linear.matmul import matmul_shape
from headrace.runtime.ops.nn._activation import ATTRIBUTES, activate
from headrace.runtime.ops.quant._arithmetic import along, centred, exact_matmul, product_rows, quantize_rows
from headrace.runtime.types import TensorType, Type

FLOAT32, UINT8, INT8, EITHER8 = (
    frozenset({"float32"}),
    frozenset({"uint8"}),
    frozenset({"int8"}),
    frozenset({"int8", "uint8"}),
)
ROWS = ((3, 8), (1, 1), (0, 4), (2, 3, 5), (7, 33))


class DynamicQuantizeLinear(Operator):
    """x -> uint8 with one scale and zero point for the whole tensor, so rows of a batch influence each other.

    scale = (max(x, 0) - min(x, 0)) / 255, zero = round(-min / scale), both of rank 0.
    """

    versions = (11,)
    inputs = (In("x", FLOAT32),)
    outputs = (Out("y", UINT8), Out("y_scale", FLOAT32), Out("y_zero_point", UINT8))
    types = {}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("uint8", context.shape(0)), TensorType("float32", ()), TensorType("uint8", ())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        (x,) = inputs
        q, scale, zero = quantize_rows(x.reshape(1, -1))
        return [q.reshape(x.shape), scale.reshape(()), zero.reshape(())]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((6,), (2, 3), (), (3, 17)):
            yield Sample([draw(rng, shape, "float32")])
        yield Sample([np.abs(draw(rng, (4, 5), "float32"))])
        yield Sample([np.zeros(3, np.float32)])
        yield Sample([np.array([-2.5, -1.5, 0.5, 1.5, 2.5, 252.5], np.float32)])


class DynamicQuantizeRows(Operator):
    """x [..., K] -> uint8 with one scale and zero point a row of the last axis (both [..., 1])."""

    domain = "headrace"
    inputs = (In("x", FLOAT32),)
    outputs = (Out("y", UINT8), Out("y_scale", FLOAT32), Out("y_zero_point", UINT8))
    types = {}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape(0)
        if shape == ():
            raise GraphError("a scalar has no rows")
        column = None if shape is None else (*shape[:-1], 1)
        return [TensorType("uint8", shape), TensorType("float32", column), TensorType("uint8", column)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return list(quantize_rows(inputs[0]))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ROWS:
            yield Sample([draw(rng, shape, "float32")])
        yield Sample([np.array([[0, 0, 0], [1, 2, 3], [-1, -2, -3], [1e30, 0, -1e30], [1e-40, 0, 0]], np.float32)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape(0)
        return kept_rows(tags, None if shape is None else (len(shape) - 1,), 3)


class DynamicMatMul(Operator):
    """x [..., K] float32 @ w [K, N] int8 -> float32 [..., N]: rows of x quantized by DynamicQuantizeRows, exact integer
    products, then (sum * row scale) * w_scale [+ bias], each step rounded to float32."""

    domain = "headrace"
    inputs = (In("x", FLOAT32), In("w", INT8), In("w_scale", FLOAT32), In("bias", FLOAT32, optional=True))
    outputs = (Out("y", FLOAT32),)
    types = {}
    attributes = {**ATTRIBUTES, "alpha": Attr("float")}
    accuracy = Accuracy(8.0)  # of the largest result: the bias may cancel it
    differentiable = False
    prepack = (1,)
    flops = work.product()

    def infer(self, context: Context) -> list[Type | None]:
        w = context.shape(1)
        if w is not None and len(w) != 2:
            raise GraphError(f"w must be a matrix [K, N], not {context.type(1)}")
        return [TensorType("float32", matmul_shape(context.shape(0), w))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, w_scale, bias = (*inputs, None)[:4]
        q, scale, zero = quantize_rows(x)
        total = exact_matmul(q.astype(np.int64) - zero, w).astype(np.float32)
        y = (total * scale) * w_scale.reshape(-1)
        return [activate(y if bias is None else y + bias, attributes)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 8), (1, 8), (2, 3, 8), (0, 8), (5, 33), (2, 256)):
            w = rng.integers(-128, 128, (shape[-1], 5)).astype(np.int8)
            scales = rng.uniform(0.001, 0.1, 5).astype(np.float32)
            yield Sample([draw(rng, shape, "float32"), w, scales, draw(rng, (5,), "float32")])
            yield Sample([draw(rng, shape, "float32"), w, np.asarray(scales[0]), None], {"activation": "Relu"})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return product_rows(tags, context, 0, 1)


class MatMulIntegerToFloat(Operator):
    """MatMulInteger(a, b, a_zp, b_zp) as float32 * (a_scale * b_scale) [+ bias], then an activation: what imported dynamic
    models spell out."""

    domain = "headrace"
    inputs = (
        In("a", EITHER8), In("b", EITHER8), In("a_scale", FLOAT32), In("b_scale", FLOAT32),
        In("a_zero_point", EITHER8, optional=True), In("b_zero_point", EITHER8, optional=True), In("bias", FLOAT32, optional=True),
    )  # fmt: skip
    outputs = (Out("y", FLOAT32),)
    types = {}
    attributes = {**ATTRIBUTES, "alpha": Attr("float")}
    accuracy = Accuracy(8.0)  # of the largest result: an activation may cancel it
    differentiable = False
    prepack = (1,)
    flops = work.product()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("float32", matmul_shape(context.shape(0), context.shape(1)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a, b, a_scale, b_scale, a_zero, b_zero, bias = (*inputs, None, None, None)[:7]
        total = (
            exact_matmul(centred(a, a_zero, a.ndim - 2), centred(b, b_zero, b.ndim - 1))
            .astype(np.int32)
            .astype(np.float32)
        )
        y = total * (a_scale * along(b_scale, 1, 0)).astype(np.float32)
        return [activate(y if bias is None else y + bias, attributes)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for lead, depth, width in (((3,), 8, 5), ((1,), 1, 1), ((2, 4), 33, 7), ((0,), 4, 3)):
            a = rng.integers(0, 256, (*lead, depth)).astype(np.uint8)
            b = rng.integers(-128, 128, (depth, width)).astype(np.int8)
            scales = rng.uniform(0.001, 0.1, width).astype(np.float32)
            yield Sample(
                [
                    a,
                    b,
                    np.asarray(0.02, np.float32),
                    scales,
                    np.asarray(121, np.uint8),
                    np.asarray(0, np.int8),
                    draw(rng, (width,), "float32"),
                ]
            )
            yield Sample([a, b, np.asarray(0.02, np.float32), scales[:1].reshape(()), np.asarray(3, np.uint8)])
            half = np.asarray(1e-3, np.float32)
            yield Sample([a, b, half, scales, np.asarray(128, np.uint8), None, None], {"activation": "Gelu"})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return product_rows(tags, context, 0, 1)
