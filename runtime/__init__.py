"""Graph, operators, passes, plan, executor, kernels: `headrace.runtime.load(path).run(feeds)`.

Names are imported when first asked for, so that `import headrace.runtime` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.runtime.errors import GraphError, HeadraceError, InputError, LoadError, RunError, UnsupportedOperator
    from headrace.runtime.machine import pin_threads
    from headrace.runtime.model import Model, load
    from headrace.runtime.session import Session

_HOME = {
    "GraphError": "errors",
    "HeadraceError": "errors",
    "InputError": "errors",
    "LoadError": "errors",
    "Model": "model",
    "RunError": "errors",
    "Session": "session",
    "UnsupportedOperator": "errors",
    "load": "model",
    "pin_threads": "machine",
}

__all__ = [
    "GraphError",
    "HeadraceError",
    "InputError",
    "LoadError",
    "Model",
    "RunError",
    "Session",
    "UnsupportedOperator",
    "load",
    "pin_threads",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
