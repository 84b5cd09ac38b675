"""The classification extension: the n largest elements as text `value:index`, largest first."""

import numpy as np

from headrace.serve.datatypes import Array
from headrace.serve.errors import bad_argument


def top(scores: Array, count: int, batched: bool) -> Array:
    """BYTES elements `[batch, k]`, or `[k]` when not batched, k = min(count, classes).

    The sort is stable: the lower index comes first on ties, NaN last. Raises bad_argument for a BYTES output.
    """
    if scores.dtype == object:
        raise bad_argument("parameter 'classification' needs a numeric output")
    rows = scores.reshape(scores.shape[0], -1) if batched else scores.reshape(1, -1)
    k = min(count, rows.shape[1])
    out = np.empty((rows.shape[0], k), dtype=object)
    for i, row in enumerate(rows):
        for j, index in enumerate(_descending(row)[:k]):
            value = row[index]
            text = str(int(value)) if row.dtype.kind in "iub" else f"{float(value):f}"
            out[i, j] = f"{text}:{index}".encode("ascii")
    return out if batched else out[0]


def _descending(row: Array) -> Array:
    if row.dtype.kind in "iub":  # a stable descending sort without negation, which would wrap
        return (row.size - 1 - np.argsort(row[::-1], kind="stable"))[::-1]
    wide = row.astype(np.float64)
    return np.argsort(np.where(np.isnan(wide), np.inf, -wide), kind="stable")
