"""headrace.QLookup: any function of one 8-bit number, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Context, In, Operator, Out, Sample
from headrace.runtime.shapes import equal
from headrace.runtime.types import TensorType, Type

EITHER8 = frozenset({"int8", "uint8"})


class QLookup(Operator):
    """y = table[x], element by element: x of 8 bits, read as an unsigned byte; table [256] of 8 bits."""

    domain = "headrace"
    inputs = (In("x", EITHER8), In("table", EITHER8))
    outputs = (Out("y", EITHER8),)
    types = {}
    accuracy = Accuracy.exact()
    differentiable = False
    in_place = (0,)

    def infer(self, context: Context) -> list[Type | None]:
        table = context.shape(1)
        if table is not None and (len(table) != 1 or equal(table[0], 256) is False):
            raise GraphError(f"the table is {context.type(1)}; allowed: 256 numbers of 8 bits")
        return [TensorType(context.dtype(1), context.shape(0))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, table = inputs
        return [table[x.view(np.uint8)]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((256,), (3, 85), (), (2, 0, 3), (1, 64), (1000,)):
            for x_type, y_type in ((np.uint8, np.uint8), (np.int8, np.uint8), (np.uint8, np.int8)):
                x = np.asarray(rng.integers(0, 256, shape)).astype(np.uint8).view(x_type)
                yield Sample([x, rng.integers(0, 256, 256).astype(np.uint8).view(y_type)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0] if tags[1] is None else MIXED]
