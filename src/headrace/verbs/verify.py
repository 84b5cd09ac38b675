"""verify: a package's digests, and its golden data re-run with the kernels of this machine."""

from __future__ import annotations

from pathlib import Path

from headrace.runtime.golden import VerifyReport
from headrace.runtime.model import load
from headrace.serializer import archive, optimized


def verify(path: str | Path, *, device: str = "cpu", threads: int = 0) -> VerifyReport:
    """Open `path` (which checks every digest), prove that its optimized graph comes from its graph, re-run its golden inputs, and compare within the package's bounds.

    `report.ok` is False where an output is out of bound; `report.max_error` is the largest absolute difference
    (0.0: bit-exact). Raises LoadError where the file itself is damaged.
    """
    if Path(path).suffix == ".hr":
        optimized.prove(archive.open_program(path, optimized=True))
    model = load(path, device=device, threads=threads)
    try:
        return model.verify()
    finally:
        model.close()
