"""The source of a function: its syntax tree with true line numbers, and the names it reads from around itself."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import linecache
import textwrap
from collections.abc import Mapping
from types import FunctionType
from typing import Any


class Source:
    """One Python function as text: `tree` is its FunctionDef, line numbers are those of the file."""

    def __init__(self, function: FunctionType, tree: ast.FunctionDef) -> None:
        self.function, self.tree = function, tree
        self.file = function.__code__.co_filename
        self.name = function.__qualname__

    def place(self, node: ast.AST) -> str:
        """ "file:line: `source`: " of a node."""
        number = getattr(node, "lineno", self.tree.lineno)
        line = linecache.getline(self.file, number).strip()
        return f"{self.file}:{number}: " + (f"`{line}`: " if line else "")

    def line(self, node: ast.AST) -> str:
        """ "line 7 (`source`)" of a node, for a place in the same function."""
        number = getattr(node, "lineno", self.tree.lineno)
        return f"line {number} (`{linecache.getline(self.file, number).strip()}`)"

    def surroundings(self, name: str) -> Any:
        """A name that the function does not assign. KeyError where it is not defined anywhere."""
        return _around(self.function, name)


def _around(function: FunctionType, name: str) -> Any:
    if name in function.__code__.co_freevars and function.__closure__ is not None:
        cell = function.__closure__[function.__code__.co_freevars.index(name)]
        try:
            return cell.cell_contents
        except ValueError:
            raise KeyError(name) from None
    if name in function.__globals__:
        return function.__globals__[name]
    table: Mapping[str, Any] = vars(builtins)
    return table[name]


@functools.lru_cache(maxsize=1024)
def _tree(code: Any) -> ast.FunctionDef | None:
    """The FunctionDef of a code object; None where there is no source, or where it is no plain function."""
    try:
        lines, start = inspect.getsourcelines(code)
        parsed = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    found = parsed.body[0] if len(parsed.body) == 1 else None
    if not isinstance(found, ast.FunctionDef) or found.name != code.co_name:
        return None
    ast.increment_lineno(found, start - 1)
    return found


def source_of(function: FunctionType) -> Source | None:
    """The source of a function, or None where it cannot be read as one `def`."""
    tree = _tree(function.__code__)
    return None if tree is None else Source(function, tree)
