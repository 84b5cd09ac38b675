"""Shape and Size: the sizes of a tensor as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.shapes import Dim, product
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})


class Shape(Operator):
    """The sizes of the axes [start, end) of the input, int64."""

    versions = (1, 13, 15, 19, 21, 23, 24, 25)
    inputs = (In("data"),)
    outputs = (Out("shape", INT64),)
    types = {"T": dtypes.ANY}
    attributes = {"start": Attr("int", 0), "end": Attr("int")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        length: Dim = context.fresh("rank") if shape is None else len(range(len(shape))[self._part(context.attributes)])
        return [TensorType("int64", (length,))]

    def values(self, context: Context) -> list[Any] | None:
        shape = context.shape()
        return [None if shape is None else tuple(shape[self._part(context.attributes)])]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.array(np.shape(inputs[0])[self._part(attributes)], np.int64)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 4), (), (0, 5)):
            yield Sample([draw(rng, shape, "float32")])
        for part in ({"start": 1}, {"end": -1}, {"start": -2, "end": 2}, {"start": 5}, {"start": -9, "end": 9}):
            yield Sample([draw(rng, (2, 3, 4), "int8")], part)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """Sizes other than the batch's are the same for all requests."""
        shape = context.shape()
        if shape is None or tags[0] is None or tags[0] == MIXED:
            return [tags[0] if tags[0] is None else MIXED]
        return [MIXED if tags[0] in range(len(shape))[self._part(context.attributes)] else None]

    @staticmethod
    def _part(attributes: Mapping[str, Any]) -> slice:
        return slice(attributes["start"], attributes["end"])


class Size(Operator):
    """The number of elements of the input, an int64 scalar."""

    versions = (1, 13, 19, 21, 23, 24, 25)
    inputs = (In("data"),)
    outputs = (Out("size", INT64),)
    types = {"T": dtypes.ANY}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("int64", ())]

    def values(self, context: Context) -> list[Any] | None:
        shape = context.shape()
        return [None if shape is None else product(shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.array(np.size(inputs[0]), np.int64)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 4), (), (0, 5)):
            yield Sample([draw(rng, shape, "float32")])
