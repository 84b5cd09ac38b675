"""Static plans for devices other than the CPU: shapes fixed by one signature, lifetimes, views, offsets in one arena.

The native executor plans for the CPU while it runs (native/planner.cpp); other devices plan here, ahead, and place bytes
with the same best fit (`_native.assign_offsets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import headrace.runtime._native as _native
from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Graph, Value
from headrace.runtime.infer import Inference
from headrace.runtime.passes.edit import clone, drop_dead
from headrace.runtime.types import TensorType


def specialise(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph for inputs of these shapes, with types as exact as they can be; what shape arithmetic computes from them
    is a constant now. The given graph is not touched; arrays are shared. GraphError where a rule breaks."""
    copy = clone(graph)
    for given in copy.inputs:
        if isinstance(given.type, TensorType) and given.name in shapes:
            given.type = given.type.with_shape(tuple(shapes[given.name]))
    known = _infer(copy)
    folded = {id(node) for node in copy.nodes if all(value is None or value in known for value in node.outputs)}
    for node in copy.nodes:
        for value in node.outputs if id(node) in folded else ():
            if value is not None:
                copy.constants[value.name], copy.values[value.name] = known[value], value
    copy.block.nodes = [node for node in copy.nodes if id(node) not in folded]
    return drop_dead(copy)


def _infer(graph: Graph) -> dict[Value, np.ndarray]:
    """Set the types of every value; answers the small values that are known. A branch that is not taken may be wrong for
    these sizes: what comes out of its node is then of unknown shape."""
    inference = Inference(graph)
    for node in graph.nodes:
        try:
            inference.node(node)
        except GraphError:
            if not node.blocks:
                raise
            for value in node.outputs:
                if value is not None and isinstance(value.type, TensorType):
                    value.type = value.type.with_shape(None)
    return inference.known


def static_shape(value: Value) -> tuple[int, ...] | None:
    """The shape of a tensor whose every dimension is a number, else None."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None:
        return None
    sizes = tuple(dim for dim in kind.shape if isinstance(dim, int))
    return sizes if len(sizes) == len(kind.shape) else None


def byte_size(value: Value) -> int:
    """Bytes of a tensor of static shape."""
    shape = static_shape(value)
    if shape is None or not isinstance(value.type, TensorType):
        raise ValueError(f"{value!r} has no fixed size")
    return int(np.prod(shape, dtype=np.int64)) * dtypes.BY_NAME[value.type.dtype].itemsize


@dataclass
class Step:
    """What one step of a plan does to memory: values read and written, bytes of scratch while it runs, the value whose
    bytes its output is (a view), and the inputs whose memory output 0 may take over."""

    reads: Sequence[Value]
    writes: Sequence[Value]
    scratch: int = 0
    in_place: Sequence[Value] = ()


@dataclass
class MemoryPlan:
    """Where every planned value lies in the arena: offsets in bytes; `scratch` by number of step."""

    bytes: int
    offsets: dict[Value, int] = field(default_factory=dict)
    scratch: dict[int, int] = field(default_factory=dict)


def plan_memory(
    steps: Sequence[Step], views: Mapping[Value, Value], inputs: Sequence[Value], kept: Sequence[Value], alignment: int
) -> MemoryPlan:
    """Offsets in one arena. `inputs` are written before step 0; `kept` are read after the last step; `views` maps a value
    to the one whose bytes it has. Values that are neither inputs nor written by a step are not placed."""
    roots: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        while value in roots or value in views:
            value = roots[value] if value in roots else views[value]
        return value

    first: dict[Value, int] = dict.fromkeys(inputs, -1)
    last: dict[Value, int] = dict(first)
    for number, step in enumerate(steps):
        for value in step.writes:
            first.setdefault(root(value), number)
            last[root(value)] = number
        for value in step.reads:
            if root(value) in first:
                last[root(value)] = number
    for value in kept:
        if root(value) in first:
            last[root(value)] = len(steps)
    for number, step in enumerate(steps):
        target = _taken(step, number, root, first, last) if step.writes else None
        if target is not None:
            made = step.writes[0]
            roots[made] = target
            last[target] = last.pop(made)
            del first[made]
    owners: list[Value | int] = [*first, *(number for number, step in enumerate(steps) if step.scratch)]
    intervals = [
        (owner, owner, steps[owner].scratch)
        if isinstance(owner, int)
        else (first[owner], last[owner], byte_size(owner))
        for owner in owners
    ]
    offsets, total = _native.assign_offsets(intervals, alignment)
    plan = MemoryPlan(total)
    for owner, offset in zip(owners, offsets):
        if isinstance(owner, int):
            plan.scratch[owner] = offset
        else:
            plan.offsets[owner] = offset
    placed = {value for step in steps for value in (*step.reads, *step.writes)} | set(views) | set(kept)
    for value in placed:
        if root(value) in plan.offsets:
            plan.offsets[value] = plan.offsets[root(value)]
    return plan


def _taken(step: Step, number: int, root: Any, first: Mapping[Value, int], last: Mapping[Value, int]) -> Value | None:
    """The memory that output 0 takes over: an input of the same size that dies here and that the step reads once."""
    made = step.writes[0]
    if root(made) is not made:
        return None
    for value in step.in_place:
        target = root(value)
        others = [other for other in step.reads if root(other) is target and other is not value]
        if target in first and last[target] == number and not others and byte_size(target) == byte_size(made):
            found: Value = target
            return found
    return None
