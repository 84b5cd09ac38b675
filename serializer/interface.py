"""`interface.json`: the entry points of a program as data, for those who do not read the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.runtime.errors import LoadError
from headrace.runtime.graph import Graph, Program, Value
from headrace.runtime.shapes import symbols
from headrace.runtime.types import TensorType

NAME = "interface.json"


def describe(program: Program) -> dict[str, Any]:
    """The interface of a program: for each entry point its inputs, outputs, states and symbolic dimensions."""
    return {"entries": {key: _entry(graph) for key, graph in program.entries.items()}}


def _entry(graph: Graph) -> dict[str, Any]:
    names: set[str] = set()
    for value in graph.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            names = names.union(*map(symbols, value.type.shape))
    return {
        "inputs": [_value(value) for value in graph.inputs],
        "outputs": [_value(value) for value in graph.outputs],
        "states": [{"input": state.input, "output": state.output} for state in graph.states],
        "dimensions": sorted(names),
        "batch_dimension": _batch(graph),
    }


def _value(value: Value) -> dict[str, Any]:
    if not isinstance(value.type, TensorType):
        return {"name": value.name, "type": str(value.type)}
    shape = value.type.shape
    return {
        "name": value.name,
        "dtype": value.type.dtype,
        "shape": None if shape is None else [dim if isinstance(dim, int) else str(dim) for dim in shape],
    }


def _batch(graph: Graph) -> str | None:
    """The symbol that leads every input, if there is one."""
    leading = {
        value.type.shape[0] if isinstance(value.type, TensorType) and value.type.shape else 0 for value in graph.inputs
    }
    first = leading.pop() if len(leading) == 1 else 0
    return None if isinstance(first, int) else first.name


def check(document: Any, program: Program) -> None:
    """The file must say what the graph says: names, element types, and the shapes of inputs. (How the sizes of outputs
    are written may differ between versions of type inference.) Raises LoadError."""
    if not isinstance(document, Mapping) or _outline(document) != _outline(describe(program)):
        raise LoadError(f"{NAME} does not agree with graph.pb")


def _outline(document: Mapping[str, Any]) -> Any:
    try:
        return {
            key: (
                entry["inputs"],
                [(item["name"], item.get("dtype"), item.get("type")) for item in entry["outputs"]],
                entry["states"],
            )
            for key, entry in document["entries"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise LoadError(
            f"{NAME}: an entry point needs inputs, outputs and states, each with a name and a type"
        ) from None
