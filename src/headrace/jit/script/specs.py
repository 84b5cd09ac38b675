"""Types of the compiled program's values, and what two ways of computing one value have in common.

`If` and `Loop` pass values of fixed types out of their blocks. A Spec says which: `join` finds the one that two values
share, `leaves` turns a value into the graph values of it, `build` makes the value again from what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.functional.base import cast, is_symbolic
from headrace.jit.abstract import Abstract
from headrace.jit.script import numbers
from headrace.jit.script.values import DTYPES, MISSING, ORDER, List, Maybe, Number, Undefined
from headrace.jit.sizes import SymInt, dim_of
from headrace.runtime import dtypes
from headrace.runtime.graph import Value
from headrace.runtime.shapes import Dim, Expr, dim_text
from headrace.runtime.types import SequenceType, TensorType, Type
from headrace.scalar_types import of as scalar_type
from headrace.tensors import _CATEGORY, Tensor, wrap


class Mismatch(Exception):
    """Two values have no type in common; the text says what they are."""


@dataclass(frozen=True)
class Array:
    """A tensor. A size of None differs between the ways; a shape of None is not known at all (elements of an empty list).
    `number` is the kind of an element that is a Python number, in a list whose length only the graph knows."""

    dtype: str
    shape: tuple[Dim | None, ...] | None
    number: str | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return str(Scalar(self.number))
        sizes = "..." if self.shape is None else ", ".join("?" if d is None else dim_text(d) for d in self.shape)
        return f"a tensor {self.dtype}[{sizes}]"


@dataclass(frozen=True)
class Scalar:
    """A Python number."""

    kind: str

    def __str__(self) -> str:
        return f"a number ({self.kind})"


@dataclass(frozen=True)
class Sequence_:
    """A list whose length only the graph knows; its elements are tensors."""

    element: Array

    def __str__(self) -> str:
        return f"a list of {self.element}"


@dataclass(frozen=True)
class Tree:
    """A tuple, list or dict of known length."""

    make: Callable[[list[Any]], Any] = field(compare=False)
    kind: Any
    parts: tuple[Any, ...]

    def __str__(self) -> str:
        return f"a {getattr(self.kind, '__name__', 'dict').lower()} of ({', '.join(map(str, self.parts))})"


@dataclass(frozen=True)
class Fixed:
    """A value that is no part of the graph: the same on both ways."""

    value: Any

    def __str__(self) -> str:
        return repr(self.value) if numbers.kind_of(self.value) or self.value is None else type(self.value).__name__


@dataclass(frozen=True)
class Perhaps:
    """A value, or None."""

    inner: Any

    def __str__(self) -> str:
        return f"None or {self.inner}"


Spec = Any


def spec_of(value: Any) -> Spec:
    """The spec of a value as it is now."""
    if isinstance(value, Tensor):
        data = value._data
        return Array(dtypes.of(data.dtype).name, tuple(dim_of(d) for d in data.shape))
    if isinstance(value, Number | SymInt):
        return Scalar(value.kind if isinstance(value, Number) else "int")
    if isinstance(value, List) and value.sequence is not None:
        return Sequence_(value.element)
    if isinstance(value, Maybe):
        return Perhaps(spec_of(value.value))
    if isinstance(value, dict):
        keys = tuple(value)
        return Tree(lambda items: dict(zip(keys, items)), ("dict", keys), tuple(map(spec_of, value.values())))
    if isinstance(value, tuple):
        made = type(value)._make if hasattr(value, "_make") else tuple
        return Tree(made, type(value), tuple(map(spec_of, value)))
    if isinstance(value, List):
        return Tree(List, List, tuple(map(spec_of, value)))
    return Fixed(value)


def join(a: Spec, b: Spec) -> Spec:
    """The spec that both fit. Raises Mismatch."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Fixed):
            if one.value is MISSING:
                return other
            if isinstance(one.value, Undefined):
                raise Mismatch(one.value.reason)
            if one.value is None and not (isinstance(other, Fixed) and other.value is None):
                return other if isinstance(other, Perhaps) else Perhaps(other)
    if isinstance(a, Perhaps) or isinstance(b, Perhaps):
        return Perhaps(join(getattr(a, "inner", a), getattr(b, "inner", b)))
    if isinstance(a, Fixed) and isinstance(b, Fixed) and same(a.value, b.value):
        return a
    kinds = _kind(a), _kind(b)
    if kinds[0] and kinds[1]:
        return Scalar(max(kinds[0], kinds[1], key=ORDER.index))
    for one, kind in ((a, kinds[1]), (b, kinds[0])):
        if isinstance(one, Array) and kind and one.shape == () and _category(one.dtype) >= ORDER.index(kind):
            return one
    if isinstance(a, Array) and isinstance(b, Array):
        return _join_arrays(a, b)
    lists = [spec for spec in (a, b) if isinstance(spec, Sequence_) or (isinstance(spec, Tree) and spec.kind is List)]
    if isinstance(a, Tree) and isinstance(b, Tree) and a.kind == b.kind and len(a.parts) == len(b.parts):
        return Tree(a.make, a.kind, tuple(map(join, a.parts, b.parts)))
    if len(lists) == 2:
        return _join_lists(a, b)
    raise Mismatch(f"{a} or {b}")


