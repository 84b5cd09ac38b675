"""The broadcasting of operator sets 1 and 6: attributes `axis` and `broadcast` instead of NumPy's rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.common import replacement
from headrace.runtime.types import TensorType


class LegacyBroadcast:
    """A mixin: before version 7, `broadcast=1` lays the dimensions of B onto those of A beginning at `axis`."""

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        if version >= 7 or not ({"axis", "broadcast", "consumed_inputs"} & set(node.attributes)):
            return None
        a, b = node.inputs
        axis = node.attributes.get("axis")
        if node.attributes.get("broadcast", 0) and axis is not None:
            b = _aligned(builder, a, b, int(axis))
        return replacement(builder, node, [a, b])


def _aligned(builder: Any, a: Any, b: Any, axis: int) -> Any:
    """B with ones behind it, so that its dimensions meet those of A from `axis` on."""
    if (
        not isinstance(a.type, TensorType)
        or not isinstance(b.type, TensorType)
        or a.type.rank is None
        or b.type.rank is None
    ):
        raise GraphError("the attributes axis and broadcast need inputs of known rank")
    axis += a.type.rank if axis < 0 else 0
    behind = a.type.rank - axis - b.type.rank
    if behind < 0:
        raise GraphError(f"axis {axis} and rank {b.type.rank} of B do not fit into rank {a.type.rank} of A")
    if behind == 0:
        return b
    axes = builder.constant(np.arange(b.type.rank, b.type.rank + behind, dtype=np.int64), "axes")
    return builder.node("Unsqueeze", [b, axes])[0]
