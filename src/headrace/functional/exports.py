"""Which names of a module are public."""

from __future__ import annotations

from typing import Any


def exported(module: dict[str, Any]) -> list[str]:
    """Functions and classes that the module itself defines and whose names have no underscore in front."""
    own = module["__name__"]
    return [
        n for n, v in module.items() if not n.startswith("_") and callable(v) and getattr(v, "__module__", None) == own
    ]
