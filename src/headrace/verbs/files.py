"""Files that verbs write."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrace.runtime import atomic


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Plain arrays as .npz (strings as fixed-width text), whole or not at all."""
    plain = {name: array.astype(str) if array.dtype == object else array for name, array in arrays.items()}
    packed = io.BytesIO()
    np.savez(packed, **plain)  # type: ignore[arg-type]
    atomic.replace(path, [packed.getbuffer()])
