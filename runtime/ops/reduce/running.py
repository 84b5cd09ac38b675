"""Running sums and products along an axis: CumSum, CumProd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw, is_float, ordered, scalar
from headrace.runtime.ops.reduce.places import resolve_axis
from headrace.runtime.types import Type


class _Running(Operator):
    """exclusive: element i folds those before i; reverse: from the end."""

    inputs = (In("x"), In("axis", "T2"))
    outputs = (Out("y"),)
    types = {"T": dtypes.FLOAT | {"int32", "int64", "uint32", "uint64"}, "T2": frozenset({"int32", "int64"})}
    attributes = {"exclusive": Attr("int", 0, (0, 1)), "reverse": Attr("int", 0, (0, 1))}
    accuracy = Accuracy(8.0)
    unit: ClassVar[int]
    accumulate: ClassVar[Any]

    def infer(self, context: Context) -> list[Type | None]:
        axis, rank = context.value(1), context.type(0).rank
        if isinstance(axis, tuple) and len(axis) == 1:
            (axis,) = axis
        if isinstance(axis, int) and rank is not None:
            resolve_axis(axis, rank)
        return [context.type(0)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0]
        axis = resolve_axis(int(inputs[1].reshape(-1)[0]), x.ndim)
        return [compute(self._run, [x], x.dtype, axis=axis, **attributes)]

    def _run(self, x: Any, axis: int, exclusive: int, reverse: int) -> Any:
        x = np.flip(x, axis) if reverse else x
        if exclusive and x.shape[axis]:
            first = np.full_like(np.take(x, [0], axis=axis), self.unit)
            x = np.concatenate([first, np.take(x, np.arange(x.shape[axis] - 1), axis=axis)], axis=axis)
        result = type(self).accumulate(x, axis=axis, dtype=x.dtype)
        return np.flip(result, axis) if reverse else result

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        axis, rank = context.value(1), context.type(0).rank
        axis = axis[0] if isinstance(axis, tuple) else axis
        if (
            tags[0] in (None, MIXED)
            or tags[1] is not None
            or not isinstance(axis, int)
            or rank is None
            or axis % rank == tags[0]
        ):
            return [MIXED]
        return [tags[0]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for exclusive in (0, 1):
            for reverse in (0, 1):
                attributes = {"exclusive": exclusive, "reverse": reverse}
                yield Sample([draw(rng, (2, 3, 4), "float32", 0.5, 1.5), np.array(1, np.int64)], attributes)
                yield Sample([draw(rng, (5,), "float32", 0.5, 1.5), np.array(-1, np.int32)], attributes)
        yield Sample([draw(rng, (0, 3), "float32"), np.array(0, np.int64)], {"exclusive": 1})
        yield Sample([draw(rng, (1, 1), "float32"), np.array(1, np.int64)])
        for dtype in ordered(self.types["T"]):
            yield Sample([draw(rng, (3, 4), dtype, 1, 3), np.array(1, np.int64)])


class CumSum(_Running):
    versions = (11, 14)
    unit = 0
    accumulate = staticmethod(np.cumsum)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if not is_float(F, inputs[0]):
            return [None, None]
        reverse = 1 - attributes["reverse"]
        return [F.CumSum(grads[0], inputs[1], exclusive=attributes["exclusive"], reverse=reverse), None]


class CumProd(_Running):
    """The gradient divides by x; at the first 0 it is the sum of products without it, behind that 0."""

    versions = (26,)
    unit = 1
    accumulate = staticmethod(np.cumprod)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if not is_float(F, inputs[0]):
            return [None, None]
        (x, axis), g = inputs, grads[0]
        zero, one = scalar(F, 0, x), scalar(F, 1, x)

        def back(products: Any) -> Any:
            """What element i adds to all later products."""
            reverse = 1 - attributes["reverse"]
            return F.CumSum(F.Mul(g, products), axis, exclusive=attributes["exclusive"], reverse=reverse)

        hole = F.Equal(x, zero)
        count = F.CumSum(F.Where(hole, one, zero), axis, reverse=attributes["reverse"])
        first = F.And(hole, F.Equal(count, one))
        through = F.CumProd(F.Where(first, one, x), axis, **attributes)
        plain = F.Where(hole, zero, F.Div(back(outputs[0]), F.Where(hole, one, x)))
        return [F.Where(first, back(through), plain), None]
