"""Tabular features of ai.onnx.ml: picking, scaling, normalizing, thresholding, filling, joining, encoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import kept_rows
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.shapes import product
from headrace.runtime.types import TensorType, Type

NUMBERS = frozenset({"float32", "float64", "int64", "int32"})
FLOAT32, INT64, STRING = frozenset({"float32"}), frozenset({"int64"}), frozenset({"string"})


class ArrayFeatureExtractor(Operator):
    """The entries Y of the last axis of X: [..., K] -> [..., size of Y]; a vector gives one row."""

    domain = "ai.onnx.ml"
    inputs = (In("X"), In("Y", INT64))
    outputs = (Out("Z"),)
    types = {"T": NUMBERS | STRING}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, y = context.shape(0), context.shape(1)
        count = None if y is None else product(y)
        if x is None or count is None:
            return [TensorType(context.dtype())]
        return [TensorType(context.dtype(), (*(x[:-1] if len(x) > 1 else (1,)), count))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, y = inputs
        places = y.reshape(-1)
        if places.size and not 0 <= places.min() <= places.max() < x.shape[-1]:
            raise GraphError(f"Y is outside of the last axis of X, which has {x.shape[-1]} entries")
        picked = x[..., places]
        return [picked.reshape(1, -1) if x.ndim == 1 else picked]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 4), (5,), (2, 3, 4)):
            yield Sample([draw(rng, shape, "float32"), np.array([1, 3, 0], np.int64)])
        yield Sample([draw(rng, (1, 4), "int64"), np.array([[2]], np.int64)])
        yield Sample([np.array([["a", "b"]], object), np.array([1], np.int64)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        x, y = context.shape(0), context.shape(1)
        if tags[0] is None and tags[1] is not None and x is not None and y is not None and len(x) < 2:
            alone = tags[1] != MIXED and all(size == 1 for axis, size in enumerate(y) if axis != tags[1])
            return [1 if alone else MIXED]  # classes looked up by index, in one row
        return kept_rows(tags, None if x is None or len(x) < 2 else (len(x) - 1,))


class _Rowwise(Operator):
    """A function of each row (last axis) of a matrix or vector."""

    domain = "ai.onnx.ml"
    differentiable = False

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape(0)
        return kept_rows(tags, None if shape is None else (len(shape) - 1,))


class Scaler(_Rowwise):
    """(X - offset) * scale, by column where there are several."""

    inputs = (In("X"),)
    outputs = (Out("Y", FLOAT32),)
    types = {"T": NUMBERS}
    attributes = {"offset": Attr("floats"), "scale": Attr("floats")}
    accuracy = Accuracy(4.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("float32", context.shape(0))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        y = inputs[0].astype(np.float32)
        if attributes["offset"]:
            y = y - np.asarray(attributes["offset"], np.float32)
        return [y * np.asarray(attributes["scale"], np.float32) if attributes["scale"] else y]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (3, 2), "float32")], {"offset": (0.5, -1.0), "scale": (2.0, 0.25)})
        yield Sample([draw(rng, (3, 2), "int64")], {"offset": (0.5,), "scale": (2.0,)})
        yield Sample([draw(rng, (0, 2), "float64")], {"offset": (0.5,), "scale": (2.0,)})


class Normalizer(_Rowwise):
    """Rows divided by their largest absolute value (MAX), sum of absolute values (L1) or length (L2)."""

    inputs = (In("X"),)
    outputs = (Out("Y", FLOAT32),)
    types = {"T": NUMBERS}
    attributes = {"norm": Attr("string", "MAX", ("MAX", "L1", "L2"))}
    accuracy = Accuracy(8.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("float32", context.shape(0))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0].astype(np.float32)
        match attributes["norm"]:
            case "MAX":
                size = np.max(x, -1, keepdims=True, initial=-np.inf)
            case "L1":
                size = np.sum(np.abs(x), -1, keepdims=True)
            case _:
                size = np.sqrt(np.sum(x * x, -1, keepdims=True))
        return [(x / np.where(size == 0, np.float32(1), size)).astype(np.float32)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for norm in ("MAX", "L1", "L2"):
            yield Sample([draw(rng, (3, 4), "float32", 0.1, 3.0)], {"norm": norm})
            yield Sample([np.zeros((1, 3), np.float32)], {"norm": norm})


class Binarizer(Operator):
    """1 where X > threshold, else 0."""

    domain = "ai.onnx.ml"
    inputs = (In("X"),)
    types = {"T": NUMBERS}
    attributes = {"threshold": Attr("float", 0.0)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [context.type(0)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [(inputs[0] > np.float32(attributes["threshold"])).astype(inputs[0].dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (3, 4), "float32")], {"threshold": 1.0})
        yield Sample([np.array([0.0, -0.0, np.inf, -np.inf, 1e-40], np.float32)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0]]


class Imputer(_Rowwise):
    """Values equal to `replaced_value` become the column's imputed value."""

    inputs = (In("X"),)
    types = {"T": NUMBERS}
    attributes = {
        "imputed_value_floats": Attr("floats"), "imputed_value_int64s": Attr("ints"),
        "replaced_value_float": Attr("float", 0.0), "replaced_value_int64": Attr("int", 0),
    }  # fmt: skip
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        return [context.type(0)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0]
        floats = x.dtype.kind == "f"
        values = attributes["imputed_value_floats" if floats else "imputed_value_int64s"]
        if not values or len(values) not in (1, x.shape[-1]):
            raise GraphError(
                f"Imputer has {len(values or ())} imputed values; allowed: 1 or {x.shape[-1]}, one a column"
            )
        old = x.dtype.type(attributes["replaced_value_float" if floats else "replaced_value_int64"])
        missing = np.isnan(x) if floats and np.isnan(old) else x == old
        return [np.where(missing, np.asarray(values, x.dtype), x)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = np.array([[1.0, np.nan, 3.0], [np.nan, 5.0, 6.0]], np.float32)
        yield Sample([x], {"imputed_value_floats": (7.0, 8.0, 9.0), "replaced_value_float": float("nan")})
        yield Sample([x], {"imputed_value_floats": (7.0,), "replaced_value_float": 3.0})
        yield Sample([np.array([[1, -1, 3]], np.int64)], {"imputed_value_int64s": (9,), "replaced_value_int64": -1})


class FeatureVectorizer(Operator):
    """Inputs [N, C_i] side by side as float32 [N, sum of inputdimensions]; each cut or filled with zeros to its width."""

    domain = "ai.onnx.ml"
    inputs = (In("X", NUMBERS, variadic=True),)
    outputs = (Out("Y", FLOAT32),)
    types: ClassVar[Mapping[str, frozenset[str]]] = {}
    attributes = {"inputdimensions": Attr("ints")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x = context.shape(0)
        if x is None or not context.attributes["inputdimensions"]:
            return [TensorType("float32")]
        return [TensorType("float32", (x[0] if len(x) > 1 else 1, sum(context.attributes["inputdimensions"])))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        columns = []
        for x, width in zip(inputs, attributes["inputdimensions"]):
            matrix = x.reshape(1, -1) if x.ndim == 1 else x.reshape(x.shape[0], -1)
            filled = np.zeros((matrix.shape[0], width), np.float32)
            kept = min(width, matrix.shape[1])
            filled[:, :kept] = matrix[:, :kept]
            columns.append(filled)
        return [np.concatenate(columns, axis=1)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (3, 2), "float32"), draw(rng, (3, 1), "float32")], {"inputdimensions": (2, 1)})
        yield Sample([draw(rng, (2, 2), "float32")], {"inputdimensions": (4,)})


class OneHotEncoder(Operator):
    """Each value as a float32 vector with a 1 at its category; an unknown one is all zeros, or an error."""

    domain = "ai.onnx.ml"
    inputs = (In("X"),)
    outputs = (Out("Y", FLOAT32),)
    types = {"T": NUMBERS | STRING}
    attributes = {"cats_int64s": Attr("ints"), "cats_strings": Attr("strings"), "zeros": Attr("int", 1)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, categories = context.shape(0), self._categories(context.attributes)
        return [TensorType("float32", None if x is None else (*x, len(categories)))]

    @staticmethod
    def _categories(attributes: Mapping[str, Any]) -> Sequence[Any]:
        return attributes["cats_strings"] or attributes["cats_int64s"] or ()

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        (x,) = inputs
        values = x if x.dtype.kind == "O" else x.astype(np.int64)
        hot = np.stack([values == category for category in self._categories(attributes)], axis=-1)
        if not attributes["zeros"] and not hot.any(-1).all():
            raise GraphError("a value is none of the categories, and zeros=0 forbids that")
        return [hot.astype(np.float32)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([np.array([[1, 5], [3, 9]], np.int64)], {"cats_int64s": (1, 3, 5)})
        yield Sample([np.array(["a", "c", "x"], object)], {"cats_strings": ("a", "b", "c")})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0]]
