"""Random operators without hidden state: the numbers are a function of `key` = (seed, counter) and the attribute `id`.

Whoever draws holds the counter: eager code in its Generator, a captured graph in a declared State.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import code_of, draw, name_of, numpy_dtype, widen
from headrace.runtime.ops.random import philox
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})
WORD64 = (1 << 64) - 1


class _Drawn(Operator):
    """Inputs: the shape int64 [rank] and the key int64 [2]. The same inputs give the same bits, on every device."""

    domain = "headrace"
    inputs = (In("shape", INT64), In("key", INT64))
    outputs = (Out("Y", dtypes.NUMERIC),)
    types = {}
    accuracy = Accuracy(4.0)
    differentiable = False
    allowed: frozenset[str] = dtypes.FLOAT
    otherwise = "float32"

    def infer(self, context: Context) -> list[Type | None]:
        check_key(context, 1)
        dtype = name_of(context.attributes["dtype"])
        if dtype not in self.allowed:
            raise GraphError(f"dtype is {dtype}; allowed: {', '.join(sorted(self.allowed))}")
        sizes = context.value(0)
        if isinstance(sizes, tuple):
            return [TensorType(dtype, sizes)]
        length = context.type(0).shape
        if length is not None and len(length) == 1 and isinstance(length[0], int):
            return [TensorType(dtype, tuple(context.fresh("drawn") for _ in range(length[0])))]
        return [TensorType(dtype, None)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        shape = tuple(int(size) for size in inputs[0])
        if any(size < 0 for size in shape):
            raise GraphError(f"shape {list(shape)} has a negative size")
        count = int(np.prod(shape, dtype=np.int64))
        dtype = name_of(attributes["dtype"])
        drawn = self.draw(count, dtype, attributes, *key_of(inputs[1]))
        return [drawn.reshape(shape).astype(numpy_dtype(dtype))]

    def draw(self, count: int, dtype: str, attributes: Mapping[str, Any], seed: int, counter: int) -> Any:
        raise NotImplementedError

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None, None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [MIXED]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 2), (33,)):
            yield Sample([np.array(shape, np.int64), np.array([7, 3], np.int64)], {"id": 1})
        for dtype in dtypes.TABLE:
            if dtype.name in self.allowed:
                yield Sample([np.array([3, 4], np.int64), np.array([-1, 1 << 40], np.int64)], {"dtype": dtype.onnx})


def check_key(context: Context, index: int) -> None:
    """The key must be int64 [2]."""
    shape = context.shape(index)
    if shape is not None and (len(shape) != 1 or (isinstance(shape[0], int) and shape[0] != 2)):
        raise GraphError(f"the key must be int64 [2] (seed, counter), not {context.type(index)}")


def key_of(key: np.ndarray) -> tuple[int, int]:
    """Seed and counter as unsigned numbers of 64 bits."""
    if key.shape != (2,):
        raise GraphError(f"the key must be int64 [2] (seed, counter), not {list(key.shape)}")
    return int(key[0]) & WORD64, int(key[1]) & WORD64


_DTYPE = {"dtype": Attr("int", code_of("float32")), "id": Attr("int", 0)}


class RandomUniform(_Drawn):
    """Uniform in [low, high)."""

    attributes = {**_DTYPE, "low": Attr("float", 0.0), "high": Attr("float", 1.0)}

    def draw(self, count: int, dtype: str, attributes: Mapping[str, Any], seed: int, counter: int) -> Any:
        drawn = philox.uniform(count, dtype, seed, attributes["id"], counter)
        low, high = np.asarray(attributes["low"], drawn.dtype), np.asarray(attributes["high"], drawn.dtype)
        return drawn * (high - low) + low


class RandomNormal(_Drawn):
    """Normal with `mean` and standard deviation `scale`."""

    attributes = {**_DTYPE, "mean": Attr("float", 0.0), "scale": Attr("float", 1.0)}

    def draw(self, count: int, dtype: str, attributes: Mapping[str, Any], seed: int, counter: int) -> Any:
        return philox.normal(count, seed, attributes["id"], counter) * attributes["scale"] + attributes["mean"]


class RandomInteger(_Drawn):
    """Integers in [low, high)."""

    allowed = dtypes.INTEGER
    accuracy = Accuracy.exact()
    attributes = {
        "dtype": Attr("int", code_of("int64")),
        "id": Attr("int", 0),
        "low": Attr("int", 0),
        "high": Attr("int", 2),
    }

    def infer(self, context: Context) -> list[Type | None]:
        if context.attributes["high"] <= context.attributes["low"]:
            raise GraphError(f"high is {context.attributes['high']}; it must be above low, {context.attributes['low']}")
        return super().infer(context)

    def draw(self, count: int, dtype: str, attributes: Mapping[str, Any], seed: int, counter: int) -> Any:
        return philox.integers(count, attributes["low"], attributes["high"], seed, attributes["id"], counter)


class Bernoulli(_Drawn):
    """1 with probability p (a float tensor, element by element), else 0, in the dtype of p unless `dtype` says another."""

    inputs = (In("p", dtypes.FLOAT), In("key", INT64))
    outputs = (Out("Y", dtypes.NUMERIC | {"bool"}),)
    attributes = {"dtype": Attr("int", None), "id": Attr("int", 0)}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        check_key(context, 1)
        return [TensorType(self._dtype(context.attributes, context.dtype()), context.shape(0))]

    @staticmethod
    def _dtype(attributes: Mapping[str, Any], otherwise: str) -> str:
        return otherwise if attributes["dtype"] is None else name_of(attributes["dtype"])

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        p = widen(inputs[0])
        seed, counter = key_of(inputs[1])
        drawn = philox.uniform(p.size, "float32", seed, attributes["id"], counter).reshape(p.shape)
        return [(drawn < p).astype(numpy_dtype(self._dtype(attributes, dtypes.of(inputs[0]).name)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        key = np.array([7, 3], np.int64)
        for shape in ((2, 3), (), (0, 2), (33,)):
            yield Sample([draw(rng, shape, "float32", 0, 1), key], {"id": 1})
        for dtype in ("bool", "int64", "float16"):
            yield Sample([draw(rng, (3, 4), "float32", 0, 1), key], {"dtype": code_of(dtype)})
        yield Sample([np.array([0.0, 1.0, np.nan], np.float32), key])