def _join_arrays(a: Array, b: Array) -> Array:
    if a.dtype != b.dtype or a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        raise Mismatch(f"{a} or {b}")
    return Array(a.dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape)))


def _join_lists(a: Spec, b: Spec) -> Sequence_:
    elements = [part for spec in (a, b) for part in (spec.parts if isinstance(spec, Tree) else (spec.element,))]
    return Sequence_(join_elements(elements))


def join_elements(elements: Sequence[Spec]) -> Array:
    """The spec of all elements of a list whose length changes: numbers, or tensors of one dtype and number of dimensions."""
    known = [e for e in elements if not (isinstance(e, Array) and e.shape is None)]
    if not known:
        return elements[0]
    kinds = [e.number if isinstance(e, Array) else _kind(e) for e in known]
    if all(kinds):
        widest = max((kind for kind in kinds if kind), key=ORDER.index)
        return Array(DTYPES[widest], (), widest)
    total = known[0]
    for element, kind in zip(known, kinds):
        if not isinstance(element, Array) or kind:
            raise Mismatch(f"a list that holds {element} (lists whose length changes hold tensors, or numbers)")
        total = _join_arrays(total, element)
    return total


def item_value(item: Any, element: Array, tracer: Any) -> Value:
    """The graph value of an element of a list."""
    return tracer.value(numbers.tensor_of(item, element.number) if element.number else item)


def item_of(value: Value, element: Array, tracer: Any) -> Any:
    """The element of a list behind a graph value."""
    value.type = _type(element, tracer.builder.inference.fresh)
    tensor = tracer._tensor(value)
    return Number(element.number, tensor) if element.number else tensor


def _kind(spec: Spec) -> str | None:
    return spec.kind if isinstance(spec, Scalar) else numbers.kind_of(spec.value) if isinstance(spec, Fixed) else None


def _category(dtype: str) -> int:
    return _CATEGORY[dtypes.BY_NAME[dtype].numpy]


def same(a: Any, b: Any) -> bool:
    """Whether two values that are no part of the graph are one."""
    if a is b:
        return True
    if type(a) is not type(b) or not isinstance(a, int | float | str | bytes | range | slice | frozenset):
        return False
    return bool(a == b) or (a != a and b != b)


# -------------------------------------------------------------------- to graph values and back


def types(spec: Spec, fresh: Callable[[str], Expr]) -> list[Type]:
    """The types of a spec's graph values; sizes that differ become symbols of their own."""
    if isinstance(spec, Array):
        return [_type(spec, fresh)]
    if isinstance(spec, Scalar):
        return [TensorType(DTYPES[spec.kind], ())]
    if isinstance(spec, Sequence_):
        return [SequenceType(_type(spec.element, fresh))]
    if isinstance(spec, Perhaps):
        return [TensorType("bool", ()), *types(spec.inner, fresh)]
    return [t for part in spec.parts for t in types(part, fresh)] if isinstance(spec, Tree) else []


