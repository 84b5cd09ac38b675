"""What a check is: a function that looks at a server from outside and raises `Differs`, or `NotHere` for what it has not.

@check("grpc", "core", "an unknown model is NOT_FOUND")
def unknown_model(target): ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.verbs.conformance.target import Target

CHECKS: list[Check] = []


class Differs(Exception):
    """What the server does instead."""


class NotHere(Exception):
    """Why the check says nothing about this server."""


@dataclass(frozen=True)
class Check:
    """`protocol` is "grpc" or "rest"; `part` "core" (every server of the protocol) or "extension" (Triton's)."""

    protocol: str
    part: str
    name: str
    run: Callable[[Target], None]


def check(protocol: str, part: str, name: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Register a check under the sentence that must hold."""

    def add(run: Callable[[Target], None]) -> Callable[[Target], None]:
        CHECKS.append(Check(protocol, part, name, run))
        return run

    return add


def expect(holds: Any, instead: str) -> None:
    if not holds:
        raise Differs(instead)


__all__ = ["CHECKS", "Check", "Differs", "NotHere", "check", "expect"]
