"""TraceError: what a trace cannot express, where it stands in the user's code, and how to write it instead."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType
from typing import Any, NoReturn

import numpy as np

import headrace
from headrace.autograd.mode import MODE
from headrace.runtime.errors import HeadraceError


class TraceError(HeadraceError):
    """The traced code cannot become a graph; the text names file, line, construct and a rewrite."""


# Frames of these folders are the library's, not the user's.
_LIBRARY = tuple(
    os.path.dirname(os.path.abspath(module.__file__)) + os.sep for module in (headrace, np) if module.__file__
)

_COMPILER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "script") + os.sep

# How the library was entered -> what the user wrote.
_ENTRIES = {
    "__bool__": "bool()",
    "__int__": "int()",
    "__float__": "float()",
    "__complex__": "complex()",
    "__index__": "range() or an index",
    "__array__": "numpy()",
    "__contains__": "in",
    "item": "item()",
    "tolist": "tolist()",
    "numpy": "numpy()",
}

_REWRITES = {
    "item()": "keep the tensor: a tensor of one element takes part in arithmetic as a number does",
    "tolist()": "index or unbind the tensor, and go on with tensors",
    "numpy()": "use the functions of headrace in place of NumPy's",
    "tensor()": "use torch.stack, torch.cat or torch.full, which keep traced values",
    "in": "(x == value).any() is the answer as a tensor",
    "range() or an index": "index with a tensor (x[i] becomes a Gather), or loop over a number that is known before the graph runs",
}
_REWRITES.update(dict.fromkeys(("int()", "float()", "complex()"), _REWRITES["item()"]))


def refuse_value(construct: str) -> NoReturn:
    """TraceError for code that reads the values of a traced tensor."""
    frame, entry, function = _user_frame()
    if MODE.tracer is None:
        raise TraceError(f"{place(frame)}a traced tensor is used after its trace has ended; it has no values")
    if entry not in _ENTRIES and function:
        raise TraceError(
            f"{place(frame)}{function}() reads values of a traced tensor ({construct}) and has no form as a graph."
        )
    construct = _ENTRIES.get(entry, construct)
    line = source_line(frame)
    branch = _branch(line) if construct in ("bool()", "in") else ""
    rewrite = _REWRITES.get(construct, "")
    if construct == "bool()" or branch:
        construct, rewrite = branch or "bool()", _branch_rewrite(branch)
    advice = f" Rewrite: {rewrite}." if rewrite else ""
    raise TraceError(
        f"{place(frame)}{construct} needs values of a traced tensor, which are known only when the graph runs.{advice}"
    )


def refuse_size(construct: str, size: Any) -> NoReturn:
    """TraceError for code that needs the number behind a symbolic size."""
    frame, entry, _ = _user_frame()
    construct = _ENTRIES.get(entry, construct)
    places = MODE.tracer.static_advice(size.expr) if MODE.tracer is not None else ""
    rewrite = "leave out int(), a size is a whole number already; or " if construct == "int()" else ""
    if places:
        rewrite += (
            f"declare the dimension static, trace(..., dynamic={{{places}}}), or everything, trace(..., dynamic={{}})"
        )
    else:
        rewrite = "the size depends on values; mask with torch.where instead of selecting"
    raise TraceError(
        f"{place(frame)}{construct} needs the number behind the symbolic size '{size}', which is known only when the graph runs. Rewrite: {rewrite}."
    )


def here() -> str:
    """ "file:line: `source`: " of the user's code that is running, or nothing."""
    return place(_user_frame()[0])


def place(frame: Any) -> str:
    if frame is None:
        return ""
    line = source_line(frame)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}: " + (f"`{line}`: " if line else "")


def source_line(frame: Any) -> str:
    return "" if frame is None else linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


def is_library(function: Any) -> bool:
    """Whether a function is the library's own, so that it has nothing to compile."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and code.co_filename.startswith(_LIBRARY)


class _Position:
    """A place in compiled source, in the form of a frame."""

    def __init__(self, file: str, line: int) -> None:
        self.f_lineno, self.f_code = line, self
        self.co_filename = file


def _user_frame() -> tuple[Any, str, str]:
    """The innermost frame outside the library, the name of the library's method that it called, and that of the
    outermost torch-like function below it."""
    frame: FrameType | None = sys._getframe(1)
    entry = function = ""
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        if frame.f_code.co_filename.startswith(_COMPILER) and MODE.tracer is not None and MODE.tracer.position:
            return _Position(*MODE.tracer.position), entry, function
        entry = frame.f_code.co_name
        if frame.f_globals.get("__name__", "").startswith(("headrace.functional.", "headrace.nn.functional.")):
            function = entry
        frame = frame.f_back
    return frame, entry, function


def _branch(line: str) -> str:
    """What kind of statement asks for the truth of a value."""
    for word in ("if", "elif", "while", "assert"):
        if line.startswith(f"{word} "):
            return "a Python `if`" if word == "elif" else f"a Python `{word}`"
    for word in (" if ", " and ", " or "):
        if word in line:
            return f"a Python `{word.strip()}`"
    return "not" if line.startswith("not ") or " not " in line else ""


def _branch_rewrite(branch: str) -> str:
    match branch:
        case "a Python `while`":
            return "headrace.jit.script in place of trace compiles the loop from its source; or a loop with a number of steps that is known before the graph runs, and torch.where inside"
        case "a Python `assert`":
            return "check shapes and dtypes instead, or check the values before the model is called"
        case "a Python `and`" | "a Python `or`":
            return "headrace.jit.script in place of trace compiles it from its source; or torch.logical_and and torch.logical_or (or & and |), which work element by element"
        case "not":
            return "torch.logical_not (or ~) works element by element"
    return "headrace.jit.script in place of trace compiles the branch from its source; or torch.where(condition, a, b) computes both and picks element by element"
