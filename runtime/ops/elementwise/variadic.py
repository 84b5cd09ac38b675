"""Min, Max, Sum, Mean of any number of inputs, with broadcasting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes, shapes
from headrace.runtime.ops.base import Accuracy, Context, In, Sample
from headrace.runtime.ops.common import code_of, draw, extremes, is_float, ordered, scalar, unbroadcast, zip_values
from headrace.runtime.ops.table import Elementwise


class _Variadic(Elementwise):
    """One or more inputs of one dtype; `pair` combines two."""

    inputs = (In("data_0", variadic=True),)
    versions: ClassVar[tuple[int, ...]] = (1, 6, 8, 13)
    types = {"T": dtypes.FLOAT}
    pair: ClassVar[Any]
    in_place = (0,)

    @classmethod
    def function(cls, *arrays: Any) -> Any:
        return reduce(cls.pair, arrays)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for given in (((2, 3),), ((2, 3), (2, 3)), ((3, 1), (1, 4), ()), ((0, 2), (2,)), ((5,), (1,), (2, 5), (5,))):
            yield Sample([draw(rng, shape, "float32") for shape in given])
        for dtype in ordered(self.types["T"]):
            yield Sample([draw(rng, (3, 4), dtype), draw(rng, (4,), dtype)])
            yield Sample([extremes(dtype)[:, None], extremes(dtype)[None, :]])


class Sum(_Variadic):
    pair = staticmethod(np.add)
    accuracy = Accuracy(8.0)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [unbroadcast(F, grads[0], x) for x in inputs]


class Mean(_Variadic):
    pair = staticmethod(np.add)
    accuracy = Accuracy(8.0)

    @classmethod
    def function(cls, *arrays: Any) -> Any:
        total = reduce(np.add, arrays)
        return total / np.asarray(len(arrays), total.dtype)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        share = F.Div(grads[0], scalar(F, len(inputs), grads[0]))
        return [unbroadcast(F, share, x) for x in inputs]


class _Extreme(_Variadic):
    """At a tie the gradient is shared equally among the inputs that attain the extreme."""

    versions = (1, 6, 8, 12, 13)
    types = {"T": dtypes.NUMERIC}
    accuracy = Accuracy.exact()
    dims: ClassVar[Any]

    def values(self, context: Context) -> list[Any] | None:
        values = [context.value(i) for i in range(len(context.inputs))]
        return [zip_values(lambda *row: reduce(type(self).dims, row), *values)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if not is_float(F, inputs[0]):
            return [None] * len(inputs)
        if len(inputs) == 1:
            return [grads[0]]
        code = code_of(F.dtype(inputs[0]))
        attained = [F.Cast(F.Equal(x, outputs[0]), to=code) for x in inputs]
        share = F.Div(grads[0], F.Sum(*attained))
        return [unbroadcast(F, F.Mul(share, mask), x) for x, mask in zip(inputs, attained)]


class Max(_Extreme):
    """The largest; NaN where any input is NaN."""

    pair = staticmethod(np.maximum)
    dims = staticmethod(shapes.maximum)


class Min(_Extreme):
    """The smallest; NaN where any input is NaN."""

    pair = staticmethod(np.minimum)
    dims = staticmethod(shapes.minimum)
