"""Transpose, DepthToSpace, SpaceToDepth: axes in another order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import axes_of, batch_first, known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.shapes import modulo
from headrace.runtime.types import TensorType, Type


class Transpose(Operator):
    """Axis i of the output is axis perm[i] of the input; without perm the order is reversed."""

    versions = (1, 13, 21, 23, 24, 25)
    inputs = (In("data"),)
    outputs = (Out("transposed"),)
    types = {"T": dtypes.ANY}
    attributes = {"perm": Attr("ints")}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is None:
            return [TensorType(context.dtype())]
        return [TensorType(context.dtype(), tuple(shape[axis] for axis in order(context.attributes, len(shape))))]

    def values(self, context: Context) -> list[Any] | None:
        return [context.value(0)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.ascontiguousarray(np.transpose(inputs[0], order(attributes, inputs[0].ndim))).reshape(
            tuple(inputs[0].shape[axis] for axis in order(attributes, inputs[0].ndim)))]  # fmt: skip

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        back = np.argsort(order(attributes, F.rank(inputs[0])))
        return [F.Transpose(grads[0], perm=tuple(int(axis) for axis in back))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, perm in (
            ((2, 3, 4), None),
            ((2, 3, 4), (1, 2, 0)),
            ((2, 3, 4, 5), (0, 2, 1, 3)),
            ((), None),
            ((3, 0), (1, 0)),
        ):
            yield Sample([draw(rng, shape, "float32")], {} if perm is None else {"perm": perm})
        yield Sample([draw(rng, (2, 3), "string")])
        yield Sample([draw(rng, (17, 33), "int8")])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape, tag = context.shape(), tags[0]
        if tag is None or tag == MIXED or shape is None:
            return [tag if tag is None else MIXED]
        return [order(context.attributes, len(shape)).index(tag)]


def order(attributes: Mapping[str, Any], rank: int) -> tuple[int, ...]:
    """The permutation for a tensor of this rank."""
    perm = attributes["perm"]
    if perm is None:
        return tuple(reversed(range(rank)))
    if len(perm) != rank:
        raise GraphError(f"perm is {list(perm)}; allowed for rank {rank}: an order of {rank} axes")
    return axes_of(perm, rank, "perm")


class DepthToSpace(Operator):
    """[N, C, H, W] -> [N, C / b^2, H b, W b]: blocks of channels become blocks of pixels."""

    versions = (1, 11, 13, 28)
    inputs = (In("input"),)
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = {"blocksize": Attr("int", REQUIRED), "mode": Attr("string", "DCR", ("DCR", "CRD"))}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape, b = known_shape(context, ranks=(4,)), _block(context.attributes)
        if shape is None:
            return [TensorType(context.dtype())]
        n, c, h, w = shape
        if isinstance(c, int) and c % (b * b):
            raise GraphError(f"there are {c} channels; allowed: a multiple of {b * b}")
        return [TensorType(context.dtype(), (n, c // (b * b), h * b, w * b))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        (n, c, h, w), b = inputs[0].shape, attributes["blocksize"]
        depth = c // (b * b)
        if attributes["mode"] == "DCR":
            blocks = inputs[0].reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            blocks = inputs[0].reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return [blocks.reshape(n, depth, h * b, w * b)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.SpaceToDepth(grads[0], blocksize=attributes["blocksize"], mode=attributes["mode"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for mode in ("DCR", "CRD"):
            yield Sample([draw(rng, (2, 8, 2, 3), "float32")], {"blocksize": 2, "mode": mode})
            yield Sample([draw(rng, (1, 9, 1, 2), "int8")], {"blocksize": 3, "mode": mode})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class SpaceToDepth(Operator):
    """[N, C, H, W] -> [N, C b^2, H / b, W / b]: blocks of pixels become blocks of channels."""

    versions = (1, 13, 28)
    inputs = (In("input"),)
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = {"blocksize": Attr("int", REQUIRED), "mode": Attr("string", "DCR", ("DCR", "CRD"))}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape, b = known_shape(context, ranks=(4,)), _block(context.attributes)
        if shape is None:
            return [TensorType(context.dtype())]
        n, c, h, w = shape
        for size in (h, w):
            if isinstance(modulo(size, b), int) and modulo(size, b) != 0:
                raise GraphError(f"a spatial size is {size}; allowed: a multiple of {b}")
        return [TensorType(context.dtype(), (n, c * (b * b), h // b, w // b))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        (n, c, h, w), b = inputs[0].shape, attributes["blocksize"]
        blocks = inputs[0].reshape(n, c, h // b, b, w // b, b)
        axes = (0, 3, 5, 1, 2, 4) if attributes["mode"] == "DCR" else (0, 1, 3, 5, 2, 4)
        return [blocks.transpose(axes).reshape(n, c * b * b, h // b, w // b)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.DepthToSpace(grads[0], blocksize=attributes["blocksize"], mode=attributes["mode"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3, 4, 6), "float32")], {"blocksize": 2})
        yield Sample([draw(rng, (2, 3, 4, 6), "float32")], {"blocksize": 2, "mode": "CRD"})
        yield Sample([draw(rng, (1, 2, 3, 3), "int8")], {"blocksize": 3})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


def _block(attributes: Mapping[str, Any]) -> int:
    if attributes["blocksize"] < 1:
        raise GraphError(f"blocksize is {attributes['blocksize']}; allowed: 1 and more")
    return int(attributes["blocksize"])
