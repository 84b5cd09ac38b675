"""Capture: `trace` a Module to a graph, look at its `.graph` and `.code`, run it, `save` and `load` it."""

from __future__ import annotations

import os
from typing import Any

import headrace.functional  # noqa: F401  attaches the tensor methods
from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops as operators
from headrace.jit.abstract import SymInt, TraceError
from headrace.jit.exported import Exported
from headrace.jit.trace import trace


def is_tracing() -> bool:
    """Whether a tracer is listening."""
    return MODE.tracer is not None


def save(exported: Exported, path: str | os.PathLike[str], **properties: str) -> None:
    """Write a captured program as a `.hr` archive."""
    from headrace.serializer import archive

    archive.save(exported.program, path, properties=properties)


def load(path: str | os.PathLike[str]) -> Exported:
    """Read a `.hr` archive, or an ONNX file. LoadError naming the file."""
    from pathlib import Path

    from headrace.runtime.model import open_source

    return Exported(open_source(Path(path)).program)
