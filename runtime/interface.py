"""What a model says about itself: its inputs and outputs, golden data, and what a reader answers for a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from headrace.runtime.graph import Graph, Program, Value
from headrace.runtime.shapes import Shape
from headrace.runtime.types import TensorType, Type


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. `shape` holds integers and symbolic dimensions; None: even the rank is free. `type` is the
    whole type where it is no tensor (sequence, optional, map); `dtype` is then the type's text."""

    name: str
    dtype: str
    shape: Shape | None
    type: Type | None = None

    @staticmethod
    def of(value: Value) -> TensorSpec:
        if isinstance(value.type, TensorType):
            return TensorSpec(value.name, value.type.dtype, value.type.shape, value.type)
        return TensorSpec(value.name, str(value.type), None, value.type)

    def __str__(self) -> str:
        return f"{self.name}: {self.type if self.type is not None else '?'}"


@dataclass(frozen=True)
class Golden:
    """Recorded inputs and the outputs that they must give, |a - b| <= atol + rtol * max |b|
    (runtime/golden.py)."""

    inputs: list[dict[str, np.ndarray]]
    outputs: list[dict[str, np.ndarray]]
    rtol: float = 1e-4
    atol: float = 1e-5


@dataclass(frozen=True)
class Optimized:
    """What the portable passes made of one entry point, and the interface that it had before them."""

    graph: Graph
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Contents:
    """What is in a file: the program, free properties (name, version, created, ...), golden data if there is any. `optimized`:
    entry points that need no portable passes any more; where there are some, the program itself is read when somebody asks for it."""

    source: Program | Callable[[], Program]
    properties: dict[str, str] = field(default_factory=dict)
    golden: Golden | None = None
    optimized: dict[str, Optimized] = field(default_factory=dict)

    @cached_property
    def program(self) -> Program:
        return self.source() if callable(self.source) else self.source


@dataclass(frozen=True)
class Opened:
    """What a reader answers: the contents, which may be read when somebody asks for them, and a digest of the whole file and its
    bytes where it has some that only it can have. `proof` answers when every byte is proven to be what was written, or raises
    LoadError: nothing may be kept, or answered to a user, before. `leave` has pages of the file that were
    read on the way no longer count as this process's memory; what is read again of them comes back."""

    source: Contents | Callable[[], Contents]
    digest: str = ""
    data: memoryview | None = None
    proof: Callable[[], None] = lambda: None
    leave: Callable[[], None] = lambda: None

    @cached_property
    def contents(self) -> Contents:
        return self.source() if callable(self.source) else self.source

    @property
    def program(self) -> Program:
        return self.contents.program

    @property
    def properties(self) -> dict[str, str]:
        return self.contents.properties

    @property
    def golden(self) -> Golden | None:
        return self.contents.golden

    @property
    def optimized(self) -> dict[str, Optimized]:
        return self.contents.optimized

    def runs(self, entry: str) -> Graph:
        """What is lowered for an entry point: the file's optimized graph where it has one, so that nobody reads the other as well."""
        ready = self.optimized.get(entry)
        return self.program.entries[entry] if ready is None else ready.graph

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entry points; `main` is one of them."""
        return tuple(self.optimized or self.program.entries)

    @property
    def main(self) -> str:
        return "main" if "main" in self.entries else self.entries[0]
