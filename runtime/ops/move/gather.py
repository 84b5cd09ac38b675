"""Gather, GatherElements, GatherND, and the gradient GatherGrad: elements picked by index. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import axis_of, fresh_shape, int64, kept_rows
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, numpy_dtype, widen
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.types import TensorType, Type

INDEX = frozenset({"int32", "int64"})


def checked(indices: Any, size: int) -> Any:
    """Indices within 0 .. size - 1. RunError where one is outside."""
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        bad = int(indices.max()) if int(indices.max()) >= size else int(indices.min())
        raise RunError(f"index {bad} is outside of an axis of size {size}; allowed: {-size} to {size - 1}")
    return np.where(indices < 0, indices + size, indices)


class Gather(Operator):
    """The entries of `axis` that `indices` name; the axes of `indices` take the place of `axis`."""

    versions = (1, 11, 13)
    inputs = (In("data"), In("indices", "Tind"))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY, "Tind": INDEX}
    attributes = {"axis": Attr("int", 0)}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        data, indices = context.shape(0), context.shape(1)
        if data is None or indices is None:
            return [TensorType(context.dtype())]
        axis = axis_of(context.attributes["axis"], len(data))
        return [TensorType(context.dtype(), (*data[:axis], *indices, *data[axis + 1 :]))]

    def values(self, context: Context) -> list[Any] | None:
        data, indices = context.value(0), context.value(1)
        flat = indices if isinstance(indices, tuple) else (indices,)
        if not isinstance(data, tuple) or not all(
            isinstance(place, int) and -len(data) <= place < len(data) for place in flat
        ):
            return None
        picked = tuple(data[place] for place in flat)  # type: ignore[index]
        return [picked if isinstance(indices, tuple) else picked[0]]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, indices = inputs
        axis = axis_of(attributes["axis"], data.ndim)
        return [np.take(data, checked(indices, data.shape[axis]), axis=axis)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.GatherGrad(grads[0], inputs[1], F.Shape(inputs[0]), axis=attributes["axis"]), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (4, 3, 5), "float32")
        for axis in (0, 1, -1):
            yield Sample([x, np.array([[0, 2], [-1, 1]], np.int64)], {"axis": axis})
        yield Sample([x, np.array(2, np.int32)], {"axis": 0})
        yield Sample([x, np.zeros((0,), np.int64)])
        yield Sample([draw(rng, (3,), "string"), int64(0, 2, 2)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """Rows of a table picked by the batch's indices, or the same entries of every row."""
        data, indices = context.shape(0), context.shape(1)
        if all(tag is None for tag in tags):
            return [None]
        if data is None or indices is None or MIXED in tags:
            return [MIXED]
        axis = axis_of(context.attributes["axis"], len(data))
        if tags[0] is None:
            return [axis + tags[1]]  # type: ignore[operator]
        if tags[1] is not None or tags[0] == axis:
            return [MIXED]
        return [tags[0] if tags[0] < axis else tags[0] - 1 + len(indices)]


