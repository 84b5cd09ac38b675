"""DeformConv: a convolution whose windows read at places that are moved by offsets and weighed by a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import batch_first
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Sample
from headrace.runtime.ops.common import compute, draw
from headrace.runtime.ops.move._sample import sample
from headrace.runtime.ops.nn.conv import add_bias, conv_shape, window_of
from headrace.runtime.types import TensorType, Type


class DeformConv(Operator):
    """X [N, C, *sizes], W [M, C/group, *kernel], offset [N, offset_group * prod(kernel) * axes, *out], B [M],
    mask [N, offset_group * prod(kernel), *out]."""

    versions = (19, 22)
    inputs = (In("X"), In("W"), In("offset"), In("B", optional=True), In("mask", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {
        "dilations": Attr("ints"), "group": Attr("int", 1), "kernel_shape": Attr("ints"), "offset_group": Attr("int", 1),
        "pads": Attr("ints"), "strides": Attr("ints"),
    }  # fmt: skip
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [
            TensorType(context.dtype(), conv_shape(context.shape(0), context.shape(1), context.attributes, context))
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, offset, bias, mask = (*inputs, None, None)[:5]
        given = [item for item in (bias, mask) if item is not None]

        def run(x: Any, w: Any, offset: Any, *rest: Any) -> Any:
            parts = iter(rest)
            b = None if bias is None else next(parts)
            return add_bias(deformed(x, w, offset, None if mask is None else next(parts), attributes), b)

        return [compute(run, [x, w, offset, *given], x.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w = draw(rng, (1, 4, 5, 4), "float32"), draw(rng, (2, 2, 2, 2), "float32")
        yield Sample(
            [
                x,
                w,
                draw(rng, (1, 16, 4, 3), "float32", -1, 1),
                draw(rng, (2,), "float32"),
                draw(rng, (1, 8, 4, 3), "float32", 0, 1),
            ],
            {"group": 2, "offset_group": 2},
        )
        yield Sample(
            [x, draw(rng, (3, 4, 2, 2), "float32"), draw(rng, (1, 8, 6, 5), "float32", -1, 1)], {"pads": (1, 1, 1, 1)}
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        data = [tags[i] for i in (0, 2, 4) if i < len(tags) and context.has(i)]
        weights = [tags[i] for i in (1, 3) if i < len(tags)]
        if all(tag is None for tag in tags):
            return [None]
        return batch_first([0, *weights]) if all(tag == 0 for tag in data) else [MIXED]


def deformed(x: Any, w: Any, offset: Any, mask: Any, attributes: Mapping[str, Any]) -> Any:
    """The columns of every window, read at their moved places, times the weights."""
    groups, shares = attributes["group"], attributes["offset_group"]
    window = window_of(attributes, w.shape)
    counts, kernel = offset.shape[2:], window.kernel
    rank = len(kernel)
    moved = offset.reshape(x.shape[0], shares, *kernel, rank, *counts)
    columns = []
    for share in range(shares):
        places = []
        for axis in range(rank):
            steps = np.arange(kernel[axis]) * window.dilations[axis] - window.begin[axis]
            starts = np.arange(counts[axis]) * window.strides[axis]
            steps = steps.reshape([-1 if i == axis else 1 for i in range(2 * rank)])
            starts = starts.reshape([-1 if i == rank + axis else 1 for i in range(2 * rank)])
            places.append(moved[(slice(None), share, *[slice(None)] * rank, axis)] + (steps + starts).astype(x.dtype))
        size = x.shape[1] // shares
        columns.append(sample(x[:, share * size : (share + 1) * size], places, "linear", "zeros", [(0.0, 0.0)] * rank))
        if mask is not None:
            columns[-1] = columns[-1] * mask.reshape(x.shape[0], shares, 1, *kernel, *counts)[:, share]
    together = np.concatenate(columns, axis=1).reshape(x.shape[0], groups, -1, int(np.prod(counts)))
    y = np.matmul(w.reshape(groups, w.shape[0] // groups, -1), together)
    return y.reshape(x.shape[0], w.shape[0], *counts)
