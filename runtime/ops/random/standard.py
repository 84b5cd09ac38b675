"""The random operators of ONNX. With a `seed` every run gives the same numbers; without one, each run gives others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import code_of, draw, name_of, numpy_dtype, widen
from headrace.runtime.ops.random import philox
from headrace.runtime.types import TensorType, Type

FLOATS = dtypes.FLOAT


def seed_of(seed: float | int | None) -> int:
    """The generator's seed behind an attribute: its bits as float64, or fresh ones where there is none."""
    return int.from_bytes(os.urandom(8)) >> 1 if seed is None else int(np.float64(seed).view(np.uint64))


class _Random(Operator):
    """Base of operators that draw: rows would depend on their position, so they are never merged."""

    deterministic = False
    differentiable = False
    accuracy = Accuracy(4.0)
    output: ClassVar[frozenset[str]] = FLOATS

    def dtype(self, attributes: Mapping[str, Any], otherwise: str) -> str:
        name = otherwise if attributes.get("dtype") is None else name_of(attributes["dtype"])
        if name not in self.output:
            raise GraphError(f"dtype is {name}; allowed: {', '.join(sorted(self.output))}")
        return name

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None] * len(inputs)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [MIXED] * context.n_outputs


def _normal(shape: Sequence[int], dtype: str, attributes: Mapping[str, Any]) -> Any:
    count = int(np.prod(shape, dtype=np.int64))
    drawn = philox.normal(count, seed_of(attributes["seed"])).reshape(shape)
    return (drawn * attributes["scale"] + attributes["mean"]).astype(numpy_dtype(dtype))


def _uniform(shape: Sequence[int], dtype: str, attributes: Mapping[str, Any]) -> Any:
    count = int(np.prod(shape, dtype=np.int64))
    drawn = philox.uniform(count, dtype, seed_of(attributes["seed"])).reshape(shape)
    low, high = (np.asarray(attributes[key], drawn.dtype) for key in ("low", "high"))
    return (drawn * (high - low) + low).astype(numpy_dtype(dtype))


_SEED = {"seed": Attr("float", None)}
_NORMAL = {"mean": Attr("float", 0.0), "scale": Attr("float", 1.0), **_SEED}
_UNIFORM = {"low": Attr("float", 0.0), "high": Attr("float", 1.0), **_SEED}
_SHAPED = {"dtype": Attr("int", 1), "shape": Attr("ints", REQUIRED)}
_LIKE = {"dtype": Attr("int", None)}


class _Shaped(_Random):
    versions = (1, 22)
    inputs = ()
    outputs = (Out("output", FLOATS),)
    types = {}
    draw: ClassVar[Any]

    def infer(self, context: Context) -> list[Type | None]:
        shape = tuple(context.attributes["shape"])
        if any(size < 0 for size in shape):
            raise GraphError(f"shape {list(shape)} has a negative size")
        return [TensorType(self.dtype(context.attributes, "float32"), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [type(self).draw(tuple(attributes["shape"]), self.dtype(attributes, "float32"), attributes)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 2), (33,)):
            yield Sample([], {"shape": shape, "seed": 7.0})
        for dtype in ("float16", "bfloat16", "float64"):
            yield Sample([], {"shape": (3, 4), "dtype": code_of(dtype), "seed": 1.0})


class RandomNormal(_Shaped):
    attributes = {**_SHAPED, **_NORMAL}
    draw = staticmethod(_normal)


class RandomUniform(_Shaped):
    attributes = {**_SHAPED, **_UNIFORM}
    draw = staticmethod(_uniform)


class _Like(_Random):
    """The shape of the input, and its dtype unless `dtype` is given."""

    versions = (1, 22)
    inputs = (In("input", dtypes.ANY),)
    outputs = (Out("output", FLOATS),)
    types = {}
    draw: ClassVar[Any]

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(self.dtype(context.attributes, context.dtype()), context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0]
        return [type(self).draw(x.shape, self.dtype(attributes, dtypes.of(x).name), attributes)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 2)):
            yield Sample([draw(rng, shape, "float32")], {"seed": 7.0})
        yield Sample([draw(rng, (3, 4), "int64")], {"dtype": code_of("float16"), "seed": 1.0})


class RandomNormalLike(_Like):
    attributes = {**_LIKE, **_NORMAL}
    draw = staticmethod(_normal)


class RandomUniformLike(_Like):
    attributes = {**_LIKE, **_UNIFORM}
    draw = staticmethod(_uniform)


class Bernoulli(_Random):
    """1 with the probability that the input says, else 0."""

    versions = (15, 22)
    inputs = (In("input", FLOATS),)
    outputs = (Out("output", dtypes.NUMERIC | {"bool"}),)
    types = {}
    attributes = {**_LIKE, **_SEED}
    output = dtypes.NUMERIC | {"bool"}

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(self.dtype(context.attributes, context.dtype()), context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        p = widen(inputs[0])
        drawn = philox.uniform(p.size, "float32", seed_of(attributes["seed"])).reshape(p.shape)
        return [(drawn < p).astype(numpy_dtype(self.dtype(attributes, dtypes.of(inputs[0]).name)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 2), (33,)):
            yield Sample([draw(rng, shape, "float32", 0, 1)], {"seed": 7.0})
        for dtype in ("bool", "int32", "float64"):
            yield Sample([draw(rng, (3, 4), "float32", 0, 1)], {"dtype": code_of(dtype), "seed": 1.0})


class Multinomial(_Random):
    """`sample_size` class numbers for each row of unnormalised log-probabilities [batch, classes]."""

    versions = (7, 22)
    inputs = (In("input", FLOATS),)
    outputs = (Out("output", frozenset({"int32", "int64"})),)
    types = {}
    attributes = {"dtype": Attr("int", 6), "sample_size": Attr("int", 1), **_SEED}
    output = frozenset({"int32", "int64"})

    def infer(self, context: Context) -> list[Type | None]:
        shape, size = context.shape(), context.attributes["sample_size"]
        if size < 0 or (shape is not None and len(shape) != 2):
            raise GraphError(f"Multinomial takes a matrix and sample_size >= 0, not {context.type(0)} and {size}")
        return [TensorType(self.dtype(context.attributes, "int32"), None if shape is None else (shape[0], size))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        logits = inputs[0].astype(np.float64)
        rows, size = logits.shape[0], attributes["sample_size"]
        weights = np.exp(logits - np.max(logits, axis=1, keepdims=True, initial=-np.inf))
        edges = np.cumsum(weights, axis=1)
        drawn = philox.uniform(rows * size, "float64", seed_of(attributes["seed"])).reshape(rows, size)
        found = (drawn[:, :, None] * edges[:, None, -1:] >= edges[:, None, :]).sum(axis=2)
        return [found.astype(numpy_dtype(self.dtype(attributes, "int32")))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 5), "float32")], {"sample_size": 4, "seed": 7.0})
        yield Sample([draw(rng, (1, 1), "float32")], {"dtype": 7, "seed": 7.0})
        yield Sample([draw(rng, (0, 3), "float32")], {"seed": 7.0})
