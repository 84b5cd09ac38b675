"""headrace: train, capture, quantize, pack and serve models. `import headrace as torch` runs the usual training code.

Nothing is imported before it is used (PEP 562), so that a server or the command line never loads the training library.
A name is looked for, in this order, as a submodule (`headrace.nn`), as a verb of the command line (`headrace.pack`), and
in the training library (`headrace.tensor`).
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

__version__ = "0.1.0"

# Modules of the training library whose `__all__` is public at the top level.
_CORE = (
    "headrace.scalar_types",
    "headrace.devices",
    "headrace.layouts",
    "headrace.tensors",
    "headrace.functional",
    "headrace.autograd.mode",
    "headrace.generators",
    "headrace.serialization",
    "headrace.threads",
)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    found = _find(name)
    globals()[name] = found
    return found


def _find(name: str) -> Any:
    if importlib.util.find_spec(f"headrace.{name}") is not None:
        return importlib.import_module(f"headrace.{name}")
    if importlib.util.find_spec(f"headrace.verbs.{name}") is not None:
        verb = getattr(importlib.import_module(f"headrace.verbs.{name}"), name, None)
        if verb is not None:
            return verb
    for source in _CORE:
        module = importlib.import_module(source)
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module 'headrace' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {name for source in _CORE for name in importlib.import_module(source).__all__}
    return sorted(names | set(globals()))
