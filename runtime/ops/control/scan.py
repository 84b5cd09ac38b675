"""Scan: a block run once for each entry of the scanned inputs; and BatchScan, its form of operator set 8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.graph import Block, Node, Value
from headrace.runtime.ops.axes import axis_of
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.control._blocks import settled, stacked
from headrace.runtime.shapes import Dim
from headrace.runtime.types import TensorType, Type


def running_sum() -> Block:
    """(total, entry) -> (total + entry, total + entry): the body that samples use."""
    total, entry = (Value(name, TensorType("float32")) for name in ("total", "entry"))
    after, seen = Value("after"), Value("seen")
    return Block(
        [total, entry], [Node("Add", [total, entry], [after]), Node("Identity", [after], [seen])], [after, seen]
    )


class Scan(Operator):
    """body(states..., entries...) -> (states..., scanned...), along one axis of each scanned input, forward or backward."""

    versions = (8, 9, 11, 16, 19, 21, 23, 24, 25)
    inputs = (In("initial_state_and_scan_inputs", dtypes.ANY, variadic=True),)
    outputs = (Out("final_state_and_scan_outputs", dtypes.ANY, variadic=True),)
    attributes = {
        "body": Attr("block", REQUIRED),
        "num_scan_inputs": Attr("int", REQUIRED),
        "scan_input_axes": Attr("ints"),
        "scan_input_directions": Attr("ints"),
        "scan_output_axes": Attr("ints"),
        "scan_output_directions": Attr("ints"),
    }
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        body, count = context.attributes["body"], context.attributes["num_scan_inputs"]
        states, scanned = context.inputs[:-count], context.inputs[-count:]
        if len(body.inputs) != len(context.inputs) or len(body.outputs) < len(states):
            raise GraphError(
                f"the body of Scan takes {len(body.inputs)} inputs and gives {len(body.outputs)}; the node has {len(context.inputs)}"
            )
        if context.infer_block is None:
            return [None] * context.n_outputs
        entries, length = self._entries(scanned, context)
        rest: list[Type | None] = []

        def look(types: Sequence[Type | None]) -> list[Type | None]:
            found = context.infer_block(body, [*types, *entries])  # type: ignore[misc]
            rest[:] = found[len(states) :]
            return found[: len(states)]

        _, final = settled(look, states, context.fresh)
        axes = context.attributes["scan_output_axes"] or (0,) * len(rest)
        return [*final, *(_with_axis(type, axis, length) for type, axis in zip(rest, axes))]

    @staticmethod
    def _entries(scanned: Sequence[Type | None], context: Context) -> tuple[list[Type | None], Dim]:
        axes = context.attributes["scan_input_axes"] or (0,) * len(scanned)
        entries: list[Type | None] = []
        lengths: list[Dim] = []
        for type, axis in zip(scanned, axes):
            if not isinstance(type, TensorType) or type.shape is None:
                entries.append(TensorType(type.dtype) if isinstance(type, TensorType) else None)
                continue
            axis = axis_of(axis, len(type.shape))
            lengths.append(type.shape[axis])
            entries.append(TensorType(type.dtype, type.shape[:axis] + type.shape[axis + 1 :]))
        return entries, next(
            (size for size in lengths if isinstance(size, int)), lengths[0] if lengths else context.fresh("scan")
        )

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        count, body = attributes["num_scan_inputs"], attributes["body"]
        states, scanned = list(inputs[:-count]), inputs[-count:]
        axes = attributes["scan_input_axes"] or (0,) * count
        moved = [np.moveaxis(x, axis, 0) for x, axis in zip(scanned, axes)]
        moved = [
            x[::-1] if backward else x
            for x, backward in zip(moved, attributes["scan_input_directions"] or (0,) * count)
        ]
        if len({len(x) for x in moved}) > 1:
            raise RunError(f"the scanned inputs have {[len(x) for x in moved]} entries; they must have equally many")
        parts: list[list[Any]] = [[] for _ in body.outputs[len(states) :]]
        for step in range(len(moved[0])):
            results = run_block(
                body,
                [*states, *(np.ascontiguousarray(x[step]) if x[step].ndim else np.asarray(x[step]) for x in moved)],
            )
            states, found = results[: len(states)], results[len(states) :]
            for part, item in zip(parts, found):
                part.append(item)
        backward = attributes["scan_output_directions"] or (0,) * len(parts)
        places = attributes["scan_output_axes"] or (0,) * len(parts)
        types = [value.type for value in body.outputs[len(states) :]]
        outputs = [
            stacked(part[::-1] if back else part, axis, type)
            for part, back, axis, type in zip(parts, backward, places, types)
        ]
        return [*states, *outputs]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [-1] * context.n_outputs  # what the body reads from outside is not seen here

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        """Operator set 8 scans axis 1 of batches, with optional lengths as input 0."""
        if version >= 9:
            return None
        attributes = {
            key: node.attributes[key] for key in ("body", "num_scan_inputs", "directions") if key in node.attributes
        }
        names = [value.name for value in node.outputs]
        return builder.node("BatchScan", node.inputs, attributes, domain="headrace", outputs=names)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        state, x = draw(rng, (3,), "float32"), draw(rng, (4, 3), "float32")
        yield Sample([state, x], {"body": running_sum(), "num_scan_inputs": 1}, outputs=2)
        turned = {
            "scan_input_axes": (1,),
            "scan_input_directions": (1,),
            "scan_output_axes": (1,),
            "scan_output_directions": (1,),
        }
        yield Sample([state, x.T.copy()], {"body": running_sum(), "num_scan_inputs": 1, **turned}, outputs=2)


class BatchScan(Operator):
    """Scan of operator set 8: every input has a batch axis 0, scanning goes along axis 1, each entry of the batch by
    itself for its own length (input 0, optional)."""

    domain = "headrace"
    inputs = (
        In("sequence_lens", frozenset({"int64"}), optional=True),
        In("initial_state_and_scan_inputs", dtypes.ANY, variadic=True),
    )
    outputs = Scan.outputs
    attributes = {"body": Attr("block", REQUIRED), "num_scan_inputs": Attr("int", REQUIRED), "directions": Attr("ints")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        count, given = context.attributes["num_scan_inputs"], context.inputs[1:]
        dropped = [_without(type, 1) for type in given[:-count]] + [_without(type, 2) for type in given[-count:]]
        if context.infer_block is None:
            return [None] * context.n_outputs
        outputs = context.infer_block(context.attributes["body"], dropped)
        first, last = given[0], given[-1]
        batch = first.shape[0] if isinstance(first, TensorType) and first.shape else context.fresh("batch")
        length = last.shape[1] if isinstance(last, TensorType) and last.shape else context.fresh("scan")
        states = len(given) - count
        return [
            _with_axis(type if i < states else _with_axis(type, 0, length), 0, batch) for i, type in enumerate(outputs)
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        lengths, *values = inputs
        count = attributes["num_scan_inputs"]
        full = values[-1].shape[1]
        plain = {"body": attributes["body"], "num_scan_inputs": count, "scan_input_directions": attributes["directions"],
                 "scan_input_axes": None, "scan_output_axes": None, "scan_output_directions": None}  # fmt: skip
        rows = []
        for entry in range(values[0].shape[0]):
            length = full if lengths is None else int(lengths[entry])
            states = [np.asarray(x[entry]) for x in values[:-count]]
            found = Scan().reference(
                [*states, *(x[entry][:length] for x in values[-count:])], plain, n_outputs, run_block
            )
            padded = [
                np.concatenate([y, np.zeros((full - length, *y.shape[1:]), y.dtype)]) for y in found[len(states) :]
            ]
            rows.append([*found[: len(states)], *padded])
        return [np.stack(column) for column in zip(*rows)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        state, x = draw(rng, (2, 3), "float32"), draw(rng, (2, 4, 3), "float32")
        yield Sample([None, state, x], {"body": running_sum(), "num_scan_inputs": 1}, outputs=2)
        yield Sample([np.array([4, 2], np.int64), state, x], {"body": running_sum(), "num_scan_inputs": 1}, outputs=2)


def _without(type: Type | None, axes: int) -> Type | None:
    if not isinstance(type, TensorType):
        return type
    return TensorType(type.dtype, None if type.shape is None else type.shape[axes:])


def _with_axis(type: Type | None, axis: int, size: Dim) -> Type | None:
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    place = axis_of(axis, len(type.shape) + 1)
    return TensorType(type.dtype, (*type.shape[:place], size, *type.shape[place:]))
