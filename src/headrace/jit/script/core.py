"""What the parts of the compiler share: the tracer, the memory, the open functions, and how control flow ends."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from headrace.jit.script.errors import refuse
from headrace.jit.script.source import Source
from headrace.jit.script.store import Store
from headrace.jit.script.values import MISSING


@dataclass(frozen=True)
class Flow:
    """How a list of statements ended. `broke`: the loop around it (or the function) is left; `returned`: with a `return`,
    of `value`. The flags are bools, or Numbers where the graph decides."""

    broke: Any = False
    returned: Any = False
    value: Any = MISSING


FALL = Flow()  # to the next statement, or the next trip


class Core:
    """Base of the compiler's parts."""

    def __init__(self, tracer: Any) -> None:
        self.tracer = tracer
        tables = [inner._buffers for module in tracer.state.modules for inner in module.modules() if inner._buffers]
        self.store = Store(tables, lambda data: tracer.state.name_of(data) is not None)
        self.sources: list[Source] = []
        self.notes: list[str] = []  # what the report says about the program

    @property
    def source(self) -> Source:
        """The function that is compiled now."""
        return self.sources[-1]

    @property
    def variables(self) -> dict[str, Any]:
        return self.store.frames[-1]

    def refuse(self, node: ast.AST, construct: str, rewrite: str) -> NoReturn:
        refuse(self.source, node, construct, rewrite)

    # What the other parts answer.

    def eval(self, node: ast.expr) -> Any:
        raise NotImplementedError

    def call(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> Any:
        raise NotImplementedError

    def run(self, statements: Sequence[ast.stmt]) -> Flow:
        raise NotImplementedError

    def assign(self, target: ast.expr, value: Any) -> None:
        raise NotImplementedError

    def branch(
        self, condition: Any, then: Callable[[], Flow], other: Callable[[], Flow], node: ast.stmt | ast.expr
    ) -> Flow:
        raise NotImplementedError

    def choose(
        self, condition: Any, then: Callable[[], Any], other: Callable[[], Any], node: ast.expr | ast.stmt
    ) -> Any:
        raise NotImplementedError

    def both(self, left: Any, right: Callable[[], Any], node: ast.expr | ast.stmt, *, every: bool = True) -> Any:
        raise NotImplementedError

    def narrowed(self, test: ast.expr) -> tuple[str, bool] | None:
        raise NotImplementedError

    def for_loop(self, statement: ast.For) -> Flow:
        raise NotImplementedError

    def while_loop(self, statement: ast.While) -> Flow:
        raise NotImplementedError
