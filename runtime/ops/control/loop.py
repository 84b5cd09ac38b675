"""Loop: a block run while a condition holds, at most M times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.graph import Block, Node, Value
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.control._blocks import MAX_TRIPS, settled, stacked
from headrace.runtime.types import TensorType, Type


class Loop(Operator):
    """body(iteration, condition, carried...) -> (condition, carried..., scanned...). Outputs: the last carried values,
    then each scanned value of all trips, stacked on a new axis 0."""

    versions = (1, 11, 13, 16, 19, 21, 23, 24, 25)
    inputs = (
        In("M", frozenset({"int64"}), optional=True),
        In("cond", frozenset({"bool"}), optional=True),
        In("v_initial", dtypes.ANY, optional=True, variadic=True),
    )
    outputs = (Out("v_final_and_scan_outputs", dtypes.ANY, variadic=True),)
    attributes = {"body": Attr("block", REQUIRED)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        body, carried = context.attributes["body"], context.inputs[2:]
        if len(body.inputs) != len(carried) + 2:
            raise GraphError(f"the body of Loop takes {len(body.inputs)} inputs; allowed: {len(carried) + 2}")
        if len(body.outputs) < len(carried) + 1:
            raise GraphError(
                f"the body of Loop gives {len(body.outputs)} outputs; allowed: at least {len(carried) + 1}"
            )
        if context.infer_block is None:
            return [None] * context.n_outputs
        head = [TensorType("int64", ()), TensorType("bool", ())]
        scanned: list[Type | None] = []

        def look(types: Sequence[Type | None]) -> list[Type | None]:
            found = context.infer_block(body, [*head, *types])  # type: ignore[misc]
            scanned[:] = found[1 + len(carried) :]
            return found[1 : 1 + len(carried)]

        _, final = settled(look, carried, context.fresh)
        trips = context.fresh("trips")
        return [*final, *(_stacked_type(type, trips) for type in scanned)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        limit, condition, *carried = (*inputs, None, None)[: max(2, len(inputs))]
        body = attributes["body"]
        count = None if limit is None or np.size(limit) == 0 else int(np.ravel(limit)[0])
        going = True if condition is None or np.size(condition) == 0 else bool(np.ravel(condition)[0])
        scans: list[list[Any]] = [[] for _ in body.outputs[1 + len(carried) :]]
        for trip in itertools.count():
            if not going or (count is not None and trip >= count):
                break
            if trip == MAX_TRIPS:
                raise RunError(f"the loop did not end after {trip} trips; allowed: {MAX_TRIPS}")
            going_out, *results = run_block(body, [np.array(trip, np.int64), np.array(going), *carried])
            going = bool(np.ravel(going_out)[0])
            carried, scanned = results[: len(carried)], results[len(carried) :]
            for parts, part in zip(scans, scanned):
                parts.append(part)
        types = [value.type for value in body.outputs[1 + len(carried) :]]
        return [*carried, *(stacked(parts, 0, type) for parts, type in zip(scans, types))]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [-1] * context.n_outputs  # what the body reads from outside is not seen here

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        def body(operator: str, **attributes: Any) -> Block:
            """The carried value next to itself, and what it was as the scanned value."""
            trip, going, x = (
                Value("trip", TensorType("int64", ())),
                Value("going", TensorType("bool", ())),
                Value("x", TensorType("float32")),
            )
            y, kept = Value("y"), Value("kept")
            return Block(
                [trip, going, x],
                [Node(operator, [x, x], [y], attributes), Node("ReduceSum", [x], [kept], {"keepdims": 0})],
                [going, y, kept],
            )

        x = draw(rng, (2, 3), "float32")
        for count in (0, 3):
            yield Sample([np.array(count, np.int64), None, x], {"body": body("Add")}, outputs=2)
            yield Sample([np.array(count, np.int64), np.array(True), x], {"body": body("Concat", axis=0)}, outputs=2)
        yield Sample([np.array(5, np.int64), np.array(False), x], {"body": body("Mul")}, outputs=2)


def _stacked_type(type: Type | None, trips: Any) -> Type | None:
    if not isinstance(type, TensorType):
        return None
    return TensorType(type.dtype, None if type.shape is None else (trips, *type.shape))
