"""Fused float operators of the domain headrace: a product, a bias, a residual and an activation in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.axes import batch_first, sizes_of
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Sample
from headrace.runtime.ops.common import broadcast_rows, compute, draw
from headrace.runtime.ops.linear.matmul import matmul_rows, matmul_shape
from headrace.runtime.ops.nn import _activation as activation
from headrace.runtime.ops.nn._convolve import convolve
from headrace.runtime.ops.nn.conv import CASES, WINDOW, add_bias, conv_shape, window_of
from headrace.runtime.shapes import Shape, broadcast
from headrace.runtime.types import TensorType, Type


class FusedConv(Operator):
    """activation(Conv(x, w) + bias + r): x, w, bias as Conv; r [N, M, *counts] is a residual of the output's shape.

    alpha and beta are the activation's (LeakyRelu, HardSigmoid); clip_min and clip_max are Clip's.
    """

    domain = "headrace"
    inputs = (In("x"), In("w"), In("bias", optional=True), In("r", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {**WINDOW, **activation.ATTRIBUTES, "alpha": Attr("float")}
    accuracy = Accuracy(64.0)
    prepack = (1, 2)
    differentiable = False
    flops = work.convolution()

    def infer(self, context: Context) -> list[Type | None]:
        return [
            TensorType(context.dtype(), conv_shape(context.shape(0), context.shape(1), context.attributes, context))
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, bias, r = (*inputs, None, None)[:4]
        window = window_of(attributes, w.shape)

        def run(x: Any, w: Any) -> Any:
            y = add_bias(convolve(x, w, window, attributes["group"]), None if bias is None else bias.astype(x.dtype))
            return activation.activate(y if r is None else y + r.astype(x.dtype), attributes)

        return [compute(run, [x, w], x.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        names = [name for name in activation.ACTIVATIONS if name]
        defaults = {key: attr.default for key, attr in WINDOW.items()}
        for index, (x, w, given) in enumerate(CASES):
            extra: dict[str, Any] = {"activation": names[index % len(names)]}
            if extra["activation"] == "Clip":
                extra |= {"clip_min": 0.0, "clip_max": 6.0}
            counts = sizes_of(conv_shape(x, w, {**defaults, **given}, Context([], {})) or ())
            yield Sample(
                [draw(rng, x, "float32"), draw(rng, w, "float32"), draw(rng, w[:1], "float32")], {**given, **extra}
            )
            yield Sample(
                [draw(rng, x, "float32"), draw(rng, w, "float32"), None, draw(rng, counts, "float32")],
                {**given, **extra},
            )
        image, weight = draw(rng, (1, 3, 6, 6), "float32"), draw(rng, (4, 3, 3, 3), "float32")
        for name in names:
            yield Sample(
                [image, weight, draw(rng, (4,), "float32"), draw(rng, (1, 4, 4, 4), "float32")], {"activation": name}
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if len(tags) > 3 and context.has(3):
            return (
                [0] if tags[0] == tags[3] == 0 and tags[1] is None and tags[2] is None else super().rows(tags, context)
            )
        return batch_first(tags)


class FusedMatMul(Operator):
    """activation(alpha * (a' @ b') + bias + r): a' and b' are a and b with their last two dimensions exchanged where transA
    and transB say so; bias [N] or of one element; r broadcasts to the output.

    `alpha` is the factor of the product, so activations that take an alpha of their own are not among its choices.
    """

    domain = "headrace"
    inputs = (In("a"), In("b"), In("bias", optional=True), In("r", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {
        "activation": Attr("string", "", activation.PLAIN), "clip_min": Attr("float"), "clip_max": Attr("float"),
        "alpha": Attr("float", 1.0), "transA": Attr("int", 0, (0, 1)), "transB": Attr("int", 0, (0, 1)),
    }  # fmt: skip
    accuracy = Accuracy(16.0)
    prepack = (1, 2)
    differentiable = False
    flops = work.product()

    def infer(self, context: Context) -> list[Type | None]:
        a, b = (turned(context.shape(i), context.attributes[key]) for i, key in ((0, "transA"), (1, "transB")))
        shape = matmul_shape(a, b)
        for index in (2, 3):
            if context.has(index):
                added = context.shape(index)
                if shape is not None and added is not None and len(broadcast(shape, added)) != len(shape):
                    raise GraphError(f"input {index} {context.type(index)} does not broadcast to {shape}")
        return [TensorType(context.dtype(), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a, b, bias, r = (*inputs, None, None)[:4]

        def run(a: Any, b: Any) -> Any:
            y = (np.swapaxes(a, -1, -2) if attributes["transA"] else a) @ (
                np.swapaxes(b, -1, -2) if attributes["transB"] else b
            )
            if attributes["alpha"] != 1.0:
                y = y * np.asarray(attributes["alpha"], y.dtype)
            for term in (bias, r):
                y = y if term is None else y + term.astype(y.dtype)
            return activation.activate(y, attributes)

        return [compute(run, [a, b], a.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for a, b, given in (
            ((3, 4), (4, 5), {}),
            ((1, 1), (1, 1), {"activation": "Relu"}),
            ((2, 7, 33), (33, 17), {"activation": "Gelu"}),
            ((2, 3, 4, 8), (2, 3, 8, 5), {"alpha": 0.125}),
            ((2, 3, 4, 8), (2, 3, 5, 8), {"transB": 1, "alpha": 0.5}),
            ((8, 4), (8, 5), {"transA": 1, "activation": "Clip", "clip_min": -1.0, "clip_max": 1.0}),
            ((0, 4), (4, 5), {"activation": "Tanh"}),
            ((1, 64), (64, 70), {"activation": "HardSwish"}),
        ):
            width = b[-2] if given.get("transB") else b[-1]
            y = np.broadcast_shapes(a[:-2], b[:-2]) + ((a[-1] if given.get("transA") else a[-2]), width)
            yield Sample([draw(rng, a, "float32"), draw(rng, b, "float32")], given)
            yield Sample([draw(rng, a, "float32"), draw(rng, b, "float32"), draw(rng, (width,), "float32")], given)
            yield Sample(
                [
                    draw(rng, a, "float32"),
                    draw(rng, b, "float32"),
                    draw(rng, (width,), "float32"),
                    draw(rng, y, "float32"),
                ],
                given,
            )
        for dtype in ("float64", "float16", "bfloat16"):
            yield Sample(
                [draw(rng, (3, 4), dtype), draw(rng, (4, 5), dtype), draw(rng, (5,), dtype)], {"activation": "Relu"}
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        shapes = [turned(context.shape(i), context.attributes[key]) for i, key in ((0, "transA"), (1, "transB"))]
        turned_tags = [
            turned_tag(tags[i], shapes[i], context.attributes[key]) for i, key in ((0, "transA"), (1, "transB"))
        ]
        found = matmul_rows(turned_tags, *shapes)
        shape = matmul_shape(*shapes)
        for index in (2, 3):
            if index < len(tags) and context.has(index):
                found = broadcast_rows([found, tags[index]], [shape, context.shape(index)])
        return [found]


def turned(shape: Shape | None, transposed: int) -> Shape | None:
    """A shape with its last two dimensions exchanged."""
    return shape if not transposed or shape is None or len(shape) < 2 else (*shape[:-2], shape[-1], shape[-2])


def turned_tag(tag: int | None, shape: Shape | None, transposed: int) -> int | None:
    """Where the batch's axis goes with the exchange."""
    if not transposed or tag is None or tag == MIXED or shape is None or tag < len(shape) - 2:
        return tag
    return 2 * len(shape) - 3 - tag
