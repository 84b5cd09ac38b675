"""Expand, Constant, ConstantOfShape, Range, EyeLike: tensors made from shapes and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import fresh_shape, int64, known_shape, length_of, uniform_axis
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import code_of, draw, is_float, name_of, numpy_dtype
from headrace.runtime.shapes import Dim, Expr, broadcast, compare, maximum
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})
# Tensors made from numbers in a file: more elements than this is refused before memory is asked for.
ELEMENT_LIMIT = 1 << 32


def sized(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape from data, checked before anything is allocated."""
    sizes = tuple(int(size) for size in shape)
    total = 1
    for size in sizes:
        if size < 0:
            raise RunError(f"shape {list(sizes)} holds a negative size")
        total *= size
    if total > ELEMENT_LIMIT:
        raise RunError(f"shape {list(sizes)} has {total} elements; allowed are {ELEMENT_LIMIT}")
    return sizes


class Expand(Operator):
    """Broadcasts the input against a shape."""

    versions = (8, 13)
    inputs = (In("input"), In("shape", INT64))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), self._shape(context))]

    def _shape(self, context: Context) -> Dims | None:
        before, target = context.shape(), context.value(1)
        if before is not None and isinstance(target, tuple):
            return broadcast(before, target)
        rank = length_of(context, 1)
        return None if before is None or rank is None else fresh_shape(context, max(len(before), rank), "expanded")

    def values(self, context: Context) -> list[Any] | None:
        value, target = context.value(0), context.value(1)
        if value is None or not isinstance(target, tuple) or len(target) != 1 or not isinstance(target[0], int):
            return None
        flat = value if isinstance(value, tuple) else (value,)
        if len(flat) != 1 or target[0] > 1024:
            return [flat if target[0] == 1 or target[0] == len(flat) else None]
        return [flat * target[0]]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1]))
        return [np.broadcast_to(inputs[0], sized(shape)).copy()]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.SumTo(grads[0], inputs[0]) if is_float(F, inputs[0]) else None, None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, target in (((3, 1), (2, 3, 4)), ((), (2, 2)), ((2, 3), (1,)), ((1, 3), (0, 3)), ((3,), (2, 3))):
            yield Sample([draw(rng, shape, "float32"), int64(*target)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        before, after = context.shape(), self._shape(context)
        if all(tag is None for tag in tags):
            return [None]
        if before is None or after is None or context.value(1) is None or tags[0] == MIXED:
            return [MIXED]
        offset = len(after) - len(before)
        if tags[0] is not None:
            place = tags[0] + offset
            return [place if before[tags[0]] == after[place] else MIXED]
        return [uniform_axis(after, (i for i in range(len(after)) if i < offset or before[i - offset] == 1))]


class Constant(Operator):
    """One attribute that holds the value."""

    versions = (1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
    inputs = ()
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = {
        "value": Attr("tensor"), "sparse_value": Attr("tensor"), "value_float": Attr("float"), "value_floats": Attr("floats"),
        "value_int": Attr("int"), "value_ints": Attr("ints"), "value_string": Attr("string"), "value_strings": Attr("strings"),
    }  # fmt: skip
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        array = self._array(context.attributes)
        return [TensorType(dtypes.of(array).name, tuple(array.shape))]

    def values(self, context: Context) -> list[Any] | None:
        array = self._array(context.attributes)
        if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 1024:
            return None
        return [int(array) if array.ndim == 0 else tuple(int(item) for item in array)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [self._array(attributes)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return []

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([], {"value": draw(rng, (2, 3), "float32")})
        yield Sample([], {"value_ints": (1, 2, 3)})
        yield Sample([], {"value_float": 0.5})
        yield Sample([], {"value_strings": ("a", "b")})

    @staticmethod
    def _array(attributes: Mapping[str, Any]) -> np.ndarray:
        given = {key: value for key, value in attributes.items() if value is not None}
        if len(given) != 1:
            raise GraphError(f"Constant needs exactly one value; it has {', '.join(given) or 'none'}")
        ((key, value),) = given.items()
        if key.endswith(("float", "floats")):
            return np.array(value, np.float32)
        if key.endswith(("int", "ints")):
            return np.array(value, np.int64)
        return np.array(value, object) if "string" in key else np.asarray(value)


class ConstantOfShape(Operator):
    """A tensor of the given shape, every element the one of `value` (default: float32 zero)."""

    versions = (9, 20, 21, 23, 24, 25)
    inputs = (In("input", INT64),)
    outputs = (Out("output", dtypes.ANY),)
    attributes = {"value": Attr("tensor")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(dtypes.of(self._fill(context.attributes)).name, self._shape(context))]

    def _shape(self, context: Context) -> Dims | None:
        target = context.value(0)
        if isinstance(target, tuple):
            if any(isinstance(size, int) and size < 0 for size in target):
                raise GraphError(f"shape {list(target)} holds a negative size")
            return target
        rank = length_of(context, 0)
        return None if rank is None else fresh_shape(context, rank, "filled")

    def values(self, context: Context) -> list[Any] | None:
        target, fill = context.value(0), self._fill(context.attributes)
        if not isinstance(target, tuple) or fill.dtype.kind not in "iu" or len(target) > 1:
            return None
        if not target:
            return [int(fill[0])]
        return [(int(fill[0]),) * target[0] if isinstance(target[0], int) and target[0] <= 1024 else None]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        fill = self._fill(attributes)
        return [np.full(sized(inputs[0]), fill[0], fill.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 4)):
            yield Sample([int64(*shape)])
            yield Sample([int64(*shape)], {"value": np.array([7], np.int8)})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if tags[0] is None:
            return [None]
        shape = self._shape(context) if context.value(0) is not None else None
        return [MIXED if shape is None else uniform_axis(shape, range(len(shape)))]

    @staticmethod
    def _fill(attributes: Mapping[str, Any]) -> np.ndarray:
        value = attributes["value"]
        fill = np.zeros(1, np.float32) if value is None else np.ravel(np.asarray(value))
        if fill.size != 1:
            raise GraphError(f"value of ConstantOfShape has {fill.size} elements; allowed: 1")
        return fill


class Range(Operator):
    """start, start + delta, ... below (or above) limit."""

    versions = (11, 27)
    inputs = (In("start"), In("limit"), In("delta"))
    outputs = (Out("output"),)
    types = {"T": dtypes.FLOAT | {"int16", "int32", "int64"}}
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        for index in range(3):
            known_shape(context, index, (0, 1))
        return [TensorType(context.dtype(), (self._count(context),))]

    def _count(self, context: Context) -> Dim:
        arrays = [context.constant(i) for i in range(3)]
        if all(array is not None for array in arrays):
            return count_of(*arrays)
        start, limit, delta = (_one(context.value(i)) for i in range(3))
        if start is None or limit is None or not isinstance(delta, int) or delta == 0:
            return context.fresh("range")
        span = (limit - start + (delta - 1)) // delta if delta > 0 else (start - limit + (-delta - 1)) // -delta
        return span if start == 0 and delta == 1 and compare(limit, -1) == 1 else maximum(span, 0)

    def values(self, context: Context) -> list[Any] | None:
        start, limit, delta = (_one(context.value(i)) for i in range(3))
        if not all(isinstance(item, int) for item in (start, limit, delta)) or delta == 0:
            return None
        found = range(start, limit, delta)
        return [tuple(found) if len(found) <= 1024 else None]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        start, limit, delta = (np.reshape(item, ()) for item in inputs)
        (count,) = sized([count_of(start, limit, delta)])
        wide = np.float64 if dtypes.of(start).kind == "f" else np.int64
        return [(start.astype(wide) + np.arange(count).astype(wide) * delta.astype(wide)).astype(inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None, None, None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for dtype, case in (
            ("int64", (0, 7, 2)),
            ("float32", (1, 0.25, -0.25)),
            ("int32", (5, 0, 1)),
            ("float64", (0, 1, 0.3)),
        ):
            yield Sample([np.array(item, dtype) for item in case])


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value if not isinstance(value, tuple) else None


def count_of(start: Any, limit: Any, delta: Any) -> int:
    """How many numbers a Range has."""
    start, limit, delta = (np.reshape(item, ()) for item in (start, limit, delta))
    if delta == 0:
        raise RunError("delta of Range is 0")
    if start.dtype.kind in "iu":
        return max(0, -((int(start) - int(limit)) // int(delta)))
    count = np.ceil((float(limit) - float(start)) / float(delta))
    if not np.isfinite(count):
        raise RunError(f"Range from {start} to {limit} by {delta} has no finite length")
    return max(0, int(count))


class EyeLike(Operator):
    """Ones on the diagonal `k`, zeros elsewhere, in the shape of the input."""

    versions = (9, 22)
    inputs = (In("input", "T1"),)
    outputs = (Out("output", dtypes.NUMERIC | {"bool"}),)
    types = {"T1": dtypes.NUMERIC | {"bool"}}
    attributes = {"dtype": Attr("int"), "k": Attr("int", 0)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        code = context.attributes["dtype"]
        return [TensorType(context.dtype() if code is None else name_of(code), known_shape(context, 0, (2,)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        code = attributes["dtype"]
        dtype = inputs[0].dtype if code is None else numpy_dtype(name_of(code))
        rows, columns = inputs[0].shape
        return [np.eye(rows, columns, k=attributes["k"]).astype(dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for k in (0, 1, -2, 9):
            yield Sample([draw(rng, (3, 4), "float32")], {"k": k})
        yield Sample([draw(rng, (3, 4), "float32")], {"dtype": code_of("int64")})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        static = shape is not None and not any(isinstance(size, Expr) for size in shape)
        return [None if tags[0] is None or static else MIXED]
