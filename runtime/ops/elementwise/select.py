"""Where, Clip and PRelu: elementwise choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Context, In, Sample
from headrace.runtime.ops.common import draw, extremes, is_float, ordered, replacement, scalar, unbroadcast, zip_values
from headrace.runtime.ops.table import Elementwise
from headrace.runtime.shapes import Expr, compare
from headrace.runtime.types import TensorType, Type


class Where(Elementwise):
    """X where the condition holds, else Y; all three are broadcast."""

    versions = (9, 16)
    inputs = (In("condition", "B"), In("X"), In("Y"))
    types = {"B": frozenset({"bool"}), "T": dtypes.ANY}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(1), super().infer(context)[0].shape)]  # type: ignore[union-attr]

    def values(self, context: Context) -> list[Any] | None:
        condition, x, y = context.constant(0), context.value(1), context.value(2)
        if condition is None or condition.ndim > 1 or x is None or y is None:
            return None
        flags = tuple(map(int, condition)) if condition.ndim else int(condition)
        return [zip_values(lambda flag, yes, no: yes if flag else no, flags, x, y)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.where(*inputs)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        condition, x, y = inputs
        if not is_float(F, x):
            return [None, None, None]
        zero = scalar(F, 0, grads[0])
        return [
            None,
            unbroadcast(F, F.Where(condition, grads[0], zero), x),
            unbroadcast(F, F.Where(condition, zero, grads[0]), y),
        ]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for c, x, y in (
            ((2, 3),) * 3,
            ((3, 1), (4,), ()),
            ((), (2, 2), (2, 1)),
            ((0, 2), (2,), (1,)),
            ((5,), (1, 1, 5), (5,)),
        ):
            yield Sample([draw(rng, c, "bool"), draw(rng, x, "float32"), draw(rng, y, "float32")])
        for dtype in ordered(dtypes.NUMERIC | {"bool", "string"}):
            yield Sample([draw(rng, (3, 4), "bool"), draw(rng, (3, 4), dtype), draw(rng, (4,), dtype)])
        yield Sample([draw(rng, (18,), "bool"), extremes("float32"), np.array(1, np.float32)])


class Clip(Elementwise):
    """min(max(x, low), high): where low > high the result is high. NaN stays NaN."""

    versions = (1, 6, 11, 12, 13)
    inputs = (In("input"), In("min", optional=True), In("max", optional=True))
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        for index, name in ((1, "min"), (2, "max")):
            if context.has(index) and context.type(index).rank not in (None, 0) and context.shape(index) != (1,):
                raise GraphError(f"{name} must be a scalar, not {context.type(index)}")
        return [context.type(0)]

    def values(self, context: Context) -> list[Any] | None:
        x, low = context.value(0), context.value(1)
        if x is None or context.has(2) or not isinstance(low, int | Expr):
            return None
        items = x if isinstance(x, tuple) else (x,)
        return [x] if all(compare(item, low) in (0, 1) for item in items) else None

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, low, high = (*inputs, None, None)[:3]
        result = x
        if low is not None:
            result = np.maximum(result, low.reshape(()))
        if high is not None:
            result = np.minimum(result, high.reshape(()))
        return [np.asarray(result).astype(x.dtype, copy=False)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, low, high = (*inputs, None, None)[:3]
        g = grads[0]
        if not is_float(F, x):
            return [None] * len(inputs)
        zero = scalar(F, 0, g)
        above = F.Greater(x, high) if high is not None else None
        for_x, for_low, for_high = g, None, None
        if low is not None:
            below = F.Less(x, low)
            if high is not None:  # low > high: everything is high
                crossed = F.Greater(low, high)
                above = F.Or(above, crossed)
                below = F.And(below, F.Not(crossed))
            for_x = F.Where(below, zero, for_x)
            for_low = unbroadcast(F, F.Where(below, g, zero), low)
        if high is not None:
            for_x = F.Where(above, zero, for_x)
            for_high = unbroadcast(F, F.Where(above, g, zero), high)
        return [for_x, for_low, for_high][: len(inputs)]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0] if all(tag is None for tag in tags[1:]) else MIXED]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 3), (33,)):
            yield Sample([draw(rng, shape, "float32"), np.array(-1, np.float32), np.array(1.5, np.float32)])
        x = draw(rng, (4, 5), "float32")
        yield Sample([x])
        yield Sample([x, np.array(-0.5, np.float32)])
        yield Sample([x, None, np.array(0.5, np.float32)])
        yield Sample([x, np.array(1, np.float32), np.array(-1, np.float32)])
        for dtype in ordered(dtypes.NUMERIC):
            yield Sample(
                [
                    draw(rng, (3, 4), dtype),
                    np.asarray(0).astype(x.dtype).astype(dtypes.of(dtype).numpy),
                    np.asarray(2).astype(dtypes.of(dtype).numpy),
                ]
            )
        yield Sample([extremes("float32"), np.array(-1, np.float32), np.array(6, np.float32)])

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        if version >= 11:
            return None
        (x,) = node.inputs
        if not isinstance(x.type, TensorType):
            raise GraphError("Clip before version 11 needs an input of known dtype")
        dtype = dtypes.of(x.type.dtype).numpy
        bounds = [
            builder.constant(np.asarray(node.attributes[key], dtype), key) if key in node.attributes else None
            for key in ("min", "max")
        ]
        return replacement(builder, node, [x, *bounds])


class PRelu(Elementwise):
    """x where x >= 0, else slope * x; the slope is broadcast to x."""

    versions = (1, 6, 7, 9, 16)
    inputs = (In("X"), In("slope"))
    types = {"T": dtypes.FLOAT | {"int32", "int64", "uint32", "uint64"}}
    accuracy = Accuracy(1.0)
    function = staticmethod(lambda x, slope: np.where(x < 0, x * slope, x))

    def infer(self, context: Context) -> list[Type | None]:
        (type,) = super().infer(context)
        x, slope = context.type(0).rank, context.type(1).rank
        if x is not None and slope is not None and slope > x:
            raise GraphError(f"the slope {context.type(1)} must broadcast to the input {context.type(0)}")
        return [type]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, slope = inputs
        g = grads[0]
        if not is_float(F, x):
            return [None, None]
        zero = scalar(F, 0, x)
        positive = F.Greater(x, zero)
        return [F.Where(positive, g, F.Mul(g, slope)), unbroadcast(F, F.Where(positive, zero, F.Mul(g, x)), slope)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, slope in (
            ((2, 3), (3,)),
            ((2, 3, 4), (3, 1)),
            ((5,), ()),
            ((0, 3), (3,)),
            ((2, 3), (2, 3)),
            ((1,), (1,)),
        ):
            yield Sample([draw(rng, x, "float32"), draw(rng, slope, "float32")])
        for dtype in ordered(self.types["T"]):
            yield Sample([draw(rng, (3, 4), dtype), draw(rng, (4,), dtype)])
        yield Sample([extremes("float32"), np.array(0.25, np.float32)])

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        """Before version 7 a slope [C] belongs to axis 1, whatever the rank."""
        x, slope = node.inputs
        if version >= 7 or not isinstance(x.type, TensorType) or x.type.rank is None or x.type.rank <= 2:
            return None
        if not isinstance(slope.type, TensorType) or slope.type.rank != 1 or slope.type.shape == (1,):
            return None
        axes = builder.constant(np.arange(1, x.type.rank - 1, dtype=np.int64), "axes")
        (slope,) = builder.node("Unsqueeze", [slope, axes])
        return replacement(builder, node, [x, slope])
