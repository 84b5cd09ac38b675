"""Elementwise operators as rows of a table: a row becomes an Operator class of the module that holds the table.

globals().update(unary_operators(__name__, (
    Unary("Sin", np.sin, lambda F, g, x, y, a: F.Mul(g, F.Cos(x)), versions=(7, 22)),
)))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import (
    PAIRS,
    SHAPES,
    broadcast_rows,
    broadcast_shapes,
    compute,
    draw,
    extremes,
    is_float,
    numpy_dtype,
    ordered,
    unbroadcast,
    zip_values,
)
from headrace.runtime.shapes import Dim
from headrace.runtime.types import TensorType, Type


class Elementwise(Operator):
    """All inputs are broadcast; element i of the result depends on element i of each. `result` is the dtype of the
    output (None: that of input 0)."""

    result: ClassVar[str | None] = None
    function: ClassVar[Callable[..., Any]]
    symbolic: ClassVar[Callable[..., Dim | None] | None] = None  # the same on dimensions, for shape arithmetic

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(self.result or context.dtype(0), broadcast_shapes(context))]

    def values(self, context: Context) -> list[Any] | None:
        symbolic = type(self).symbolic
        if symbolic is None:
            return None
        return [zip_values(symbolic, *(context.value(i) for i in range(len(context.inputs))))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dtype = numpy_dtype(self.result) if self.result else inputs[0].dtype
        return [compute(type(self).function, inputs, dtype, **attributes)]

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        """Version 1 said which buffers might be overwritten."""
        node.attributes.pop("consumed_inputs", None)
        return None

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        present = [i for i in range(len(context.inputs)) if context.has(i)]
        return [broadcast_rows([tags[i] for i in present], [context.shape(i) for i in present])]


@dataclass(frozen=True)
class Unary:
    """One row: function(x, **attributes), gradient(F, g, x, y, attributes) (None: none flows), and where to sample."""

    name: str
    function: Callable[..., Any]
    gradient: Callable[..., Any] | None = None
    types: frozenset[str] = dtypes.FLOAT
    low: float = -3.0
    high: float = 3.0
    versions: tuple[int, ...] = (1,)
    attributes: Mapping[str, Attr] = field(default_factory=dict)
    cases: tuple[Mapping[str, Any], ...] = ({},)  # attributes to sample with
    ulp: float = 4.0
    scale: float = 0.0
    result: str | None = None
    symbolic: Callable[..., Any] | None = None
    domain: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Binary:
    """One row: function(a, b, **attributes), gradient(F, g, a, b, y, attributes) -> (for a, for b) before broadcasting
    is undone."""

    name: str
    function: Callable[..., Any]
    gradient: Callable[..., Any] | None = None
    types: frozenset[str] = dtypes.NUMERIC
    low: float = -3.0
    high: float = 3.0
    versions: tuple[int, ...] = (1, 6, 7, 13, 14)
    attributes: Mapping[str, Attr] = field(default_factory=dict)
    cases: tuple[Mapping[str, Any], ...] = ({},)
    ulp: float = 0.0
    result: str | None = None
    symbolic: Callable[..., Any] | None = None
    positive: bool = False  # sample b away from zero
    mixin: type | None = None
    domain: str = ""
    doc: str = ""


def unary_operators(module: str, rows: Iterable[Unary]) -> dict[str, type[Operator]]:
    """Classes of a module's unary operators, by name."""
    return {row.name: _class(module, row, _Unary, (In("X"),)) for row in rows}


def binary_operators(module: str, rows: Iterable[Binary]) -> dict[str, type[Operator]]:
    """Classes of a module's binary operators, by name."""
    return {row.name: _class(module, row, _Binary, (In("A"), In("B"))) for row in rows}


def _class(module: str, row: Any, base: type[Operator], inputs: tuple[In, ...]) -> type[Operator]:
    body = {
        "__module__": module,
        "__doc__": row.doc or f"{row.name}, element by element.",
        "name": row.name,
        "row": row,
        "inputs": inputs,
        "outputs": (Out("Y", frozenset({row.result}) if row.result else "T"),),
        "types": {"T": row.types},
        "attributes": dict(row.attributes),
        "versions": row.versions,
        "accuracy": Accuracy(row.ulp, getattr(row, "scale", 0.0)),
        "differentiable": row.gradient is not None,
        "twice_differentiable": row.gradient is not None,
        "result": row.result,
        "function": staticmethod(row.function),
        "symbolic": staticmethod(row.symbolic) if row.symbolic else None,
        "in_place": () if row.result else (0,) if len(inputs) == 1 else (0, 1),
        "domain": row.domain,
    }
    bases = (row.mixin, base) if getattr(row, "mixin", None) else (base,)
    return type(row.name, bases, body)


class _Unary(Elementwise):
    row: ClassVar[Unary]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if self.row.gradient is None or not is_float(F, inputs[0]):
            return [None]
        return [self.row.gradient(F, grads[0], inputs[0], outputs[0], attributes)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        row = self.row
        for attributes in row.cases:
            for shape in SHAPES:
                yield Sample([draw(rng, shape, first_of(row.types), row.low, row.high)], dict(attributes))
        for dtype in ordered(row.types):
            yield Sample([draw(rng, (3, 5), dtype, row.low, row.high)], dict(row.cases[0]))
            if dtypes.of(dtype).kind != "s" and dtype in dtypes.NUMERIC | {"bool"}:
                yield Sample([extremes(dtype)], dict(row.cases[-1]))


class _Binary(Elementwise):
    row: ClassVar[Binary]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if self.row.gradient is None:
            return [None, None]
        for_a, for_b = self.row.gradient(F, grads[0], *inputs, outputs[0], attributes)
        return [unbroadcast(F, for_a, inputs[0]), unbroadcast(F, for_b, inputs[1])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        row = self.row
        for attributes in row.cases:
            for left, right in PAIRS:
                dtype = first_of(row.types)
                yield Sample(
                    [draw(rng, left, dtype, row.low, row.high), self._right(rng, right, dtype)], dict(attributes)
                )
        for attributes in row.cases:
            for dtype in ordered(row.types):
                yield Sample(
                    [draw(rng, (3, 5), dtype, row.low, row.high), self._right(rng, (5,), dtype)], dict(attributes)
                )
                if dtypes.of(dtype).kind in "fiub":
                    edge = extremes(dtype)
                    yield Sample([edge[:, None], edge[None, :]], dict(attributes))

    def _right(self, rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
        if self.row.positive:
            return draw(rng, shape, dtype, 1.0, max(2.0, self.row.high))
        return draw(rng, shape, dtype, self.row.low, self.row.high)


def first_of(types: frozenset[str]) -> str:
    """The dtype that most samples use: float32 where it is allowed."""
    return "float32" if "float32" in types else next(ordered(types))
