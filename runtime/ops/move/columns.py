"""Col2Im and MaxUnpool: images put together again from their windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import batch_first, count_of, int64, known_shape, sizes_of
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, widen
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.ops.window import Window, scatter
from headrace.runtime.shapes import Dim, product
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})


class Col2Im(Operator):
    """Columns [N, C * prod(block), windows] summed into images [N, C, *image]."""

    versions = (18,)
    inputs = (In("input"), In("image_shape", INT64), In("block_shape", INT64))
    outputs = (Out("output"),)
    types = {"T": dtypes.NUMERIC | {"bool"}}
    attributes = {"dilations": Attr("ints"), "pads": Attr("ints"), "strides": Attr("ints")}
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, image, block = known_shape(context, 0, (3,)), context.value(1), context.value(2)
        if x is None or not isinstance(image, tuple) or not isinstance(block, tuple):
            rank = context.shape(1)
            count = rank[0] + 2 if rank and isinstance(rank[0], int) else None
            return [
                TensorType(
                    context.dtype(), None if count is None else tuple(context.fresh("image") for _ in range(count))
                )
            ]
        return [TensorType(context.dtype(), (x[0], x[1] // product(block), *image))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, image, block = widen(inputs[0]), sized(inputs[1]), tuple(int(size) for size in inputs[2])
        window = Window.of(attributes, block)
        counts = sizes_of(window.output(image))
        if count_of(counts) != x.shape[2]:
            raise RunError(f"there are {x.shape[2]} columns; the image {list(image)} has {count_of(counts)} windows")
        columns = x.reshape(x.shape[0], -1, *block, *counts)
        return [np.ascontiguousarray(scatter(columns, window, image, counts)).astype(inputs[0].dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 12, 12), "float32"), int64(4, 5), int64(2, 2)])
        yield Sample([draw(rng, (1, 9, 4), "float32"), int64(5, 5), int64(3, 3)], {"strides": (2, 2)})
        yield Sample(
            [draw(rng, (1, 4, 16), "float32"), int64(4, 3), int64(2, 2)], {"pads": (1, 1, 0, 1), "dilations": (1, 1)}
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class MaxUnpool(Operator):
    """Elements put back to the flat indices that MaxPool answered, zeros elsewhere."""

    versions = (9, 11, 22)
    inputs = (In("X", "T1"), In("I", INT64), In("output_shape", INT64, optional=True))
    outputs = (Out("output", "T1"),)
    types = {"T1": dtypes.FLOAT}
    attributes = {"kernel_shape": Attr("ints", REQUIRED), "pads": Attr("ints"), "strides": Attr("ints")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x = known_shape(context, 0, least=3)
        if x is None:
            return [TensorType(context.dtype())]
        if context.has(2):
            target = context.value(2)
            return [
                TensorType(
                    context.dtype(),
                    target if isinstance(target, tuple) else tuple(context.fresh("unpooled") for _ in x),
                )
            ]
        return [TensorType(context.dtype(), (*x[:2], *_unpooled(x[2:], context.attributes)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, places, target = (*inputs, None)[:3]
        shape = sized([*x.shape[:2], *_unpooled(x.shape[2:], attributes)])  # type: ignore[list-item]
        flat = np.zeros(count_of(shape), x.dtype)
        if places.size and (places.min() < 0 or places.max() >= flat.size):
            raise RunError(f"an index is outside of the {flat.size} elements of the output")
        flat[places.ravel()] = x.ravel()
        y = flat.reshape(shape)
        if target is None or tuple(target) == shape:
            return [y]
        larger = np.zeros(sized(target), x.dtype)
        common = tuple(slice(min(a, b)) for a, b in zip(larger.shape, shape))
        larger[common] = y[common]
        return [larger]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, places = draw(rng, (1, 1, 2, 2), "float32"), np.array([[[[5, 7], [13, 15]]]], np.int64)
        yield Sample([x, places], {"kernel_shape": (2, 2), "strides": (2, 2)})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [
            None if all(tag is None for tag in tags) else MIXED
        ]  # indices count from the first element of the batch


def _unpooled(sizes: Sequence[Dim], attributes: Mapping[str, Any]) -> tuple[Dim, ...]:
    window = Window.of(attributes, attributes["kernel_shape"])
    if len(window.kernel) != len(sizes):
        raise GraphError(f"kernel_shape is {list(window.kernel)}; allowed: {len(sizes)} integers")
    return tuple(
        (size - 1) * s - b - e + k
        for size, s, b, e, k in zip(sizes, window.strides, window.begin, window.end, window.kernel)
    )
