"""ZipMap, DictVectorizer, CastMap: between tensors and maps (dicts at run time)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, numpy_dtype
from headrace.runtime.ops.ml._scores import string_or_int
from headrace.runtime.types import MapType, SequenceType, TensorType, Type

KINDS = frozenset({"string", "float32", "float64", "int64"})


class ZipMap(Operator):
    """Each row of scores [N, classes] as a map from label to score: a list of dicts."""

    domain = "ai.onnx.ml"
    inputs = (In("X", frozenset({"float32"})),)
    outputs = (Out("Z", dtypes.ANY),)
    attributes = {"classlabels_int64s": Attr("ints"), "classlabels_strings": Attr("strings")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        kind, labels = string_or_int(context.attributes)
        shape = context.shape()
        if shape is not None and isinstance(shape[-1], int) and shape[-1] != len(labels):
            raise GraphError(f"there are {shape[-1]} scores in a row and {len(labels)} labels")
        return [SequenceType(MapType(kind, TensorType("float32", ())))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        _, labels = string_or_int(attributes)
        return [[dict(zip(labels, row)) for row in np.atleast_2d(inputs[0]).tolist()]]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if tags[0] is None else 0 if tags[0] == 0 and context.type(0).rank == 2 else MIXED]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (3, 2), "float32")], {"classlabels_strings": ("a", "b")})
        yield Sample([draw(rng, (2,), "float32")], {"classlabels_int64s": (3, 5)})


class DictVectorizer(Operator):
    """A map (or a list of maps) as rows, one column for each word of the vocabulary; 0 where a key is missing."""

    domain = "ai.onnx.ml"
    inputs = (In("X", dtypes.ANY),)
    outputs = (Out("Y", KINDS),)
    attributes = {"int64_vocabulary": Attr("ints"), "string_vocabulary": Attr("strings")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        given = context.inputs[0]
        many = isinstance(given, SequenceType)
        inner = given.element if isinstance(given, SequenceType) else given
        if not isinstance(inner, MapType) or not isinstance(inner.value, TensorType):
            raise GraphError(f"input 0 is {given}; allowed: a map, or a sequence of maps")
        return [
            TensorType(inner.value.dtype, (context.fresh("maps") if many else 1, len(self._words(context.attributes))))
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        words, rows = self._words(attributes), inputs[0] if isinstance(inputs[0], list) else [inputs[0]]
        values = [value for row in rows for value in row.values()]
        if values and isinstance(values[0], str):
            return [np.array([[row.get(word, "") for word in words] for row in rows], object)]
        dtype = (
            dtypes.of(np.asarray(values[0])).numpy
            if values and isinstance(values[0], np.ndarray | np.generic)
            else None
        )
        kind = dtype or (np.int64 if values and all(isinstance(value, int) for value in values) else np.float32)
        return [np.array([[row.get(word, 0) for word in words] for row in rows], kind).reshape(len(rows), len(words))]

    @staticmethod
    def _words(attributes: Mapping[str, Any]) -> Sequence[Any]:
        return string_or_int(attributes, "string_vocabulary", "int64_vocabulary")[1]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([{"a": 1.5, "c": -2.0}], {"string_vocabulary": ("a", "b", "c")})
        yield Sample([[{1: 2}, {3: 4, 1: 5}]], {"int64_vocabulary": (1, 3)})


class CastMap(Operator):
    """The values of a map with integer keys as one row: in order of the keys, or (SPARSE) at the places they name."""

    domain = "ai.onnx.ml"
    inputs = (In("X", dtypes.ANY),)
    outputs = (Out("Y", KINDS),)
    attributes = {
        "cast_to": Attr("string", "TO_FLOAT", ("TO_FLOAT", "TO_STRING", "TO_INT64")),
        "map_form": Attr("string", "DENSE", ("DENSE", "SPARSE")),
        "max_map": Attr("int", 1),
    }
    accuracy = Accuracy.exact()
    differentiable = False
    targets = {"TO_FLOAT": "float32", "TO_STRING": "string", "TO_INT64": "int64"}

    def infer(self, context: Context) -> list[Type | None]:
        size = context.attributes["max_map"] if context.attributes["map_form"] == "SPARSE" else context.fresh("entries")
        return [TensorType(self.targets[context.attributes["cast_to"]], (1, size))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        target = self.targets[attributes["cast_to"]]
        converters: dict[str, Any] = {"string": str, "int64": lambda value: int(float(value)), "float32": float}
        convert = converters[target]
        entries = dict(sorted(inputs[0].items()))
        if attributes["map_form"] == "DENSE":
            values = [convert(value) for value in entries.values()]
        else:
            values = ["" if target == "string" else 0] * attributes["max_map"]
            for key, value in entries.items():
                if not 0 <= key < len(values):
                    raise RunError(f"the map has the key {key}; allowed: 0 to {len(values) - 1}")
                values[key] = convert(value)
        return [np.array([values], numpy_dtype(target))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([{3: 1.5, 1: -2.0}])
        yield Sample([{3: 1.5, 1: -2.0}], {"map_form": "SPARSE", "max_map": 5, "cast_to": "TO_INT64"})
