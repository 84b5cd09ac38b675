"""torch's functions on tensors: each calls operators of the runtime, so that eager code, the tape and the tracer share them.

Every module registers what it offers with `function`, `method`, `both` or `inplace` (see base.py); here the methods are
attached to Tensor, and the functions become public as `headrace.<name>`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import headrace.tensors
from headrace.functional.base import FUNCTIONS, METHODS

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
for _name, _method in METHODS.items():
    setattr(headrace.tensors.Tensor, _name, _method)


def __getattr__(name: str) -> Any:
    try:
        return FUNCTIONS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


__all__ = list(FUNCTIONS)