def _type(spec: Array, fresh: Callable[[str], Expr]) -> TensorType:
    if spec.shape is None:
        return TensorType(spec.dtype)
    return TensorType(spec.dtype, tuple(fresh("trip") if d is None else d for d in spec.shape))


def leaves(value: Any, spec: Spec, tracer: Any) -> list[Value]:
    """The graph values of a value that fits a spec; constants and conversions are added where the tracer stands."""
    if isinstance(spec, Array):
        return [_array_leaf(value, spec, tracer)]
    if isinstance(spec, Scalar):
        value = False if value is MISSING and spec.kind == "bool" else 0 if value is MISSING else value
        return [tracer.value(numbers.tensor_of(value, spec.kind))]
    if isinstance(spec, Sequence_):
        return [sequence_value(List() if value is MISSING else value, spec.element, tracer)]
    if isinstance(spec, Perhaps):
        present = value.present if isinstance(value, Maybe) else value is not None and value is not MISSING
        inner = value.value if isinstance(value, Maybe) else MISSING if value is None else value
        return [tracer.value(numbers.tensor_of(present, "bool")), *leaves(inner, spec.inner, tracer)]
    if isinstance(spec, Tree):
        items = [MISSING] * len(spec.parts) if value is MISSING else _items(value)
        return [leaf for item, part in zip(items, spec.parts, strict=True) for leaf in leaves(item, part, tracer)]
    return []


def _items(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _array_leaf(value: Any, spec: Array, tracer: Any) -> Value:
    dtype = dtypes.BY_NAME[spec.dtype].numpy
    if value is MISSING:
        sizes = [0 if d is None else d for d in spec.shape or ()]
        known = [d if isinstance(d, int) or tracer.can_size(d) else 0 for d in sizes]
        if all(isinstance(d, int) for d in known):
            return tracer.value(wrap(np.zeros(known, dtype)))
        import headrace.functional as F

        shape = tuple(d if isinstance(d, int) else SymInt(d) for d in known)
        return tracer.value(F.zeros(shape, dtype=scalar_type(dtype)))
    if not isinstance(value, Tensor):
        value = cast(numbers.tensor_of(value), scalar_type(dtype))
    return tracer.value(value)


def sequence_value(value: List, element: Array, tracer: Any) -> Value:
    """A list as a sequence of the graph."""
    if value.sequence is not None:
        return value.sequence
    if not value:
        found = tracer.node("SequenceEmpty", [], {"dtype": dtypes.BY_NAME[element.dtype].onnx})
    else:
        found = tracer.node("SequenceConstruct", [item_value(item, element, tracer) for item in value], {})
    return found


def build(spec: Spec, values: Iterator[Value], tracer: Any) -> Any:
    """The value whose graph values these are."""
    if isinstance(spec, Array):
        value = next(values)
        if isinstance(value.type, TensorType) and value.type.shape is None:  # inference knows less than the compiler
            value.type = _type(spec, tracer.builder.inference.fresh)
        return tracer._tensor(value)
    if isinstance(spec, Scalar):
        return Number(spec.kind, tracer._tensor(next(values)))
    if isinstance(spec, Sequence_):
        return dynamic_list(next(values), spec.element, tracer)
    if isinstance(spec, Perhaps):
        present = Number("bool", tracer._tensor(next(values)))
        return Maybe(present, build(spec.inner, values, tracer))
    return spec.make([build(part, values, tracer) for part in spec.parts]) if isinstance(spec, Tree) else spec.value


def dynamic_list(value: Value, element: Array, tracer: Any) -> List:
    """A list that is a sequence of the graph. What is known of its elements is noted in the sequence's type."""
    found = List()
    found.sequence, found.element = value, element
    value.type = SequenceType(_type(element, tracer.builder.inference.fresh))
    return found


def is_traced(value: Any) -> bool:
    """Whether a value is only known when the graph runs."""
    return (
        isinstance(value, Number | Maybe) or is_symbolic(value) or isinstance(getattr(value, "_data", None), Abstract)
    )
