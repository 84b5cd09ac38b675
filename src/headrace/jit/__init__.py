"""Capture: a Module or function becomes a graph that runs without Python.

exported = headrace.jit.trace(model, (x,))
print(exported.report, exported.graph, exported.code)
headrace.jit.save(exported, "net.hr")
net = headrace.jit.load("net.hr")
"""

from __future__ import annotations

import headrace.functional  # attaches the tensor methods
from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops as operators
from headrace.jit.errors import TraceError
from headrace.jit.exported import Exported
from headrace.jit.files import Loaded, load, save
from headrace.jit.sizes import SymInt
from headrace.jit.trace import trace


def is_tracing() -> bool:
    """Whether a trace is running."""
    return MODE.tracer is not None


__all__ = ["Exported", "Loaded", "SymInt", "TraceError", "is_tracing", "load", "operators", "save", "trace"]
