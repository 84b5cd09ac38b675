"""Batches of few sizes: a model whose rows are proven independent runs a batch padded to the next size, so that a server
whose batches have every size needs a handful of plans. The padding repeats the last row, and its answers are cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LARGE = 64  # powers of two up to here, then multiples of it


def bucket(rows: int) -> int:
    """The number of rows that a batch of `rows` is run with."""
    if rows <= LARGE:
        return 1 << (rows - 1).bit_length() if rows else 0
    return -(-rows // LARGE) * LARGE


def padded(feeds: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The feeds (arrays with one common number of rows) with the rows of their bucket, and how many there were."""
    rows = next(iter(feeds.values())).shape[0]
    more = bucket(rows) - rows
    if not more:
        return dict(feeds), rows
    return {name: np.concatenate([array, np.repeat(array[-1:], more, axis=0)]) for name, array in feeds.items()}, rows


def cut(outputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The first `rows` rows of every output."""
    return {name: array if array.shape[0] == rows else array[:rows] for name, array in outputs.items()}
