"""Graph passes: each `passes/<name>.py` has `run(graph) -> Graph`, `PORTABLE`, and its place in the order, `ORDER`.

Portable passes give graphs that any backend can run and that may be saved. Machine passes (layout, kernel choice) are in
`passes/machine` and their results are never saved.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING

from headrace.runtime.graph import Graph

if TYPE_CHECKING:
    from headrace.runtime.passes.report import Watch

ROUNDS = 4  # passes open the way for one another; two rounds settle every known graph
LAST = 100  # passes of this ORDER and beyond run once, when the others have settled


def portable() -> tuple[tuple[str, Callable[[Graph], Graph]], ...]:
    """(name, run) of every portable pass, in order. Found by folder."""
    return tuple((name, run) for _, name, run in _found())


@cache
def _found() -> tuple[tuple[int, str, Callable[[Graph], Graph]], ...]:
    found = []
    for info in pkgutil.iter_modules(__path__):
        if info.ispkg:
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        if getattr(module, "PORTABLE", False):
            found.append((module.ORDER, info.name, module.run))
    return tuple(sorted(found))


@cache
def fingerprint(machine: bool = False) -> str:
    """Of the sources of the portable passes, with `machine` of all passes: another one may make another graph of the same."""
    folder = os.path.join(__path__[0], "machine") if machine else __path__[0]
    total = hashlib.sha256(fingerprint().encode() if machine else b"")
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".py")):
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            total.update(f"{name}\n".encode() + file.read())
    return total.hexdigest()


def names() -> tuple[str, ...]:
    """Every pass that can be left out: the portable ones, then those of this machine."""
    from headrace.runtime.passes.machine import PASSES

    return (*(name for name, _ in portable()), *PASSES)


def check_names(skip: Collection[str]) -> None:
    """Raises ValueError where one is no pass, naming those that are."""
    unknown = set(skip) - set(names())
    if unknown:
        raise ValueError(f"no pass is called {', '.join(sorted(unknown))}; allowed: {', '.join(names())}")


def optimize(graph: Graph, *, skip: Collection[str] = (), watch: Watch | None = None, checked: bool = False) -> Graph:
    """The graph after every portable pass but those named in `skip`; round after round until none changes it (at most
    ROUNDS), then those that come last. The given graph is not touched; constants that stay are shared. Every value of the result has a type.
    `watch` is told what each pass did. `checked`: the graph has just passed `check`, which infers the same types.

    Raises GraphError for a graph that breaks a rule, ValueError for an unknown name in `skip`.
    """
    from headrace.runtime.infer import infer_graph
    from headrace.runtime.passes.edit import clone, drop_dead

    def ran(name: str, run: Callable[[Graph], Graph], graph: Graph) -> Graph:
        found = run(graph)
        if watch is not None:
            watch(name, True, graph, found)
        return found

    check_names(skip)
    last = {name for order, name, _ in _found() if order >= LAST}
    passes = [(name, run) for name, run in portable() if name not in skip]
    graph = clone(drop_dead(graph))
    if not checked:
        infer_graph(graph)
    settled: dict[str, Graph] = {}  # the graph that a pass last left as it was: it would do so again
    for _ in range(ROUNDS):
        before = graph
        for name, run in passes:
            if name in last or settled.get(name) is graph:
                continue
            earlier, graph = graph, ran(name, run, graph)
            if graph is earlier:
                settled[name] = graph
        if graph is before:
            break
    for name, run in passes:
        if name in last:
            graph = ran(name, run, graph)
    infer_graph(graph)
    return graph
