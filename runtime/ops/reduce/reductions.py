"""ReduceSum and its family, one row each. `axes` is an input since version 13 (ReduceSum) and 18 (the others)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Sample
from headrace.runtime.ops.common import code_of, compute, draw, extremes, is_float, ordered, replacement, scalar
from headrace.runtime.ops.elementwise.binary import divide
from headrace.runtime.shapes import Dim, product
from headrace.runtime.types import TensorType, Type

REDUCED = dtypes.FLOAT | {"int32", "int64", "uint32", "uint64"}
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """function(x, axes, keepdims), gradient(F, g, x, y, n) over kept dimensions; `n` answers how many were folded."""

    name: str
    function: Callable[..., Any]
    gradient: Callable[..., Any] | None
    types: frozenset[str] = REDUCED
    low: float = -3.0
    high: float = 3.0
    versions: tuple[int, ...] = (1, 11, 13, 18)
    ulp: float = 8.0
    fold: Callable[[Sequence[Dim]], Dim | None] | None = None  # the same on the elements of a shape


def resolve_axes(axes: Any, rank: int, noop: bool) -> Axes:
    """The axes that are folded, sorted and counted from the front. GraphError where one is out of range or repeated."""
    if axes is None or len(axes) == 0:
        return () if noop else tuple(range(rank))
    found = []
    for axis in map(int, axes):
        if not -rank <= axis < rank:
            raise GraphError(f"axis {axis} is outside [{-rank}, {rank - 1}]")
        found.append(axis % rank)
    if len(set(found)) != len(found):
        raise GraphError(f"axes {tuple(map(int, axes))} repeat a dimension")
    return tuple(sorted(found))


class _Reduce(Operator):
    inputs = (In("data"), In("axes", frozenset({"int64"}), optional=True))
    attributes = {"keepdims": Attr("int", 1, (0, 1)), "noop_with_empty_axes": Attr("int", 0, (0, 1))}
    row: ClassVar[Row]

    def infer(self, context: Context) -> list[Type | None]:
        dtype, shape = context.dtype(), context.shape()
        keep = context.attributes["keepdims"]
        if shape is None:
            return [TensorType(dtype, None)]
        axes = self.axes(context)
        if axes is None:  # known only when running
            unknown = tuple(context.fresh("reduced") for _ in shape) if keep else None
            return [TensorType(dtype, unknown)]
        if keep:
            return [TensorType(dtype, tuple(1 if i in axes else dim for i, dim in enumerate(shape)))]
        return [TensorType(dtype, tuple(dim for i, dim in enumerate(shape) if i not in axes))]

    def axes(self, context: Context) -> Axes | None:
        """The folded axes, where they are known before running."""
        rank = context.type(0).rank
        value = context.value(1) if context.has(1) else ()
        if value is None and context.shape(1) == (0,):
            value = ()
        if rank is None or not isinstance(value, tuple) or not all(isinstance(axis, int) for axis in value):
            return None
        return resolve_axes(value, rank, bool(context.attributes["noop_with_empty_axes"]))

    def values(self, context: Context) -> list[Any] | None:
        items = context.value(0)
        if self.row.fold is None or not isinstance(items, tuple) or self.axes(context) != (0,):
            return None
        result = self.row.fold(items)
        if result is None:
            return None
        return [(result,) if context.attributes["keepdims"] else result]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0]
        given = inputs[1] if len(inputs) > 1 else None
        axes = resolve_axes(given, x.ndim, bool(attributes["noop_with_empty_axes"]))
        return [compute(self.row.function, [x], x.dtype, axes=axes, keepdims=bool(attributes["keepdims"]))]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, axes = (*inputs, None)[:2]
        if self.row.gradient is None or not is_float(F, x):
            return [None] * len(inputs)

        def kept(value: Any) -> Any:
            return keep_dims(F, value, x, axes, attributes)

        result = self.row.gradient(F, kept(grads[0]), x, kept(outputs[0]), Folded(F, x, axes, outputs[0], attributes))
        return [result, None][: len(inputs)]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        axes, tag = self.axes(context), tags[0]
        if tag is None or tag == MIXED or axes is None or tag in axes:
            return [MIXED]
        return [tag if context.attributes["keepdims"] else tag - sum(axis < tag for axis in axes)]

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        if "axes" not in node.attributes:
            return None
        axes = builder.constant(np.asarray(node.attributes["axes"], np.int64), "axes")
        attributes = {key: value for key, value in node.attributes.items() if key != "axes"}
        return replacement(builder, node, [node.inputs[0], axes], attributes)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        low, high = self.row.low, self.row.high

        def case(
            shape: tuple[int, ...], axes: Sequence[int] | None, dtype: str = "float32", **attributes: Any
        ) -> Sample:
            given = [] if axes is None else [np.array(axes, np.int64)]
            return Sample([draw(rng, shape, dtype, low, high), *given], attributes)

        first = "float32" if "float32" in self.types["T"] else "bool"
        yield case((2, 3, 4), [1])
        yield case((2, 3, 4), [-1, 0], keepdims=0)
        yield case((2, 3, 4), None)
        yield case((2, 3), [], first, keepdims=0)
        yield case((2, 3), None, noop_with_empty_axes=1)
        yield case((2, 3), [], noop_with_empty_axes=1)
        yield case((), None)
        yield case((1, 7, 1), [1], keepdims=0)
        yield case((3, 0), [0])
        yield case((257,), [0])
        for dtype in ordered(self.types["T"]):
            yield case((3, 5), [1], dtype)
            if dtype in dtypes.FLOAT or (
                self.row.ulp == 0 and dtype != "bool"
            ):  # overflow of integer sums is not defined
                yield Sample([np.stack([extremes(dtype), extremes(dtype)[::-1]]), np.array([0], np.int64)])


class Folded:
    """What a gradient asks about the folding: how many elements went into one, and the arguments of the call."""

    def __init__(self, F: Any, x: Any, axes: Any, y: Any, attributes: Mapping[str, Any]) -> None:
        self.F, self.x, self.axes, self.y, self.attributes = F, x, axes, y, attributes

    def count(self) -> Any:
        """The number of elements behind one output, as a scalar in the dtype of x."""
        F = self.F
        before, after = F.type(self.x).shape, F.type(self.y).shape
        if before is not None and after is not None:
            whole, part = product(before), product(after)
            if isinstance(whole, int) and isinstance(part, int):
                return scalar(F, whole // max(part, 1), self.x)
        code = code_of(F.dtype(self.x))
        return F.Div(F.Cast(F.Size(self.x), to=code), F.Cast(F.Size(self.y), to=code))

    def sum(self, value: Any) -> Any:
        """The same folding, by sum, of another value; dimensions kept."""
        noop = self.attributes["noop_with_empty_axes"]
        return self.F.ReduceSum(
            value, *([self.axes] if self.axes is not None else []), keepdims=1, noop_with_empty_axes=noop
        )


def keep_dims(F: Any, value: Any, x: Any, axes: Any, attributes: Mapping[str, Any]) -> Any:
    """A folded value with its folded dimensions back as ones."""
    if attributes["keepdims"] or F.rank(x) == 0:
        return value
    if axes is None or F.type(axes).shape == (0,):
        if attributes["noop_with_empty_axes"]:
            return value
        axes = F.constant(np.arange(F.rank(x), dtype=np.int64))
    return F.Unsqueeze(value, axes)


def _spread(F: Any, g: Any, x: Any) -> Any:
    return F.Expand(g, F.Shape(x))


def _shared(F: Any, g: Any, x: Any, y: Any, n: Folded) -> Any:
    """Of an extreme: equal shares for all that attain it."""
    attained = F.Cast(F.Equal(x, y), to=code_of(F.dtype(x)))
    return F.Mul(F.Div(g, n.sum(attained)), attained)


def _l2_gradient(F: Any, g: Any, x: Any, y: Any, n: Folded) -> Any:
    zero = F.Equal(y, scalar(F, 0, y))
    return F.Mul(x, F.Div(F.Where(zero, scalar(F, 0, g), g), F.Where(zero, scalar(F, 1, y), y)))


def _prod_gradient(F: Any, g: Any, x: Any, y: Any, n: Folded) -> Any:
    """The product of all the others, from running products before and behind: right where x has zeros."""
    rank = F.rank(x)
    empty = n.axes is None or F.type(n.axes).shape == (0,)
    if empty and n.attributes["noop_with_empty_axes"]:
        return g
    if empty:
        axes = [F.constant(np.asarray(axis, np.int64)) for axis in range(rank)]
    else:
        (count,) = F.type(n.axes).shape
        if not isinstance(count, int):
            raise GraphError("the gradient of ReduceProd needs a known number of axes")
        axes = [F.Gather(n.axes, F.constant(np.asarray(i, np.int64)), axis=0) for i in range(count)]
    partial = [x]
    for axis in axes[:-1]:
        partial.append(F.ReduceProd(partial[-1], F.Reshape(axis, F.constant(np.array([1], np.int64))), keepdims=1))
    for value, axis in zip(reversed(partial), reversed(axes)):
        before, behind = F.CumProd(value, axis, exclusive=1), F.CumProd(value, axis, exclusive=1, reverse=1)
        g = F.Mul(g, F.Mul(before, behind))
    return g


def _lowest(x: Any) -> Any:
    return False if x.dtype.kind == "b" else (-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)


def _highest(x: Any) -> Any:
    return True if x.dtype.kind == "b" else (np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max)


def _mean(x: Any, axes: Axes, keepdims: bool) -> Any:
    total = np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)
    count = np.asarray(int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64)), x.dtype)
    return divide(np.asarray(total), count)


def _root(x: Any, axes: Axes, keepdims: bool) -> Any:
    wide = x.astype(np.float64) if x.dtype.kind in "iu" else x
    return np.sqrt(np.sum(wide * wide, axis=axes, keepdims=keepdims))


def _log_sum_exp(x: Any, axes: Axes, keepdims: bool) -> Any:
    top = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0)
    result = np.log(np.sum(np.exp(x - safe), axis=axes, keepdims=True)) + safe
    return result if keepdims else np.squeeze(result, axes)


def _sum_of(before: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda x, axes, keepdims: np.sum(before(x), axis=axes, keepdims=keepdims, dtype=x.dtype)


EXTREME = REDUCED | {"int8", "uint8", "bool"}
V20, V28 = (1, 11, 12, 13, 18, 20), (1, 11, 13, 18, 28)

ROWS = (
    Row("ReduceL1", _sum_of(np.abs), lambda F, g, x, y, n: F.Mul(g, F.Sign(x))),
    Row("ReduceL2", _root, _l2_gradient),
    Row("ReduceLogSum", lambda x, axes, keepdims: np.log(np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)),
        lambda F, g, x, y, n: _spread(F, F.Div(g, n.sum(x)), x), dtypes.FLOAT, 0.1, 3.0, V28),
    Row("ReduceLogSumExp", _log_sum_exp, lambda F, g, x, y, n: F.Mul(g, F.Exp(F.Sub(x, y))), dtypes.FLOAT, versions=V28),
    Row("ReduceMax", lambda x, axes, keepdims: np.max(x, axis=axes, keepdims=keepdims, initial=_lowest(x)), _shared, EXTREME, versions=V20, ulp=0),
    Row("ReduceMean", _mean, lambda F, g, x, y, n: _spread(F, F.Div(g, n.count()), x)),
    Row("ReduceMin", lambda x, axes, keepdims: np.min(x, axis=axes, keepdims=keepdims, initial=_highest(x)), _shared, EXTREME, versions=V20, ulp=0),
    Row("ReduceProd", lambda x, axes, keepdims: np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype), _prod_gradient, fold=product),
    Row("ReduceSum", _sum_of(lambda x: x), lambda F, g, x, y, n: _spread(F, g, x), versions=(1, 11, 13), fold=sum),
    Row("ReduceSumSquare", _sum_of(lambda x: x * x), lambda F, g, x, y, n: F.Mul(F.Add(g, g), x)),
)  # fmt: skip


def _class(row: Row) -> type[Operator]:
    body = {"__module__": __name__, "__doc__": f"{row.name} over the given axes.", "row": row, "types": {"T": row.types},
            "versions": row.versions, "accuracy": Accuracy(row.ulp), "differentiable": row.gradient is not None}  # fmt: skip
    return type(row.name, (_Reduce,), body)


globals().update({row.name: _class(row) for row in ROWS})
