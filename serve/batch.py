"""Merging and splitting batches along dimension 0. Pure functions: no queue, no clock, no model.

Only models whose rows were proven independent are merged, so row i of the merged output is row i of the request
that brought it, for every composition.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.serve.datatypes import Array

Feeds = Mapping[str, Array]


def signature(feeds: Feeds) -> tuple[Any, ...]:
    """What two requests must share to be merged: names, in one order, and shapes outside dimension 0."""
    return tuple(sorted((name, array.shape[1:]) for name, array in feeds.items()))


def merge(parts: Sequence[Feeds]) -> dict[str, Array]:
    """One feed with the rows of `parts` in order. All parts have one `signature`; a single part is not copied."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(outputs: Feeds, rows: Sequence[int]) -> list[dict[str, Array]]:
    """The rows of `outputs` handed back: part k gets the next `rows[k]` rows of every output, as views.

    ValueError when an output does not have exactly `sum(rows)` rows: a wrong hand-out must be impossible.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise ValueError(f"output {name!r} has shape {list(array.shape)}, expected {total} rows")
    parts, start = [], 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts
