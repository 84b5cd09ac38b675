"""ConvTranspose: the gradient of a convolution taken as a layer of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.axes import batch_first, fresh_shape, sizes_of
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Sample
from headrace.runtime.ops.common import compute, draw
from headrace.runtime.ops.nn._convolve import input_gradient
from headrace.runtime.ops.nn.conv import (
    WINDOW,
    add_bias,
    bias_gradient,
    kernel_of,
)
from headrace.runtime.ops.window import Window
from headrace.runtime.shapes import Dim, equal
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type


class ConvTranspose(Operator):
    """X [N, C, *sizes], W [C, M/group, *kernel], B [M]: the gradient of a convolution taken as a layer of its own."""

    versions = (1, 11, 22)
    inputs = (In("X"), In("W"), In("B", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {**WINDOW, "output_padding": Attr("ints"), "output_shape": Attr("ints")}
    accuracy = Accuracy(64.0)
    prepack = (1, 2)
    flops = work.transposed_convolution()

    def infer(self, context: Context) -> list[Type | None]:
        x, w = context.shape(0), context.shape(1)
        if x is None or w is None:
            return [TensorType(context.dtype(), None if x is None else fresh_shape(context, len(x), "conv"))]
        if len(x) != len(w) or len(x) < 3:
            raise GraphError(f"ranks are {len(x)} (input) and {len(w)} (weight); allowed: equal, at least 3")
        if equal(x[1], w[0]) is False:
            raise GraphError(f"the weight takes {w[0]} channels; the input has {x[1]}")
        kernel = kernel_of(context.attributes, w)
        if kernel is None:
            sizes: Dims = fresh_shape(context, len(x) - 2, "conv")
        else:
            sizes, _ = transposed_sizes(x[2:], kernel, context.attributes)
        return [TensorType(context.dtype(), (x[0], w[1] * context.attributes["group"], *sizes))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, bias = (*inputs, None)[:3]
        sizes, window = transposed_sizes(x.shape[2:], w.shape[2:], attributes)

        def run(x: Any, w: Any, *bias: Any) -> Any:
            y = input_gradient(x, w, sizes_of(sizes), window, attributes["group"])
            return add_bias(y, bias[0] if bias else None)

        return [compute(run, [x, w] if bias is None else [x, w, bias], x.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, w, bias = (*inputs, None)[:3]
        x_shape, w_shape = F.type(x).shape, F.type(w).shape
        if attributes["auto_pad"] != "NOTSET" or attributes["output_shape"] is not None:  # pads follow from the sizes
            _, window = transposed_sizes(x_shape[2:], w_shape[2:], attributes)
            pads: Any = (*window.begin, *window.end)
        else:
            pads = attributes["pads"]
        given = {key: attributes[key] for key in ("dilations", "group", "strides") if attributes[key] is not None}
        given |= {} if pads is None else {"pads": pads}
        dx = F.Conv(grads[0], w, **given)
        dw = F.ConvWeightGrad(x, grads[0], F.Shape(w), **given)
        return [dx, dw, bias_gradient(F, grads[0], bias)][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, attributes in (
            ((1, 2, 3, 3), (2, 4, 3, 3), {}),
            ((1, 4, 4, 3), (4, 2, 2, 3), {"group": 2, "strides": (2, 2), "pads": (0, 1, 1, 0)}),
            ((1, 2, 5), (2, 3, 3), {"strides": (3,), "output_padding": (1,)}),
            ((1, 1, 3, 3), (1, 2, 3, 3), {"strides": (3, 2), "output_shape": (10, 8)}),
            ((1, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
            ((1, 1, 3, 3), (1, 1, 2, 2), {"dilations": (2, 2)}),
            ((2, 3, 2, 3, 2), (3, 2, 2, 2, 2), {"strides": (2, 1, 2)}),
        ):
            yield Sample([draw(rng, x, "float32"), draw(rng, w, "float32")], attributes)
            groups: Any = attributes.get("group", 1)
            features = w[1] * groups
            yield Sample(
                [draw(rng, x, "float32"), draw(rng, w, "float32"), draw(rng, (features,), "float32")], attributes
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


def transposed_sizes(sizes: Sequence[Dim], kernel: Sequence[Dim], attributes: Mapping[str, Any]) -> tuple[Dims, Window]:
    """Output sizes of ConvTranspose, and the windows of the convolution that it reverses."""
    plain = {key: attributes.get(key) for key in ("dilations", "strides", "pads")}
    window = Window.of(plain, tuple(int(size) for size in kernel))  # type: ignore[arg-type]
    rank = len(kernel)
    extra = attributes.get("output_padding") or (0,) * rank
    wanted, auto_pad = attributes.get("output_shape"), attributes.get("auto_pad") or "NOTSET"
    if len(extra) != rank or (wanted is not None and len(wanted) not in (rank, rank + 2)):
        raise GraphError(f"output_padding and output_shape must hold {rank} integers")
    full = [(size - 1) * s + o + e for size, s, o, e in zip(sizes, window.strides, extra, window.extents)]
    if wanted is None and not auto_pad.startswith("SAME"):
        begin, end = ((0,) * rank,) * 2 if auto_pad == "VALID" else (window.begin, window.end)
        output = tuple(size - b - e for size, b, e in zip(full, begin, end))
    else:
        output = (
            tuple(wanted[-rank:]) if wanted is not None else tuple(size * s for size, s in zip(sizes, window.strides))
        )
        begin, end = _shared_out([size - out for size, out in zip(full, output)], auto_pad == "SAME_UPPER")
    return output, Window(window.kernel, window.strides, window.dilations, tuple(begin), tuple(end))


def _shared_out(totals: Sequence[Dim], more_behind: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding in total as padding in front and behind; what is odd goes to one end. Less than 0 adds elements behind."""
    if any(not isinstance(size, int) for size in totals):
        raise GraphError("output_shape needs an input of known size")
    sizes = sizes_of(totals)
    half = tuple(max(0, size) // 2 for size in sizes)
    rest = tuple(max(0, size) - part for size, part in zip(sizes, half))
    begin, end = (half, rest) if more_behind else (rest, half)
    return begin, tuple(part + min(0, size) for part, size in zip(end, sizes))
