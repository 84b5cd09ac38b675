"""The fused integer operators: QConv, QGemm, QAdd. Each is defined by the Q/DQ graph that it replaces, computed on
integers by the one arithmetic of `_arithmetic`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.axes import sizes_of
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import broadcast_rows, broadcast_shapes
from headrace.runtime.ops.linear.matmul import matmul_rows, matmul_shape
from headrace.runtime.ops.nn.conv import WINDOW, conv_shape
from headrace.runtime.ops.quant._arithmetic import (
    ACTIVATIONS,
    activate_levels,
    along,
    centred,
    exact_matmul,
    multiplier,
    residual,
    saturate,
)
from headrace.runtime.ops.quant.integer import CONV_CASES, EITHER8, INT32, exact_conv, levels, number, scale
from headrace.runtime.types import TensorType, Type

FLOAT32 = frozenset({"float32"})
ACTIVATED = {"activation": Attr("string", "", ACTIVATIONS), "clip_min": Attr("float"), "clip_max": Attr("float")}
SCALED = (
    In("x", EITHER8),
    In("x_scale", FLOAT32),
    In("x_zp", EITHER8),
    In("w", EITHER8),
    In("w_scale", FLOAT32),
    In("w_zp", EITHER8),
)
ADDED = (
    In("bias", INT32, optional=True),
    In("r", EITHER8, optional=True),
    In("r_scale", FLOAT32, optional=True),
    In("r_zp", EITHER8, optional=True),
)


def finish(total: Any, factor: Any, rest: Sequence[Any], attributes: Mapping[str, Any], y_scale: Any, y_zp: Any) -> Any:
    """Exact sums -> float32 * factor + residual -> activation -> saturated integers, or floats where y_scale is None."""
    r, r_scale, r_zp = rest
    y = total.astype(np.float32) * factor
    if r is not None:
        y = y + residual(r, r_scale, r_zp, y_scale)
    y = activate_levels(y, attributes, y_scale)
    return y if y_scale is None else saturate(y, y_zp, y_zp.dtype)


class QConv(Operator):
    """x, w as QLinearConv; bias [M] in units of x_scale * w_scale; r, of the output's shape, is added before the
    activation. The result is uint8 or int8 as y_zp is."""

    domain = "headrace"
    inputs = (*SCALED, In("y_scale", FLOAT32), In("y_zp", EITHER8), *ADDED)
    outputs = (Out("y", EITHER8),)
    types = {}
    attributes = {**WINDOW, **ACTIVATED}
    accuracy = Accuracy.exact()
    differentiable = False
    prepack = (3,)
    flops = work.convolution(weight=3)

    def infer(self, context: Context) -> list[Type | None]:
        shape = conv_shape(context.shape(0), context.shape(3), context.attributes, context)
        return [TensorType(context.dtype(7), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias, *rest = (*inputs, *(None,) * 4)[:12]
        total = exact_conv(centred(x, x_zp), centred(w, w_zp, 0), attributes)
        if bias is not None:
            total = total + along(bias.astype(np.int64), total.ndim, 1)
        factor = along(multiplier(x_scale, w_scale, y_scale), total.ndim, 1)
        return [finish(total, factor, rest, attributes, y_scale, y_zp)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, given in CONV_CASES:
            features = w[0]
            counts = conv_shape(x, w, {**{key: attr.default for key, attr in WINDOW.items()}, **given}, Context([], {}))
            for kind, extra in (
                ("uint8", {}),
                ("int8", {"activation": "Relu"}),
                ("uint8", {"activation": "Clip", "clip_min": 0.0, "clip_max": 6.0}),
            ):
                wide = rng.uniform(0.001, 0.02, features).astype(np.float32)
                bias = rng.integers(-500, 500, features).astype(np.int32)
                common = [
                    levels(rng, x, kind),
                    scale(0.05),
                    number(3, kind),
                    levels(rng, w, "int8"),
                    wide,
                    np.zeros(features, np.int8),
                    scale(0.1),
                    number(2, kind),
                ]
                yield Sample([*common, bias], {**given, **extra})
                yield Sample(
                    [*common, bias, levels(rng, sizes_of(counts or ()), kind), scale(0.03), number(5, kind)],
                    {**given, **extra},
                )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        fixed = all(tag is None for index, tag in enumerate(tags) if index not in (0, 9))
        with_residual = len(tags) <= 9 or not context.has(9) or tags[9] == 0
        return [0] if fixed and tags[0] == 0 and with_residual else super().rows(tags, context)


class QGemm(Operator):
    """x [..., K] @ w [K, N] on integers; w_scale: one, or one a column; without y_scale and y_zp the result is float32."""

    domain = "headrace"
    inputs = (*SCALED, In("y_scale", FLOAT32, optional=True), In("y_zp", EITHER8, optional=True), *ADDED)
    outputs = (Out("y", EITHER8 | FLOAT32),)
    types = {}
    attributes = ACTIVATED
    accuracy = Accuracy.exact()
    differentiable = False
    prepack = (3,)
    flops = work.product(0, 3)

    def infer(self, context: Context) -> list[Type | None]:
        if context.has(6) != context.has(7):
            raise GraphError("y_scale and y_zp are given together or not at all")
        w = context.shape(3)
        if w is not None and len(w) != 2:
            raise GraphError(f"w must be a matrix [K, N], not {context.type(3)}")
        return [TensorType(context.dtype(7) if context.has(7) else "float32", matmul_shape(context.shape(0), w))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias, *rest = (*inputs, *(None,) * 6)[:12]
        total = exact_matmul(centred(x, x_zp), centred(w, w_zp, 1))
        if bias is not None:
            total = total + bias.astype(np.int64)
        factor = along(multiplier(x_scale, w_scale, y_scale), 1, 0)
        return [finish(total, factor, rest, attributes, y_scale, y_zp)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for lead, depth, width in (((3,), 8, 5), ((1,), 1, 1), ((2, 4), 33, 17), ((0,), 4, 3)):
            for kind, extra in (("uint8", {}), ("int8", {"activation": "Relu"})):
                wide = rng.uniform(0.001, 0.02, width).astype(np.float32)
                bias = rng.integers(-500, 500, width).astype(np.int32)
                common = [
                    levels(rng, (*lead, depth), kind),
                    scale(0.05),
                    number(3, kind),
                    levels(rng, (depth, width), "int8"),
                    wide,
                    np.zeros(width, np.int8),
                ]
                yield Sample([*common, scale(0.1), number(2, kind), bias], extra)
                yield Sample(
                    [
                        *common,
                        scale(0.1),
                        number(2, kind),
                        bias,
                        levels(rng, (*lead, width), kind),
                        scale(0.03),
                        number(5, kind),
                    ],
                    extra,
                )
                yield Sample([*common, None, None, bias], extra)
        yield Sample(
            [
                levels(rng, (2, 3), "uint8"),
                scale(0.05),
                number(3, "uint8"),
                levels(rng, (3, 4), "int8"),
                scale(0.01),
                number(0, "int8"),
            ]
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        fixed = all(tag is None for index, tag in enumerate(tags) if index not in (0, 9))
        found = matmul_rows([tags[0], None], context.shape(0), context.shape(3))
        with_residual = len(tags) <= 9 or not context.has(9) or tags[9] == found
        return [found] if fixed and with_residual else super().rows(tags, context)


class QAdd(Operator):
    """a + b of two quantized tensors, requantized: (a - a_zp) * (a_scale / y_scale) + (b - b_zp) * (b_scale / y_scale)."""

    domain = "headrace"
    inputs = (
        In("a", EITHER8), In("a_scale", FLOAT32), In("a_zp", EITHER8), In("b", EITHER8), In("b_scale", FLOAT32), In("b_zp", EITHER8),
        In("y_scale", FLOAT32), In("y_zp", EITHER8),
    )  # fmt: skip
    outputs = (Out("y", EITHER8),)
    types = {}
    attributes = ACTIVATED
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        pair = Context([context.inputs[0], context.inputs[3]], {})
        return [TensorType(context.dtype(7), broadcast_shapes(pair))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp = inputs
        y = residual(a, a_scale, a_zp, y_scale) + residual(b, b_scale, b_zp, y_scale)
        return [saturate(activate_levels(y, attributes, y_scale), y_zp, y_zp.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 4), (1,), (0, 2), (2, 17, 3, 3), ()):
            for kind, extra in (
                ("uint8", {}),
                ("int8", {"activation": "Relu"}),
                ("uint8", {"activation": "Clip", "clip_min": 0.0, "clip_max": 6.0}),
            ):
                yield Sample(
                    [
                        levels(rng, shape, kind),
                        scale(0.05),
                        number(3, kind),
                        levels(rng, shape, kind),
                        scale(0.02),
                        number(7, kind),
                        scale(0.06),
                        number(4, kind),
                    ],
                    extra,
                )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if any(tag is not None for index, tag in enumerate(tags) if index not in (0, 3)):
            return super().rows(tags, context)
        return [broadcast_rows([tags[0], tags[3]], [context.shape(0), context.shape(3)])]