class GatherGrad(Operator):
    """The gradient of Gather: dY added at `indices` along `axis` into zeros of the given shape."""

    domain = "headrace"
    inputs = (In("dY"), In("indices", INDEX), In("shape", frozenset({"int64"})))
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"axis": Attr("int", 0)}

    def infer(self, context: Context) -> list[Type | None]:
        target, dy, indices = context.value(2), context.shape(0), context.shape(1)
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        if dy is None or indices is None:
            return [TensorType(context.dtype())]
        return [TensorType(context.dtype(), fresh_shape(context, len(dy) - len(indices) + 1, "gather"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, indices, shape = inputs
        target = sized(shape)
        axis = axis_of(attributes["axis"], len(target))
        total = np.zeros((target[axis], *target[:axis], *target[axis + 1 :]), widen(dy).dtype)
        moved = np.moveaxis(widen(dy), range(axis, axis + indices.ndim), range(indices.ndim))
        np.add.at(total, checked(indices, target[axis]), moved)
        return [np.ascontiguousarray(np.moveaxis(total, 0, axis)).astype(dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.Gather(grads[0], inputs[1], axis=attributes["axis"]), None, None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (0, 1, -1):
            shape = [4, 3, 5]
            dy_shape = (*shape[: axis % 3], 2, 2, *shape[axis % 3 + 1 :])
            yield Sample(
                [draw(rng, dy_shape, "float32"), np.array([[0, 2], [-1, 2]], np.int64), int64(*shape)], {"axis": axis}
            )
        yield Sample([draw(rng, (3,), "float32"), np.array(1, np.int64), int64(4, 3)])


class GatherElements(Operator):
    """output[i][j] = data[i][indices[i][j]] for axis 1, likewise for others."""

    versions = (11, 13)
    inputs = (In("data"), In("indices", "Tind"))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY, "Tind": INDEX}
    attributes = {"axis": Attr("int", 0)}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        data, indices = context.shape(0), context.shape(1)
        if data is not None and indices is not None and len(data) != len(indices):
            raise GraphError(f"indices have rank {len(indices)}; allowed: {len(data)}, that of the data")
        if data is not None:
            axis_of(context.attributes["axis"], len(data))
        return [TensorType(context.dtype(), indices)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, indices = inputs
        return [data[element_index(indices, data.shape, axis_of(attributes["axis"], data.ndim))]]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [
            F.ScatterElements(zeros_like(F, inputs[0]), inputs[1], grads[0], axis=attributes["axis"], reduction="add"),
            None,
        ]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (0, 1, -1):
            yield Sample([draw(rng, (4, 3, 5), "float32"), rng.integers(-3, 3, (2, 3, 4))], {"axis": axis})
        yield Sample([draw(rng, (4,), "string"), int64(1, 1, 0)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        rank = context.type(0).rank
        if rank is None or tags[0] != tags[1] or tags[0] is None:
            return [None if all(tag is None for tag in tags) else MIXED]
        return kept_rows(tags[:1], (axis_of(context.attributes["axis"], rank),))


def element_index(indices: Any, shape: Sequence[int], axis: int) -> tuple[Any, ...]:
    """A full NumPy index: the place of each element itself, but `indices` along `axis`."""
    grid = np.ogrid[tuple(slice(size) for size in indices.shape)]
    return tuple(checked(indices, shape[axis]) if place == axis else line for place, line in enumerate(grid))


def zeros_like(F: Any, value: Any) -> Any:
    """Zeros in the shape and dtype of a value."""
    return F.ConstantOfShape(F.Shape(value), value=np.zeros(1, numpy_dtype(F.dtype(value))))


class GatherND(Operator):
    """The last axis of `indices` holds tuples of indices into data, after batch_dims shared leading axes."""

    versions = (11, 12, 13)
    inputs = (In("data"), In("indices", frozenset({"int64"})))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = {"batch_dims": Attr("int", 0)}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        data, indices, batch = context.shape(0), context.shape(1), context.attributes["batch_dims"]
        if data is None or indices is None or not isinstance(indices[-1], int):
            return [TensorType(context.dtype())]
        if not 0 <= batch < min(len(data), len(indices)) or batch + indices[-1] > len(data):
            raise GraphError(f"batch_dims {batch} and tuples of {indices[-1]} do not fit data of rank {len(data)}")
        return [TensorType(context.dtype(), (*indices[:-1], *data[batch + indices[-1] :]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, indices = inputs
        return [data[tuple_index(indices, data.shape, attributes["batch_dims"])]]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if attributes["batch_dims"]:
            raise NotImplementedError("GatherND has no gradient where batch_dims is not 0")
        return [F.ScatterND(zeros_like(F, inputs[0]), inputs[1], grads[0], reduction="add"), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (3, 4, 2), "float32"), np.array([[0, 1], [-1, 3], [0, 1]], np.int64)])
        yield Sample([draw(rng, (3, 4), "float32"), np.array([[[2], [1]]], np.int64)])
        yield Sample([draw(rng, (2, 4), "int32"), np.array([[1], [3]], np.int64)], {"batch_dims": 1})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        shared = context.attributes["batch_dims"]
        both = tags[0] == tags[1] and tags[0] not in (None, MIXED) and tags[0] < shared
        table = tags[0] is None and shared == 0 and tags[1] == 0
        return [tags[1] if both or table else MIXED]


def tuple_index(indices: Any, shape: Sequence[int], batch: int = 0) -> tuple[Any, ...]:
    """The NumPy index that tuples in the last axis of `indices` stand for."""
    leading = (
        [
            line.reshape(*line.shape, *[1] * (indices.ndim - 1 - batch))
            for line in np.ogrid[tuple(slice(n) for n in indices.shape[:batch])]
        ]
        if batch
        else []
    )
    return (*leading, *(checked(indices[..., place], shape[batch + place]) for place in range(indices.shape[-1])))
