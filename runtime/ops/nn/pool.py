"""MaxPool, AveragePool, LpPool and the gradients MaxPoolGrad and AveragePoolGrad: windows over any number of axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first, drop, fresh_shape, int64, known_shape, sizes_of
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw, widen
from headrace.runtime.ops.window import AUTO_PAD, Window, scatter
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})
POOL = {
    "auto_pad": AUTO_PAD,
    "ceil_mode": Attr("int", 0, (0, 1)),
    "dilations": Attr("ints"),
    "kernel_shape": Attr("ints", REQUIRED),
    "pads": Attr("ints"),
    "strides": Attr("ints"),
}
# (shape, attributes) that find mistakes: every attribute, odd sizes, ranks 1 to 3.
CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 8, 7), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ((1, 2, 7, 6), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 2, 7, 8), {"kernel_shape": (3, 2), "strides": (2, 3), "ceil_mode": 1}),
    ((1, 2, 6, 6), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 1, 1), "ceil_mode": 1}),
    ((1, 1, 9), {"kernel_shape": (3,), "dilations": (2,)}),
    ((1, 2, 4, 5, 4), {"kernel_shape": (2, 3, 2), "strides": (1, 2, 2)}),
    ((1, 2, 6, 5), {"kernel_shape": (3, 2), "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 2, 6, 5), {"kernel_shape": (2, 2), "auto_pad": "SAME_LOWER"}),
    ((1, 2, 6, 5), {"kernel_shape": (2, 2), "auto_pad": "VALID"}),
)


def pool_shape(context: Context, index: int = 0) -> Dims | None:
    """The output shape of a pool over input `index`."""
    shape = known_shape(context, index, least=3)
    if shape is None:
        return None
    kernel = context.attributes["kernel_shape"]
    if len(kernel) != len(shape) - 2:
        raise GraphError(f"kernel_shape is {list(kernel)}; allowed for rank {len(shape)}: {len(shape) - 2} integers")
    return (*shape[:2], *Window.of(context.attributes, kernel).output(shape[2:]))


def arranged(attributes: Mapping[str, Any], sizes: Sequence[int]) -> tuple[Window, tuple[int, ...]]:
    """The windows with explicit pads, and how many there are on each axis."""
    window = Window.of(attributes, attributes["kernel_shape"])
    counts = sizes_of(window.output(sizes))
    return window.resolve(sizes), counts


def passed(attributes: Mapping[str, Any], names: Mapping[str, Any] = POOL) -> dict[str, Any]:
    return {key: attributes[key] for key in names if attributes.get(key) is not None}


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


def divisors(x_shape: Sequence[int], window: Window, counts: Sequence[int], include_pad: bool) -> Any:
    """By how many elements each window's sum is divided, [*counts]: its data, and its explicit padding too where
    `include_pad` is set; what ceil_mode adds behind never counts."""
    total = np.ones((1,) * len(counts), np.int64)
    for axis, count in enumerate(counts):
        begin, size, end = window.begin[axis], x_shape[2 + axis], window.end[axis]
        first, last = (0, begin + size + end) if include_pad else (begin, begin + size)
        places = (
            np.arange(count)[:, None] * window.strides[axis] + np.arange(window.kernel[axis]) * window.dilations[axis]
        )
        inside = np.count_nonzero((places >= first) & (places < last), axis=1)
        total = total * inside.reshape([-1 if other == axis else 1 for other in range(len(counts))])
    return np.maximum(total, 1)


class AveragePool(Operator):
    """The mean of each window."""

    versions = (1, 7, 10, 11, 19, 22)
    types = {"T": dtypes.FLOAT}
    attributes = {**POOL, "count_include_pad": Attr("int", 0, (0, 1))}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), pool_shape(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0]
        window, counts = arranged(attributes, x.shape[2:])
        divisor = divisors(x.shape, window, counts, bool(attributes["count_include_pad"]))
        return [compute(lambda x: window_sum(x, window, counts) / divisor.astype(x.dtype), [x], x.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.AveragePoolGrad(grads[0], F.Shape(inputs[0]), **passed(attributes, self.attributes))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            for include in (0, 1):
                yield Sample([draw(rng, shape, "float32")], {**attributes, "count_include_pad": include})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class AveragePoolGrad(Operator):
    """The gradient of AveragePool: dY [N, C, *counts] and the shape of X -> dX [N, C, *sizes]."""

    domain = "headrace"
    inputs = (In("dY"), In("shape", INT64))
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = AveragePool.attributes
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(1), context.type(0).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "pool"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, shape = inputs[0], tuple(int(size) for size in inputs[1])
        window, counts = arranged(attributes, shape[2:])
        divisor = divisors(shape, window, counts, bool(attributes["count_include_pad"]))

        def run(dy: Any) -> Any:
            share = (dy / divisor.astype(dy.dtype)).reshape(*shape[:2], *[1] * len(counts), *counts)
            columns = np.broadcast_to(share, (*shape[:2], *window.kernel, *counts))
            return scatter(columns, window, shape[2:], counts)

        return [compute(run, [dy], dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.AveragePool(grads[0], **passed(attributes, self.attributes)), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            counts = arranged(attributes, shape[2:])[1]
            for include in (0, 1):
                yield Sample(
                    [draw(rng, (*shape[:2], *counts), "float32"), int64(*shape)],
                    {**attributes, "count_include_pad": include},
                )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags[:1])


def window_sum(x: Any, window: Window, counts: Sequence[int]) -> Any:
    """The sum of each window, padding counted as zero."""
    padded = window.pad(x, 0, counts)
    total = np.zeros((*x.shape[:2], *counts), x.dtype)
    for _, slices in window.taps(counts):
        total += padded[(slice(None), slice(None), *slices)]
    return total


class LpPool(Operator):
    """The p-norm of each window."""

    versions = (1, 2, 11, 18, 22)
    types = {"T": dtypes.FLOAT}
    attributes = {**POOL, "p": Attr("int", 2)}
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), pool_shape(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, p = inputs[0], attributes["p"]
        window, counts = arranged(attributes, x.shape[2:])
        return [compute(lambda x: window_sum(np.abs(x) ** p, window, counts) ** (1 / p), [x], x.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            yield Sample([draw(rng, shape, "float32")], attributes)
        yield Sample([draw(rng, (1, 2, 5, 5), "float32")], {"kernel_shape": (2, 3), "p": 3})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 2:
            node.attributes["p"] = int(node.attributes.get("p", 2))
        drop(node, *(() if version >= 18 else ("count_include_pad",)))


class _Global(Operator):
    """One number for each channel of [N, C, *sizes]."""

    versions: ClassVar[tuple[int, ...]] = (1, 22)
    types = {"T": dtypes.FLOAT}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, least=2)
        return [TensorType(context.dtype(), None if shape is None else (*shape[:2], *[1] * (len(shape) - 2)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 4, 5), (1, 2, 7), (2, 1, 2, 3, 2), (1, 1, 1, 1)):
            yield Sample([draw(rng, shape, "float32")])
        yield Sample([draw(rng, (2, 3, 4, 5), "float16")])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


def spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


class GlobalAveragePool(_Global):
    """The mean over all spatial axes."""

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(lambda x: np.mean(x, axis=spatial(x), keepdims=True), inputs, inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x = inputs[0]
        count = F.Cast(F.Div(F.Size(x), F.Size(outputs[0])), to=dtypes.of(F.dtype(x)).onnx)
        return [F.Expand(F.Div(grads[0], count), F.Shape(x))]


class GlobalMaxPool(_Global):
    """The largest element over all spatial axes. Its gradient goes in equal parts to all that are the largest."""

    accuracy = Accuracy.exact()

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.max(inputs[0], axis=spatial(inputs[0]), keepdims=True)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x = inputs[0]
        won = F.Cast(F.Equal(x, outputs[0]), to=dtypes.of(F.dtype(x)).onnx)
        axes = F.constant(int64(*range(2, F.rank(x))))
        return [F.Mul(grads[0], F.Div(won, F.ReduceSum(won, axes, keepdims=1)))]


class GlobalLpPool(_Global):
    """The p-norm over all spatial axes."""

    versions = (1, 2, 22)
    attributes = {"p": Attr("int", 2)}
    differentiable = False

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        p = attributes["p"]
        return [
            compute(
                lambda x: np.sum(np.abs(x) ** p, axis=spatial(x), keepdims=True) ** (1 / p), inputs, inputs[0].dtype
            )
        ]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 2:
            node.attributes["p"] = int(node.attributes.get("p", 2))
