"""What onnxruntime's attention operators share: heads, masks in their several forms, and the step into ai.onnx Attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import Attr
from headrace.runtime.ops.common import code_of, scalar
from headrace.runtime.ops.spelled import Unspelled, count_up, ints, size
from headrace.runtime.shapes import equal

COMMON = {"num_heads": Attr("int", 0), "mask_filter_value": Attr("float", -10000.0), "scale": Attr("float"), "unidirectional": Attr("int", 0, (0, 1))}  # fmt: skip
INT64 = 7


def split(F: Any, x: Any, heads: int) -> Any:
    """[batch, length, heads * size] -> [batch, heads, length, size]."""
    if heads < 1:
        raise GraphError(f"num_heads is {heads}; allowed: 1 or more")
    return F.Transpose(F.Reshape(x, ints(F, 0, 0, heads, -1)), perm=(0, 2, 1, 3))


def join(F: Any, x: Any) -> Any:
    """[batch, heads, length, size] -> [batch, length, heads * size]."""
    return F.Reshape(F.Transpose(x, perm=(0, 2, 1, 3)), ints(F, 0, 0, -1))


def parts(F: Any, x: Any, axis: int, *sizes: Any) -> list[Any]:
    """x cut along an axis into pieces of these sizes (int64 tensors of one element)."""
    return list(F.Split(x, F.Concat(*sizes, axis=0), axis=axis, outputs=len(sizes)))


def attend(F: Any, q: Any, k: Any, v: Any, bias: Any, past: Any, attributes: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Attention over [batch, heads, length, size]: the result joined [batch, length, ...], and the keys and values with
    those of the past in front."""
    y, keys, values = F.Attention(
        q, k, v, bias, *(past or (None, None)), outputs=3, scale=attributes["scale"], is_causal=attributes["unidirectional"]
    )  # fmt: skip
    return join(F, y), keys, values


def key_mask(F: Any, mask: Any, keys: Any, like: Any, low: float) -> Any:
    """The additive mask [batch, 1, 1 or queries, keys]: `low` where a key is hidden. `mask` is int32: [batch, keys] or [batch,
    queries, keys] with 0 for hidden, [batch] lengths, or [2 * batch] ends, then starts. `keys`: how many there are; `like` has
    the batch in front, and the element type."""
    if mask is None:
        return None
    rank = F.rank(mask)
    if rank == 1:
        shown = _by_lengths(F, mask, keys, like)
    elif rank in (2, 3):
        shown = F.Unsqueeze(F.Cast(mask, to=9), ints(F, *((1, 2) if rank == 2 else (1,))))
    else:
        raise GraphError(f"the mask has rank {rank}; allowed: 1, 2 or 3")
    return F.Where(shown, scalar(F, 0.0, like), scalar(F, low, like))


def _by_lengths(F: Any, mask: Any, keys: Any, like: Any) -> Any:
    """[batch, 1, 1, keys] from the ends of the rows, and their starts behind these where the mask is twice as long."""
    batch, count = F.type(like).shape[0], F.type(mask).shape[0]
    single, double = equal(count, batch), equal(count, 2 * batch)
    if single is False and double is False:
        raise GraphError(f"the mask has {count} numbers for a batch of {batch}; allowed: one or two for each")
    if not single and not double:
        raise Unspelled("whether the mask holds one number or two for each row is not known")
    places, bounds = count_up(F, keys), F.Cast(mask, to=INT64)
    if single:
        return F.Less(places, F.Unsqueeze(bounds, ints(F, 1, 2, 3)))
    ends, starts = (F.Unsqueeze(item, ints(F, 1, 2, 3)) for item in F.Split(bounds, axis=0, num_outputs=2, outputs=2))
    return F.And(F.Less(places, ends), F.GreaterOrEqual(places, starts))


def length(F: Any, k: Any, past: Any) -> Any:
    """How many keys [.., .., length, ..] there are with the past."""
    own = size(F, k, 2)
    return own if past is None else F.Add(own, size(F, past[0], 2))


def to_kind(F: Any, x: Any, like: Any) -> Any:
    return x if x is None or F.dtype(x) == F.dtype(like) else F.Cast(x, to=code_of(F.dtype(like)))


def together(F: Any, a: Any, b: Any) -> Any:
    """The sum of two additive masks, either of which may be absent."""
    return a if b is None else b if a is None else F.Add(a, b)


def stacked(F: Any, keys: Any, values: Any) -> Any:
    """Keys and values as one tensor [2, ...]."""
    return F.Concat(*(F.Unsqueeze(item, ints(F, 0)) for item in (keys, values)), axis=0)


def unstacked(F: Any, past: Any) -> tuple[Any, Any] | None:
    """Keys and values of such a tensor."""
    if past is None:
        return None
    return tuple(F.Gather(past, F.constant(np.array(i, np.int64)), axis=0) for i in (0, 1))
