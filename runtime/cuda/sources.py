"""The kernel texts in csrc/, and the folder where compiled forms of them are kept."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

CSRC = Path(__file__).resolve().parent / "csrc"
LIMIT_SHARED = 48 << 10


def texts() -> dict[str, str]:
    """File name -> text, of every file in csrc."""
    return {
        path.name: path.read_text() for path in sorted(CSRC.iterdir()) if path.suffix in (".cu", ".cuh", ".h", ".cpp")
    }


def closure(name: str, files: dict[str, str]) -> list[str]:
    """The names of a file and of all that it includes, once each."""
    found: list[str] = []
    pending = [name]
    while pending:
        name = pending.pop()
        if name in found or name not in files:
            continue
        found.append(name)
        pending += re.findall(r'#include "([^"]+)"', files[name])
    return sorted(found)


def digest(name: str, files: dict[str, str], *more: str) -> str:
    """sha256 of a file with everything that it includes, and of `more` (compiler, options, architecture)."""
    state = hashlib.sha256()
    for part in (*closure(name, files), *more):
        state.update(part.encode() + b"\0" + files.get(part, "").encode() + b"\0")
    return state.hexdigest()


@cache
def codes(enum: str, file: str = "functions.cuh") -> dict[str, int]:
    """Enumerator -> number of an enum in csrc, without the underscore that avoids a name of C."""
    found = re.search(rf"enum {enum} \{{([^}}]*)\}}", (CSRC / file).read_text())
    if found is None:
        raise LookupError(f"no enum {enum} in {file}")
    names = [name.strip().rstrip("_") for name in found.group(1).split(",") if name.strip()]
    return {name: number for number, name in enumerate(names)}
