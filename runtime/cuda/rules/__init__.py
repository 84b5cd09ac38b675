"""From operators to kernels: one rule an operator, in the modules of this folder, found by folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from headrace.runtime.cuda.rules.base import Rule


@cache
def rules() -> dict[str, Rule]:
    """Operator kind -> rule, over every module here."""
    table: dict[str, Rule] = {}
    for info in pkgutil.iter_modules(__path__):
        table |= getattr(importlib.import_module(f"{__name__}.{info.name}"), "RULES", {})
    return table
