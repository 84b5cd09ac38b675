"""LabelEncoder and CategoryMapper: each value looked up in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import kept_rows
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.types import TensorType, Type

KEYS = frozenset({"string", "int64", "float32", "int32", "int16", "float64"})
_KINDS = {"strings": np.dtype(object), "int64s": np.dtype(np.int64), "floats": np.dtype(np.float32)}


def _column(attributes: Mapping[str, Any], side: str) -> np.ndarray:
    """The keys or values: a tensor or one of three lists."""
    tensor = attributes[f"{side}_tensor"]
    if tensor is not None:
        return np.ravel(tensor)
    for kind, dtype in _KINDS.items():
        if attributes[f"{side}_{kind}"] is not None:
            return np.array(attributes[f"{side}_{kind}"], dtype)
    raise GraphError(f"LabelEncoder needs one of {side}_tensor, {side}_strings, {side}_int64s, {side}_floats")


def look_up(x: Any, table: Mapping[Any, Any], default: Any, dtype: Any) -> Any:
    """Each element's value in the table; NaN is a key like any other."""
    found = [table.get("nan" if item != item else item, default) for item in x.ravel().tolist()]
    result = np.empty(len(found), dtype)
    result[:] = found
    return result.reshape(x.shape)


class LabelEncoder(Operator):
    """The value beside the key that the element equals, else the default."""

    domain = "ai.onnx.ml"
    versions = (1, 2, 4)
    inputs = (In("X", KEYS),)
    outputs = (Out("Y", KEYS),)
    attributes = {
        "default_float": Attr("float", -0.0), "default_int64": Attr("int", -1), "default_string": Attr("string", "_Unused"), "default_tensor": Attr("tensor"),
        "keys_floats": Attr("floats"), "keys_int64s": Attr("ints"), "keys_strings": Attr("strings"), "keys_tensor": Attr("tensor"),
        "values_floats": Attr("floats"), "values_int64s": Attr("ints"), "values_strings": Attr("strings"), "values_tensor": Attr("tensor"),
    }  # fmt: skip
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        keys, values = (_column(context.attributes, side) for side in ("keys", "values"))
        if keys.size != values.size:
            raise GraphError(f"there are {keys.size} keys and {values.size} values")
        return [TensorType(dtypes.of(values).name, context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        keys, values = (_column(attributes, side) for side in ("keys", "values"))
        default = attributes["default_tensor"]
        if default is None:
            default = attributes[{"O": "default_string", "i": "default_int64"}.get(values.dtype.kind, "default_float")]
        else:
            default = np.ravel(default)[0]
        table: dict[Any, Any] = {}
        for key, value in zip(keys.tolist(), values.tolist()):
            table.setdefault("nan" if key != key else key, value)
        return [look_up(inputs[0], table, default, values.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(
            [np.array([["a", "x"], ["c", "b"]], object)],
            {"keys_strings": ("a", "b", "c"), "values_int64s": (5, 6, 7), "default_int64": 42},
        )
        yield Sample([np.array([1, 9], np.int64)], {"keys_int64s": (1, 2), "values_strings": ("one", "two")})
        yield Sample(
            [np.array([0.5, np.nan], np.float32)], {"keys_floats": (0.5, float("nan")), "values_floats": (1.5, 2.5)}
        )
        yield Sample([np.array(["a", "z"], object)], {
            "keys_tensor": np.array(["a", "b"], object), "values_tensor": np.array([3, 4], np.int16), "default_tensor": np.array([7], np.int16)})  # fmt: skip

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return kept_rows(tags)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        """Version 1: a list of strings, looked up in either direction."""
        if version >= 2:
            return
        names = tuple(node.attributes.pop("classes_strings", ()))
        numbers = tuple(range(len(names)))
        text = isinstance(node.inputs[0].type, TensorType) and node.inputs[0].type.dtype == "string"
        node.attributes |= (
            {"keys_strings": names, "values_int64s": numbers}
            if text
            else {"keys_int64s": numbers, "values_strings": names}
        )


class CategoryMapper(Operator):
    """Strings to integers or integers to strings, by a table of pairs."""

    domain = "ai.onnx.ml"
    inputs = (In("X", frozenset({"string", "int64"})),)
    outputs = (Out("Y", frozenset({"string", "int64"})),)
    attributes = {
        "cats_int64s": Attr("ints"), "cats_strings": Attr("strings"), "default_int64": Attr("int", -1), "default_string": Attr("string", "_Unused"),
    }  # fmt: skip
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        numbers, names = context.attributes["cats_int64s"], context.attributes["cats_strings"]
        if not numbers or not names or len(numbers) != len(names):
            raise GraphError("CategoryMapper needs equally many cats_int64s and cats_strings")
        return [TensorType("int64" if context.dtype() == "string" else "string", context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        numbers, names = attributes["cats_int64s"], attributes["cats_strings"]
        if inputs[0].dtype.kind == "O":
            return [look_up(inputs[0], dict(zip(names, numbers)), attributes["default_int64"], np.int64)]
        return [look_up(inputs[0], dict(zip(numbers, names)), attributes["default_string"], object)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        table = {"cats_int64s": (3, 5), "cats_strings": ("a", "b")}
        yield Sample([np.array([["a", "q"]], object)], {**table, "default_int64": 9})
        yield Sample([np.array([5, 4], np.int64)], table)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return kept_rows(tags)
