"""Operators, found by folder: every class in `ops/<family>/*.py` that derives from Operator is registered."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from headrace.runtime.ops.base import Operator


@cache
def registry() -> dict[tuple[str, str], Operator]:
    """(domain, name) -> the operator. Walks the folders once."""
    found: dict[tuple[str, str], Operator] = {}
    for family in pkgutil.iter_modules(__path__):
        if not family.ispkg:
            continue
        package = importlib.import_module(f"{__name__}.{family.name}")
        for module in pkgutil.iter_modules(package.__path__):
            members = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            for member in list(members.values()):
                if (
                    isinstance(member, type)
                    and issubclass(member, Operator)
                    and member.__module__ == f"{package.__name__}.{module.name}"
                    and not member.__name__.startswith("_")
                ):
                    key = (member.domain, member.name)
                    if key in found and type(found[key]) is not member:
                        raise RuntimeError(f"operator {key} is defined twice: {type(found[key])} and {member}")
                    found[key] = member()
    return found


@cache
def kinds() -> frozenset[str]:
    """The full names of all operators."""
    return frozenset(operator.kind for operator in registry().values())


def find(name: str, domain: str = "") -> Operator | None:
    """The operator, or None if headrace does not have it."""
    return registry().get((domain, name))
