"""Capture: a Module or function becomes a graph that runs without Python.

exported = headrace.jit.trace(model, (x,))       or script(model, (x,)): control flow that depends on values
print(exported.report, exported.graph, exported.code)
headrace.jit.save(exported, "net.hr")
net = headrace.jit.load("net.hr")
"""

from __future__ import annotations

import headrace.functional  # attaches the tensor methods
from headrace.autograd.mode import MODE
from headrace.jit.errors import TraceError
from headrace.jit.exported import Exported
from headrace.jit.files import Loaded, load, save
from headrace.jit.script.api import Scripted, export, ignore, script
from headrace.jit.script.errors import ScriptError
from headrace.jit.sequences import operators
from headrace.jit.sizes import SymInt
from headrace.jit.trace import trace


def is_tracing() -> bool:
    """Whether a trace is running."""
    return MODE.tracer is not None


__all__ = [
    "Exported",
    "Loaded",
    "ScriptError",
    "Scripted",
    "SymInt",
    "TraceError",
    "export",
    "ignore",
    "is_tracing",
    "load",
    "operators",
    "save",
    "script",
    "trace",
]
