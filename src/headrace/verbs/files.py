"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write through a temporary file in the same folder, sync, rename: readers see the old file or the new one."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent or Path())
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Plain arrays as .npz (strings as fixed-width text)."""
    plain = {name: array.astype(str) if array.dtype == object else array for name, array in arrays.items()}
    write_whole(path, lambda file: np.savez(file, **plain))  # type: ignore[arg-type]
