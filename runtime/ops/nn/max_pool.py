"""MaxPool, its gradient MaxPoolGrad, and MaxPoolPick, the gradient of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import batch_first
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, widen
from headrace.runtime.ops.nn._pooling import CASES, INT64, POOL, arranged, passed, pool_shape
from headrace.runtime.ops.window import Window
from headrace.runtime.types import TensorType, Type


def winners(x: Any, window: Window, counts: Sequence[int]) -> tuple[Any, Any]:
    """The largest element of each window, and its place in the padded array as one flat spatial index. The first of
    equals wins; NaN wins over all. Padding never wins."""
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = window.pad(x, lowest, counts)
    inside = window.pad(np.ones((1, 1, *x.shape[2:]), bool), False, counts)
    best = np.full((*x.shape[:2], *counts), lowest, x.dtype)
    place = np.full(best.shape, -1, np.int64)
    grid = np.arange(int(np.prod(padded.shape[2:])), dtype=np.int64).reshape(1, 1, *padded.shape[2:])
    for _, slices in window.taps(counts):
        pick = (slice(None), slice(None), *slices)
        value = padded[pick]
        better = inside[pick] & ((value > best) | (place < 0) | (value != value) & (best == best))
        best, place = np.where(better, value, best), np.where(better, grid[pick], place)
    return best, place


def unpadded(place: Any, x_shape: Sequence[int], window: Window, counts: Sequence[int]) -> list[Any]:
    """Coordinates in the data, one array per spatial axis, of flat places in the padded array."""
    sizes = [
        max(b + size, (c - 1) * s + e)
        for b, size, c, s, e in zip(window.begin, x_shape[2:], counts, window.strides, window.extents)
    ]
    return [axis - begin for axis, begin in zip(np.unravel_index(np.maximum(place, 0), sizes), window.begin)]


class MaxPool(Operator):
    """The largest element of each window; optionally its flat index in X (row-major, or column-major spatially)."""

    versions = (1, 8, 10, 11, 12, 22)
    outputs = (Out("Y"), Out("Indices", INT64, optional=True))
    types = {"T": dtypes.FLOAT | {"int8", "uint8"}}
    attributes = {**POOL, "storage_order": Attr("int", 0, (0, 1))}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape = pool_shape(context)
        return [TensorType(context.dtype(), shape), TensorType("int64", shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = widen(inputs[0])
        window, counts = arranged(attributes, x.shape[2:])
        best, place = winners(x, window, counts)
        if n_outputs < 2:
            return [best.astype(inputs[0].dtype)]
        coordinates = unpadded(place, x.shape, window, counts)
        order: Any = "F" if attributes["storage_order"] else "C"
        flat = np.ravel_multi_index(tuple(coordinates), x.shape[2:], order=order)
        images = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(counts))
        return [best.astype(inputs[0].dtype), (flat + images * int(np.prod(x.shape[2:]))).astype(np.int64)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None if grads[0] is None else F.MaxPoolGrad(grads[0], inputs[0], **passed(attributes))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            yield Sample([draw(rng, shape, "float32")], attributes)
            yield Sample([draw(rng, shape, "float32")], attributes, outputs=2)
        yield Sample([draw(rng, (1, 2, 5, 4), "uint8", 0, 255)], CASES[0][1])
        yield Sample([draw(rng, (1, 2, 5, 4), "float32")], {**CASES[0][1], "storage_order": 1}, outputs=2)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [*batch_first(tags), *batch_first([None if tags[0] is None else -1])][: context.n_outputs]


class MaxPoolGrad(Operator):
    """The gradient of MaxPool: each dY [N, C, *counts] goes to the first largest element of its window in X."""

    domain = "headrace"
    inputs = (In("dY"), In("X"))
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = POOL
    twice_differentiable = True

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), context.shape(1))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, x = inputs
        window, counts = arranged(attributes, x.shape[2:])
        _, place = winners(widen(x), window, counts)
        coordinates = unpadded(place, x.shape, window, counts)
        flat = np.ravel_multi_index(tuple(coordinates), x.shape[2:])
        images = int(np.prod(x.shape[:2]))
        area = int(np.prod(x.shape[2:]))
        index = flat.reshape(images, int(np.prod(counts))) + np.arange(images)[:, None] * area
        total = np.zeros(images * area, widen(dy).dtype)
        np.add.at(total, index.ravel(), np.where(place.ravel() < 0, 0, widen(dy).ravel()))
        return [total.reshape(x.shape).astype(dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.MaxPoolPick(grads[0], inputs[1], **passed(attributes)), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            counts = arranged(attributes, shape[2:])[1]
            yield Sample([draw(rng, (*shape[:2], *counts), "float32"), draw(rng, shape, "float32")], attributes)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if tags[0] is None and tags[1] is None else 0 if tags[0] == 0 and tags[1] == 0 else -1]


class MaxPoolPick(Operator):
    """Elements of `data` at the places where MaxPool finds the largest elements of X (both [N, C, *sizes])."""

    domain = "headrace"
    inputs = (In("data"), In("X"))
    outputs = (Out("picked"),)
    types = {"T": dtypes.FLOAT}
    attributes = POOL
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), pool_shape(context, 1))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, x = inputs
        window, counts = arranged(attributes, x.shape[2:])
        _, place = winners(widen(x), window, counts)
        flat = np.ravel_multi_index(tuple(unpadded(place, x.shape, window, counts)), x.shape[2:])
        picked = np.take_along_axis(data.reshape(*x.shape[:2], -1), flat.reshape(*x.shape[:2], -1), axis=2)
        return [np.where(place < 0, 0, picked.reshape(place.shape)).astype(data.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.MaxPoolGrad(grads[0], inputs[1], **passed(attributes)), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            yield Sample([draw(rng, shape, "float32"), draw(rng, shape, "float32")], attributes)
