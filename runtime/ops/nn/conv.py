"""Conv and its gradients ConvInputGrad and ConvWeightGrad: any spatial rank, groups, dilations, pads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.axes import batch_first, fresh_shape, int64
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw
from headrace.runtime.ops.nn._convolve import convolve, input_gradient, weight_gradient
from headrace.runtime.ops.window import AUTO_PAD, Window
from headrace.runtime.shapes import Dim, equal
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})
WINDOW = {
    "auto_pad": AUTO_PAD,
    "dilations": Attr("ints"),
    "group": Attr("int", 1),
    "kernel_shape": Attr("ints"),
    "pads": Attr("ints"),
    "strides": Attr("ints"),
}


def kernel_of(attributes: Mapping[str, Any], weight: Sequence[Dim] | None) -> tuple[int, ...] | None:
    """The kernel's sizes: the attribute, else those of the weight [M, C/groups, *kernel]. GraphError where both differ."""
    given = attributes.get("kernel_shape")
    sizes = None if weight is None or not all(isinstance(size, int) for size in weight[2:]) else tuple(weight[2:])
    if given is None:
        return sizes  # type: ignore[return-value]
    if sizes is not None and tuple(given) != sizes:
        raise GraphError(f"kernel_shape is {list(given)}, but the weight has {list(sizes)}")
    return tuple(given)


def conv_shape(x: Dims | None, w: Dims | None, attributes: Mapping[str, Any], context: Context) -> Dims | None:
    """The output shape of a convolution."""
    groups = attributes["group"]
    if groups < 1:
        raise GraphError(f"group is {groups}; allowed: 1 and more")
    if x is None or w is None:
        rank = len(x) if x is not None else len(w) if w is not None else None
        return None if rank is None else fresh_shape(context, rank, "conv")
    if len(x) != len(w) or len(x) < 3:
        raise GraphError(f"ranks are {len(x)} (input) and {len(w)} (weight); allowed: equal, at least 3")
    if equal(w[1] * groups, x[1]) is False:
        raise GraphError(f"the weight takes {w[1]} x {groups} (group) channels; the input has {x[1]}")
    if isinstance(w[0], int) and w[0] % groups:
        raise GraphError(f"the weight has {w[0]} features; allowed: a multiple of group {groups}")
    kernel = kernel_of(attributes, w)
    if kernel is None:
        return (x[0], w[0], *fresh_shape(context, len(x) - 2, "conv"))
    return (x[0], w[0], *Window.of(attributes, kernel).output(x[2:]))


def window_of(attributes: Mapping[str, Any], w_shape: Sequence[int]) -> Window:
    return Window.of(attributes, tuple(int(size) for size in w_shape[2:]))


def add_bias(y: Any, bias: Any) -> Any:
    """Adds one number to each channel of [N, M, *sizes]."""
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def bias_gradient(F: Any, grad: Any, bias: Any) -> Any:
    """The sum over everything but axis 1."""
    if bias is None:
        return None
    axes = int64(0, *range(2, F.rank(grad)))
    return F.ReduceSum(grad, F.constant(axes), keepdims=0)


