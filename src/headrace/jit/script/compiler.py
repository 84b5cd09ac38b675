"""The compiler: one object that runs source on traced tensors and leaves nodes, If and Loop behind."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from headrace.jit.errors import is_library
from headrace.jit.script.branches import Branches
from headrace.jit.script.calls import Calls, own
from headrace.jit.script.errors import ScriptError
from headrace.jit.script.expressions import Expressions
from headrace.jit.script.loops import Loops
from headrace.jit.script.source import source_of
from headrace.jit.script.statements import Statements
from headrace.jit.script.subset import check
from headrace.nn.module import Module

_CALL = ast.parse("None", mode="eval").body  # what calls an entry point


class Compiler(Statements, Expressions, Branches, Loops, Calls):
    """Compiles for one tracer. `tracer.compiler` is set to it, so that Modules called by the library are compiled too."""

    def __init__(self, tracer: Any) -> None:
        super().__init__(tracer)
        tracer.compiler = self

    def entry(self, function: Any) -> Callable[..., Any]:
        """A Module or function as compiled code."""

        def run(*args: Any, **kwargs: Any) -> Any:
            return self.call(function, list(map(own, args)), {k: own(v) for k, v in kwargs.items()}, _CALL)

        return run

    def forward_of(self, module: Module) -> Callable[..., Any]:
        """What runs when a Module is called: its forward from source, or as it is where that is the library's."""
        if is_library(type(module).forward):
            return module.forward
        compiled = self.compiled(module.forward)
        if compiled is not None:
            return compiled
        return lambda *args, **kwargs: self._library(module.forward, args, kwargs, _CALL)


def check_source(function: Any) -> None:
    """ScriptError where a Module's forward, or a function, is not written in the subset or has no source."""
    target = function.forward if isinstance(function, Module) else function
    target = getattr(target, "__headrace_script__", target)
    if is_library(target):
        return
    plain = target.__func__ if isinstance(target, MethodType) else target
    plain = getattr(plain, "__wrapped__", plain) if is_library(plain) else plain
    plain = getattr(plain, "func", plain)
    source = source_of(plain) if isinstance(plain, FunctionType) else None
    if source is None:
        raise ScriptError(
            f"{getattr(plain, '__qualname__', plain)!s} has no source that can be read as one `def` (a lambda, a built-in function, or"
            " code made at run time). Rewrite: define it with `def` in a file."
        )
    check(source)
