"""A graph as Python: readable, and it runs again with the same numbers."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from typing import Any

import numpy as np

from headrace.runtime.graph import Graph, Node, Value

INLINE = 16  # whole-number constants up to this size stand in the text


def graph_code(graph: Graph) -> str:
    """`forward(<inputs>, weights)`: one line a node; `weights` maps the names of constants to tensors."""
    printer = _Printer(graph)
    inputs = [printer.name(value) for value in graph.inputs]
    doc = ", ".join(f"{name}: {value.type}" for name, value in zip(inputs, graph.inputs))
    results = ", ".join(printer.name(value) for value in graph.outputs)
    lines = [
        "import headrace as torch",
        "from headrace.jit import operators as F",
        "",
        "",
        f"def forward({', '.join([*inputs, 'weights'])}):",
        f'    """{doc} -> {", ".join(str(value.type) for value in graph.outputs)}"""',
        *("    " + line for node in graph.nodes for line in printer.lines(node)),
        f"    return {results}",
    ]
    return "\n".join(lines) + "\n"


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._names: dict[Value, str] = {}
        self._used = {"weights", "torch", "F", "forward"}
        self._path = ""

    def name(self, value: Value | None) -> str:
        """The Python text of a value."""
        if value is None:
            return "None"
        array = self.graph.constant_of(value)
        if array is not None:
            return (value.name.startswith("constant") and _inline(array)) or f"weights[{value.name!r}]"
        found = self._names.get(value)
        if found is None:
            found = "".join(c if c.isalnum() or c == "_" else "_" for c in value.name) or "x"
            found = "_" + found if found[0].isdigit() or keyword.iskeyword(found) else found
            while found in self._used:
                found += "_"
            self._used.add(found)
            self._names[value] = found
        return found

    def lines(self, node: Node) -> Iterator[str]:
        if node.blocks:
            raise ValueError(f"{node.label()}: blocks have no form as plain Python here")
        if node.path != self._path:
            self._path = node.path
            if node.path:
                yield f"# {node.path}"
        arguments = [self.name(value) for value in node.inputs]
        if len(node.outputs) > 1:
            arguments.append(f"outputs={len(node.outputs)}")
        arguments += [f"{key}={_text(value)}" for key, value in sorted(node.attributes.items())]
        call = f"F.{node.operator}" if node.domain in ("", "headrace") else f"F.op({node.domain!r}, {node.operator!r})"
        names = ", ".join("_" if value is None else self.name(value) for value in node.outputs)
        yield f"{names} = {call}({', '.join(arguments)})"


def _inline(array: np.ndarray) -> str:
    """Small constants as text; "" for what stays among the weights."""
    if (
        array.size > INLINE
        or array.ndim > 1
        or array.dtype.kind not in "iubf"
        or (array.dtype.kind == "f" and array.size > 1)
    ):
        return ""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return ""
    if array.dtype == np.int64 or array.dtype == np.bool_:
        return f"torch.tensor({array.tolist()})"
    return f"torch.tensor({array.tolist()}, dtype=torch.{array.dtype.name})"


def _text(value: Any) -> str:
    """An attribute as Python."""
    if isinstance(value, np.ndarray):
        return f"torch.tensor({value.tolist()}, dtype=torch.{value.dtype.name}).numpy()"
    if isinstance(value, tuple | list):
        return "(" + "".join(f"{_text(item)}, " for item in value).rstrip(" " if len(value) == 1 else ", ") + ")"
    if isinstance(value, float):
        return repr(float(value)) if np.isfinite(value) else f'float("{value}")'
    return repr(value)
