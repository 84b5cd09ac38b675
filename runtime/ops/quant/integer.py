"""Integer products: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv of ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.ops import work
from headrace.runtime.ops.axes import batch_first
from headrace.runtime.ops.base import Accuracy, Context, In, Operator, Out, Sample
from headrace.runtime.ops.linear.matmul import matmul_shape
from headrace.runtime.ops.nn._convolve import convolve
from headrace.runtime.ops.nn.conv import WINDOW, conv_shape, window_of
from headrace.runtime.ops.quant._arithmetic import along, centred, exact_matmul, multiplier, product_rows, saturate
from headrace.runtime.types import TensorType, Type

EITHER8, INT32, FLOATS = (
    frozenset({"int8", "uint8"}),
    frozenset({"int32"}),
    frozenset({"float32", "float16", "bfloat16"}),
)


def exact_conv(x: Any, w: Any, attributes: Mapping[str, Any]) -> Any:
    """The convolution of centred integers as int64, through float64 (exact below 2**53)."""
    return convolve(
        x.astype(np.float64), w.astype(np.float64), window_of(attributes, w.shape), attributes["group"]
    ).astype(np.int64)


def levels(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Any:
    """Random 8-bit values over the whole range, with both ends present."""
    bounds = np.iinfo(dtype)
    values = rng.integers(bounds.min, bounds.max + 1, tuple(shape)).astype(dtype)
    if values.size > 1:
        values.flat[0], values.flat[-1] = bounds.min, bounds.max
    return values


def number(value: float, dtype: Any) -> Any:
    return np.asarray(value, dtype)


def scale(value: float) -> Any:
    return number(value, np.float32)


class MatMulInteger(Operator):
    """(A - a_zero_point) @ (B - b_zero_point) as int32. Zero points: one, a row of A, a column of B."""

    versions = (10,)
    inputs = (
        In("A", EITHER8),
        In("B", EITHER8),
        In("a_zero_point", EITHER8, optional=True),
        In("b_zero_point", EITHER8, optional=True),
    )
    outputs = (Out("Y", INT32),)
    types = {}
    accuracy = Accuracy.exact()
    differentiable = False
    prepack = (1,)
    flops = work.product()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("int32", matmul_shape(context.shape(0), context.shape(1)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a, b, a_zero, b_zero = (*inputs, None, None)[:4]
        return [exact_matmul(centred(a, a_zero, a.ndim - 2), centred(b, b_zero, b.ndim - 1)).astype(np.int32)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8"):
            for a, b in (
                ((4, 3), (3, 2)),
                ((1, 1), (1, 1)),
                ((2, 5, 33), (33, 7)),
                ((0, 3), (3, 2)),
                ((2, 3, 4), (2, 4, 5)),
            ):
                yield Sample([levels(rng, a, kind), levels(rng, b, "int8"), number(12, kind), number(-3, "int8")])
                yield Sample([levels(rng, a, kind), levels(rng, b, "uint8")])
        yield Sample(
            [levels(rng, (4, 3), "uint8"), levels(rng, (3, 2), "int8"), number(12, "uint8"), levels(rng, (2,), "int8")]
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return product_rows(tags, context, 0, 1)


class ConvInteger(Operator):
    """The convolution of (x - x_zero_point) and (w - w_zero_point) as int32; w_zero_point: one, or one a feature."""

    versions = (10,)
    inputs = (
        In("x", EITHER8),
        In("w", EITHER8),
        In("x_zero_point", EITHER8, optional=True),
        In("w_zero_point", EITHER8, optional=True),
    )
    outputs = (Out("y", INT32),)
    types = {}
    attributes = WINDOW
    accuracy = Accuracy.exact()
    differentiable = False
    prepack = (1,)
    flops = work.convolution()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("int32", conv_shape(context.shape(0), context.shape(1), context.attributes, context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, x_zero, w_zero = (*inputs, None, None)[:4]
        return [exact_conv(centred(x, x_zero), centred(w, w_zero, 0), attributes).astype(np.int32)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, given in CONV_CASES:
            yield Sample([levels(rng, x, "uint8"), levels(rng, w, "int8"), number(7, "uint8")], given)
            yield Sample(
                [levels(rng, x, "uint8"), levels(rng, w, "uint8"), number(7, "uint8"), number(3, "uint8")], given
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


CONV_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((1, 1, 3, 3), (1, 1, 2, 2), {}),
    ((2, 3, 7, 5), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 4, 9, 9), (6, 2, 3, 3), {"group": 2, "strides": (2, 2), "pads": (0, 1, 1, 0)}),
    ((2, 5, 6, 6), (5, 1, 3, 3), {"group": 5, "pads": (1, 1, 1, 1)}),
    ((1, 17, 4, 4), (9, 17, 1, 1), {}),
    ((1, 2, 9), (3, 2, 3), {"dilations": (2,)}),
    ((0, 2, 4, 4), (3, 2, 3, 3), {}),
)


class QLinearMatMul(Operator):
    """MatMulInteger(a, b), requantized by (a_scale * b_scale) / y_scale."""

    versions = (10, 21)
    inputs = (
        In("a", EITHER8), In("a_scale", FLOATS), In("a_zero_point", EITHER8), In("b", EITHER8), In("b_scale", FLOATS),
        In("b_zero_point", EITHER8), In("y_scale", FLOATS), In("y_zero_point", EITHER8),
    )  # fmt: skip
    outputs = (Out("y", EITHER8),)
    types = {}
    accuracy = Accuracy.exact()
    differentiable = False
    prepack = (3,)
    flops = work.product(0, 3)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(7), matmul_shape(context.shape(0), context.shape(3)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
        total = exact_matmul(centred(a, a_zero, a.ndim - 2), centred(b, b_zero, b.ndim - 1)).astype(np.float32)
        rows = along(a_scale.astype(np.float32), total.ndim, total.ndim - 2)
        factor = (rows * along(b_scale.astype(np.float32), total.ndim, total.ndim - 1)) / y_scale.astype(
            np.float32
        ).reshape(())
        return [saturate(total * factor.astype(np.float32), y_zero, y_zero.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8"):
            for a, b in (((4, 3), (3, 2)), ((2, 3, 33), (33, 7)), ((1, 1), (1, 1))):
                yield Sample(
                    [
                        levels(rng, a, kind),
                        scale(0.07),
                        number(5, kind),
                        levels(rng, b, "int8"),
                        scale(0.01),
                        number(1, "int8"),
                        scale(0.3),
                        number(9, kind),
                    ]
                )
        yield Sample([levels(rng, (4, 3), "uint8"), scale(0.07), number(5, "uint8"), levels(rng, (3, 2), "int8"), np.array([0.01, 0.02], np.float32),
                      np.zeros(2, np.int8), scale(0.01), number(9, "uint8")])  # fmt: skip

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return product_rows(tags, context, 0, 3)


class QLinearConv(Operator):
    """ConvInteger(x, w) [+ int32 bias], requantized by (x_scale * w_scale) / y_scale; w_scale: one, or one a feature."""

    versions = (10,)
    inputs = (
        In("x", EITHER8), In("x_scale", FLOATS), In("x_zero_point", EITHER8), In("w", EITHER8), In("w_scale", FLOATS),
        In("w_zero_point", EITHER8), In("y_scale", FLOATS), In("y_zero_point", EITHER8), In("B", INT32, optional=True),
    )  # fmt: skip
    outputs = (Out("y", EITHER8),)
    types = {}
    attributes = WINDOW
    accuracy = Accuracy.exact()
    differentiable = False
    prepack = (3,)
    flops = work.convolution(weight=3)

    def infer(self, context: Context) -> list[Type | None]:
        return [
            TensorType(context.dtype(7), conv_shape(context.shape(0), context.shape(3), context.attributes, context))
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*inputs, None)[:9]
        total = exact_conv(centred(x, x_zero), centred(w, w_zero, 0), attributes)
        if bias is not None:
            total = total + along(bias.astype(np.int64), total.ndim, 1)
        factor = along(multiplier(x_scale, w_scale, y_scale), total.ndim, 1)
        return [saturate(total.astype(np.float32) * factor, y_zero, y_zero.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, given in CONV_CASES:
            features = w[0]
            for kind in ("uint8", "int8"):
                wide = rng.uniform(0.001, 0.02, features).astype(np.float32)
                bias = rng.integers(-500, 500, features).astype(np.int32)
                yield Sample(
                    [
                        levels(rng, x, kind),
                        scale(0.05),
                        number(3, kind),
                        levels(rng, w, "int8"),
                        wide,
                        np.zeros(features, np.int8),
                        scale(0.1),
                        number(2, kind),
                        bias,
                    ],
                    given,
                )
            yield Sample(
                [
                    levels(rng, x, "uint8"),
                    scale(0.05),
                    number(3, "uint8"),
                    levels(rng, w, "uint8"),
                    scale(0.01),
                    number(120, "uint8"),
                    scale(0.2),
                    number(2, "uint8"),
                ],
                given,
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first([tags[0], *(tag for index, tag in enumerate(tags) if index)])
