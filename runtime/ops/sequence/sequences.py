"""Sequences: lists of tensors of one type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.graph import Block, Node, Value
from headrace.runtime.ops.axes import axis_of, integers
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, name_of
from headrace.runtime.ops.control._blocks import merged
from headrace.runtime.shapes import Dim
from headrace.runtime.types import OptionalType, SequenceType, TensorType, Type

INDEX = frozenset({"int32", "int64"})


def element_of(context: Context, index: int = 0) -> Type:
    """The element type of a sequence input."""
    type = context.inputs[index]
    if isinstance(type, OptionalType):
        type = type.element
    if not isinstance(type, SequenceType):
        raise GraphError(f"input {index} is {type}; allowed: a sequence")
    return type.element


def shapeless(type: Type | None) -> Type | None:
    return TensorType(type.dtype) if isinstance(type, TensorType) else type


def place_in(position: Any, length: int, extra: int = 0) -> int:
    """A position within 0 .. length - 1 (+ extra). RunError outside."""
    place = int(np.ravel(position)[0])
    if not -length <= place < length + extra:
        raise RunError(f"position {place} is outside of a sequence of {length}")
    return place + length if place < 0 else place


class _Sequence(Operator):
    accuracy = Accuracy.exact()
    differentiable = False


class SequenceConstruct(_Sequence):
    """The inputs as one sequence."""

    versions = (11,)
    inputs = (In("inputs", variadic=True),)
    outputs = (Out("output_sequence", dtypes.ANY),)
    types = {"T": dtypes.ANY}

    def infer(self, context: Context) -> list[Type | None]:
        element: Type | None = context.inputs[0]
        for type in context.inputs[1:]:
            element = merged(element, type, context.fresh, "an element")
        return [None if element is None else SequenceType(element)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [list(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3), "float32") for _ in range(3)])
        yield Sample([draw(rng, (2,), "int64")])


class SequenceEmpty(_Sequence):
    """A sequence with nothing in it."""

    versions = (11,)
    inputs = ()
    outputs = (Out("output", dtypes.ANY),)
    attributes = {"dtype": Attr("int", 1)}

    def infer(self, context: Context) -> list[Type | None]:
        return [SequenceType(TensorType(name_of(context.attributes["dtype"])))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [[]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([])


class SequenceAt(_Sequence):
    """The element at a position."""

    versions = (11,)
    inputs = (In("input_sequence", dtypes.ANY), In("position", INDEX))
    outputs = (Out("tensor", dtypes.ANY),)

    def infer(self, context: Context) -> list[Type | None]:
        return [element_of(context)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [inputs[0][place_in(inputs[1], len(inputs[0]))]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for place in (0, -1, 1):
            yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)], np.array(place, np.int64)])


class SequenceInsert(_Sequence):
    """The sequence with one more element, at a position or at the end."""

    versions = (11,)
    inputs = (In("input_sequence", dtypes.ANY), In("tensor"), In("position", INDEX, optional=True))
    outputs = (Out("output_sequence", dtypes.ANY),)
    types = {"T": dtypes.ANY}

    def infer(self, context: Context) -> list[Type | None]:
        element = merged(element_of(context), context.inputs[1], context.fresh, "an element")
        return [None if element is None else SequenceType(shapeless(element))]  # type: ignore[arg-type]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        items = list(inputs[0])
        at = len(items) if len(inputs) < 3 or inputs[2] is None else place_in(inputs[2], len(items), 1)
        items.insert(at, inputs[1])
        return [items]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (2, 3), "float32")
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)], x])
        for place in (0, -1, 3):
            yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)], x, np.array(place, np.int64)])


class SequenceErase(_Sequence):
    """The sequence without the element at a position, or without the last one."""

    versions = (11,)
    inputs = (In("input_sequence", dtypes.ANY), In("position", INDEX, optional=True))
    outputs = (Out("output_sequence", dtypes.ANY),)

    def infer(self, context: Context) -> list[Type | None]:
        return [SequenceType(element_of(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        items = list(inputs[0])
        del items[place_in(-1 if len(inputs) < 2 or inputs[1] is None else inputs[1], len(items))]
        return [items]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)]])
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)], np.array(-2, np.int32)])


class SequenceLength(_Sequence):
    """How many elements a sequence has."""

    versions = (11,)
    inputs = (In("input_sequence", dtypes.ANY),)
    outputs = (Out("length", frozenset({"int64"})),)

    def infer(self, context: Context) -> list[Type | None]:
        element_of(context)
        return [TensorType("int64", ())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.array(len(inputs[0]), np.int64)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)]])


class ConcatFromSequence(_Sequence):
    """The elements joined along an axis, or stacked on a new one."""

    versions = (11,)
    inputs = (In("input_sequence", dtypes.ANY),)
    outputs = (Out("concat_result", dtypes.ANY),)
    attributes = {"axis": Attr("int", REQUIRED), "new_axis": Attr("int", 0, (0, 1))}

    def infer(self, context: Context) -> list[Type | None]:
        element = element_of(context)
        if not isinstance(element, TensorType) or element.shape is None:
            return [shapeless(element)]
        rank = len(element.shape) + context.attributes["new_axis"]
        return [TensorType(element.dtype, tuple(context.fresh("joined") for _ in range(rank)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        join = np.stack if attributes["new_axis"] else np.concatenate
        return [join(inputs[0], axis=attributes["axis"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)]], {"axis": 1})
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(2)]], {"axis": -1, "new_axis": 1})


class SplitToSequence(_Sequence):
    """The input cut along an axis: into entries, chunks of one size (the last smaller), or chunks of given sizes."""

    versions = (11, 24)
    inputs = (In("input"), In("split", INDEX, optional=True))
    outputs = (Out("output_sequence", dtypes.ANY),)
    types = {"T": dtypes.ANY}
    attributes = {"axis": Attr("int", 0), "keepdims": Attr("int", 1, (0, 1))}

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is None:
            return [SequenceType(TensorType(context.dtype()))]
        axis = axis_of(context.attributes["axis"], len(shape))
        if not context.has(1) and not context.attributes["keepdims"]:
            return [SequenceType(TensorType(context.dtype(), shape[:axis] + shape[axis + 1 :]))]
        size: Dim = 1 if not context.has(1) else context.fresh("chunk")
        sizes = integers(context, 1)
        if sizes is not None and len(set(sizes)) == 1 and context.type(1).rank == 1:
            size = sizes[0]
        return [SequenceType(TensorType(context.dtype(), (*shape[:axis], size, *shape[axis + 1 :])))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, split = (*inputs, None)[:2]
        axis = axis_of(attributes["axis"], x.ndim)
        length = x.shape[axis]
        if split is None:
            parts = np.split(x, length, axis=axis) if length else []
            return [[part.copy() if attributes["keepdims"] else np.squeeze(part, axis=axis) for part in parts]]
        if split.ndim == 0:
            if int(split) < 1:
                raise RunError(f"split is {int(split)}; allowed: 1 and more")
            cuts = list(range(int(split), length, int(split)))
        else:
            if int(split.sum()) != length or split.min(initial=0) < 0:
                raise RunError(f"split is {split.tolist()}; allowed: sizes whose sum is {length}")
            cuts = np.cumsum(split)[:-1].tolist()
        return [[part.copy() for part in np.split(x, cuts, axis=axis)]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (6, 4), "float32")
        yield Sample([x])
        yield Sample([x], {"keepdims": 0, "axis": 1})
        yield Sample([x, np.array(2, np.int64)])
        yield Sample([x, np.array([2, 2], np.int64)], {"axis": 1})


class SequenceMap(_Sequence):
    """The body run for each element of the first sequence, with the matching elements of the others (tensors as they are)."""

    versions = (17,)
    inputs = (In("input_sequence", dtypes.ANY), In("additional_inputs", dtypes.ANY, optional=True, variadic=True))
    outputs = (Out("out_sequence", dtypes.ANY, variadic=True),)
    attributes = {"body": Attr("block", REQUIRED)}

    def infer(self, context: Context) -> list[Type | None]:
        given = [shapeless(type.element) if isinstance(type, SequenceType) else type for type in context.inputs]
        if context.infer_block is None:
            return [None] * context.n_outputs
        found = context.infer_block(context.attributes["body"], given)
        return [None if type is None else SequenceType(type) for type in found]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        body = attributes["body"]
        outputs: list[list[Any]] = [[] for _ in body.outputs]
        for place in range(len(inputs[0])):
            found = run_block(body, [item[place] if isinstance(item, list) else item for item in inputs])
            for output, item in zip(outputs, found):
                output.append(item)
        return list(outputs)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [-1] * context.n_outputs

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, y, z = (Value(name, TensorType("float32")) for name in "xyz")
        body = Block([x, y], [Node("Add", [x, y], [z])], [z])
        yield Sample([[draw(rng, (2, 3), "float32") for _ in range(3)], draw(rng, (2, 1), "float32")], {"body": body})