def passed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The window attributes that are set, for a call of another operator of the family."""
    return {key: attributes[key] for key in WINDOW if attributes.get(key) is not None}


# (x shape, w shape, attributes): odd sizes, every attribute, ranks 1 to 3.
CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 7, 5), (4, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "strides": (2, 3), "pads": (0, 2, 1, 0)}),
    ((1, 5, 6, 6), (5, 1, 3, 3), {"group": 5, "pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ((1, 2, 10), (3, 2, 3), {"dilations": (2,), "pads": (2, 1)}),
    ((1, 2, 5, 4, 6), (2, 2, 2, 3, 1), {"strides": (1, 2, 2)}),
    ((1, 3, 6, 7), (2, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 3, 6, 7), (2, 3, 2, 3), {"auto_pad": "SAME_LOWER"}),
    ((2, 3, 4, 4), (17, 3, 1, 1), {"auto_pad": "VALID"}),
)


class Conv(Operator):
    """X [N, C, *sizes], W [M, C/group, *kernel], B [M]: the cross-correlation of ONNX."""

    versions = (1, 11, 22)
    inputs = (In("X"), In("W"), In("B", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = WINDOW
    accuracy = Accuracy(64.0)
    prepack = (1, 2)
    flops = work.convolution()

    def infer(self, context: Context) -> list[Type | None]:
        return [
            TensorType(context.dtype(), conv_shape(context.shape(0), context.shape(1), context.attributes, context))
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, bias = (*inputs, None)[:3]
        window = window_of(attributes, w.shape)

        def run(x: Any, w: Any, *bias: Any) -> Any:
            return add_bias(convolve(x, w, window, attributes["group"]), bias[0] if bias else None)

        return [compute(run, [x, w] if bias is None else [x, w, bias], x.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, w, bias = (*inputs, None)[:3]
        given = passed(attributes)
        dx = F.ConvInputGrad(grads[0], w, F.Shape(x), **given)
        dw = F.ConvWeightGrad(grads[0], x, F.Shape(w), **given)
        return [dx, dw, bias_gradient(F, grads[0], bias)][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, attributes in CASES:
            yield Sample([draw(rng, x, "float32"), draw(rng, w, "float32")], attributes)
            yield Sample([draw(rng, x, "float32"), draw(rng, w, "float32"), draw(rng, w[:1], "float32")], attributes)
        for dtype in ("float64", "float16", "bfloat16"):
            yield Sample([draw(rng, (1, 2, 5, 5), dtype), draw(rng, (3, 2, 3, 3), dtype), draw(rng, (3,), dtype)])
        yield Sample([draw(rng, (0, 2, 5, 5), "float32"), draw(rng, (3, 2, 3, 3), "float32")])
        yield Sample(
            [draw(rng, (2, 2, 2, 4), "float32"), draw(rng, (3, 2, 3, 3), "float32")], {"strides": (2, 2)}
        )  # no window fits

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class ConvInputGrad(Operator):
    """The gradient of Conv for its input: dY [N, M, *counts], W [M, C/group, *kernel], shape of X -> dX [N, C, *sizes].

    Attributes are those of the Conv whose gradient it is.
    """

    domain = "headrace"
    inputs = (In("dY"), In("W"), In("shape", INT64))
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = WINDOW
    accuracy = Accuracy(64.0)
    prepack = (1,)

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(2), context.type(0).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "conv"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, w, shape = inputs
        window, sizes = window_of(attributes, w.shape), tuple(int(size) for size in shape[2:])
        return [compute(lambda dy, w: input_gradient(dy, w, sizes, window, attributes["group"]), [dy, w], dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        dy, w, _ = inputs
        given = passed(attributes)
        return [F.Conv(grads[0], w, **given), F.ConvWeightGrad(dy, grads[0], F.Shape(w), **given), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, attributes in CASES:
            yield Sample(
                [draw(rng, _counts(x, w, attributes), "float32"), draw(rng, w, "float32"), int64(*x)], attributes
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags[:2])


class ConvWeightGrad(Operator):
    """The gradient of Conv for its weight: dY [N, M, *counts], X [N, C, *sizes], shape of W -> dW [M, C/group, *kernel]."""

    domain = "headrace"
    inputs = (In("dY"), In("X"), In("shape", INT64))
    outputs = (Out("dW"),)
    types = {"T": dtypes.FLOAT}
    attributes = WINDOW
    accuracy = Accuracy(256.0)

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(2), context.type(1).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "conv"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, x, shape = inputs
        window = window_of(attributes, shape)
        return [compute(lambda dy, x: weight_gradient(dy, x, window, attributes["group"]), [dy, x], dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        dy, x, _ = inputs
        given = passed(attributes)
        return [F.Conv(x, grads[0], **given), F.ConvInputGrad(dy, grads[0], F.Shape(x), **given), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, attributes in CASES:
            yield Sample(
                [draw(rng, _counts(x, w, attributes), "float32"), draw(rng, x, "float32"), int64(*w)], attributes
            )


def _counts(x: tuple[int, ...], w: tuple[int, ...], attributes: Mapping[str, Any]) -> tuple[int, ...]:
    return (x[0], w[0], *window_of(attributes, w).output(x[2:]))  # type: ignore[arg-type]
