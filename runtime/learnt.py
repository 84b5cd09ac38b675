"""What a walk over a whole graph finds out, kept with its program so that a later start neither reads nor walks the graph for it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from headrace.runtime.graph import Graph
from headrace.runtime.rows import RowProof, prove_rows, steps


@dataclass(frozen=True)
class Learnt:
    """Of a graph as it was before passes: what is proven of its rows, as it is and with states fed a row each; `apart`, whether a
    batch may as well run in parts, some rows after others: they are independent, and nothing goes through its weights so often that
    rows had better share them; and the bytes of its constants."""

    rows: RowProof
    fed: RowProof
    apart: bool
    weight_bytes: int

    @staticmethod
    def of(graph: Graph) -> Learnt:
        fed = prove_rows(graph, fed=True)
        rows = prove_rows(graph) if graph.states else fed
        return Learnt(rows, fed, fed.independent and not steps(graph), graph.weight_bytes)

    def encode(self) -> dict[str, Any]:
        return {**asdict(self), "sources": sources()}

    @staticmethod
    def decode(said: dict[str, Any] | None) -> Learnt | None:
        """What `encode` wrote; None where that is something else, or what other sources than these found out."""
        try:
            if said is None or said["sources"] != sources():
                return None
            rows, fed = (RowProof(said[key]["independent"] is True, said[key]["reason"]) for key in ("rows", "fed"))
            return Learnt(rows, fed, said["apart"] is True, int(said["weight_bytes"]))
        except (TypeError, KeyError, ValueError):
            return None


@cache
def sources() -> str:
    """Of all that a walk goes by: the operators with their rules, and what infers types."""
    folder = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *folder.glob("ops/**/*.py")]):
        with open(path, "rb", buffering=0) as file:
            total.update(f"{path.relative_to(folder)}\n".encode() + file.read())
    return total.hexdigest()
