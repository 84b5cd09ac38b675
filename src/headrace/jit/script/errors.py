"""ScriptError: what the compiled source cannot say as a graph, where it stands, and how to write it instead."""

from __future__ import annotations

import ast
from typing import NoReturn

from headrace.jit.errors import TraceError
from headrace.jit.script.source import Source


class ScriptError(TraceError):
    """The source has no form as a graph; the text names file, line, construct and a rewrite."""


def refuse(source: Source, node: ast.AST, construct: str, rewrite: str) -> NoReturn:
    """Raise ScriptError for a construct at a place of the source."""
    raise ScriptError(f"{source.place(node)}{construct}. Rewrite: {rewrite}.")
