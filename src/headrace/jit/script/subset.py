"""The Python subset: what the compiler takes is decided by one walk over the syntax tree, before anything runs."""

from __future__ import annotations

import ast
import functools

from headrace.jit.script.errors import refuse
from headrace.jit.script.source import Source

# What has no form as a graph -> (how it is called, what to write instead).
REFUSED: dict[type[ast.AST], tuple[str, str]] = {
    ast.Try: ("`try` needs exceptions, which a graph does not have", "test the condition with `if` before the call"),
    ast.With: (
        "`with` runs code at entry and exit, which a graph does not have",
        "leave it out; only torch.no_grad() and its kind are allowed, and mean nothing here",
    ),
    ast.Yield: ("`yield` makes a generator", "append to a list and return it, or torch.stack it"),
    ast.YieldFrom: ("`yield from` makes a generator", "append to a list and return it, or torch.stack it"),
    ast.Global: ("`global` would change a variable outside", "take the value as an argument and return the new one"),
    ast.Nonlocal: (
        "`nonlocal` would change a variable outside",
        "take the value as an argument and return the new one",
    ),
    ast.Delete: ("`del` removes a name while the graph is made", "leave it out, or assign another value"),
    ast.Lambda: ("`lambda` has no name in the graph", "define a function with `def` in the module and call it"),
    ast.FunctionDef: ("a function inside of the compiled function", "define it in the module and call it from here"),
    ast.ClassDef: ("a class inside of the compiled function", "define it in the module and use it here"),
    ast.Import: ("`import` inside of the compiled function", "import at the top of the module"),
    ast.ImportFrom: ("`import` inside of the compiled function", "import at the top of the module"),
    ast.Match: ("`match` is not part of the compiled subset", "if / elif / else"),
    ast.NamedExpr: ("`:=` assigns inside of an expression", "assign in a statement of its own before"),
    ast.Await: ("`await` needs an event loop", "call the function without `async`"),
    ast.AsyncFor: ("`async for` needs an event loop", "a plain `for`"),
    ast.AsyncWith: ("`async with` needs an event loop", "leave it out"),
    ast.AsyncFunctionDef: ("`async def` needs an event loop", "a plain `def`"),
}
if hasattr(ast, "TryStar"):
    REFUSED[ast.TryStar] = REFUSED[ast.Try]

_MODES = frozenset({"no_grad", "enable_grad", "inference_mode", "set_grad_enabled"})


def check(source: Source) -> None:
    """ScriptError for the first construct outside of the subset."""
    for statement in source.tree.body:
        for node in ast.walk(statement):
            _check(source, node)


def _check(source: Source, node: ast.AST) -> None:
    if isinstance(node, ast.With) and is_mode(node):
        return
    if type(node) in REFUSED:
        refuse(source, node, *REFUSED[type(node)])
    if isinstance(node, ast.For | ast.While) and node.orelse:
        word = "for" if isinstance(node, ast.For) else "while"
        refuse(source, node, f"`{word} ... else`", "set a flag before `break`, and test it after the loop")
    if isinstance(node, ast.Assert) and isinstance(node.msg, ast.JoinedStr):
        refuse(source, node, "an f-string as the message of an assert", "a plain text")


def is_mode(node: ast.With) -> bool:
    """Whether a `with` only switches the recording of gradients, which a graph does not do."""

    def named(item: ast.withitem) -> bool:
        call = item.context_expr
        called = call.func if isinstance(call, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return name in _MODES and item.optional_vars is None

    return all(map(named, node.items))


@functools.lru_cache(maxsize=4096)
def exits(node: ast.stmt, *, proceeding: bool = True) -> bool:
    """Whether a statement holds a `return`, or a `break` (with `proceeding`: or `continue`) of a loop around it."""
    if isinstance(node, ast.Return):
        return True
    if isinstance(node, ast.Break):
        return True
    if isinstance(node, ast.Continue):
        return proceeding
    if isinstance(node, ast.For | ast.While):
        return any(isinstance(inner, ast.Return) for part in node.body for inner in ast.walk(part))
    if isinstance(node, ast.If):
        return any(exits(part, proceeding=proceeding) for part in [*node.body, *node.orelse])
    return isinstance(node, ast.With) and any(exits(part, proceeding=proceeding) for part in node.body)
