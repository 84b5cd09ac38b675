"""If: one of two blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Node, Value
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.control._blocks import merged
from headrace.runtime.types import Type


class If(Operator):
    """Runs then_branch or else_branch, which read outer values and give the same number of outputs."""

    versions = (1, 11, 13, 16, 19, 21, 23, 24, 25)
    inputs = (In("cond", frozenset({"bool"})),)
    outputs = (Out("outputs", dtypes.ANY, variadic=True),)
    attributes = {"then_branch": Attr("block", REQUIRED), "else_branch": Attr("block", REQUIRED)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        branches = [context.attributes[key] for key in ("then_branch", "else_branch")]
        if context.infer_block is None:
            return [None] * context.n_outputs
        yes, no = (context.infer_block(block, []) for block in branches)
        if len(yes) != len(no):
            raise GraphError(f"the branches of If give {len(yes)} and {len(no)} outputs; they must give equally many")
        condition = context.constant(0)
        if condition is not None and condition.size == 1:
            return list(yes if bool(condition.ravel()[0]) else no)
        return [merged(a, b, context.fresh, f"output {i} of If") for i, (a, b) in enumerate(zip(yes, no))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        chosen = "then_branch" if bool(np.ravel(inputs[0])[0]) else "else_branch"
        return list(run_block(attributes[chosen], []))

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [-1] * context.n_outputs  # what the blocks read from outside is not seen here

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        def block(size: int) -> Block:
            y = Value(f"y{size}")
            return Block([], [Node("Constant", [], [y], {"value": draw(rng, (size, 2), "float32")})], [y])

        for condition in (True, False):
            yield Sample([np.array(condition)], {"then_branch": block(2), "else_branch": block(3)})
