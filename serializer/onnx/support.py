"""Does the runtime have every operator of a file? All that are missing are listed in one error, with their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headrace.runtime.errors import UnsupportedOperator
from headrace.runtime.ops import find
from headrace.serializer.onnx.functions import Functions, domain_of, has_schema_function, inner_graphs
from headrace.serializer.onnx.gradient import KIND as GRADIENT

_NEXT = "; export the model again with standard operators (ai.onnx), or add the operator (CONTRIBUTING.md)"
_SHOWN = 3  # places per operator


def require_operators(model: Any, functions: Functions, opsets: Mapping[str, int]) -> None:
    """Raise UnsupportedOperator unless every node of the model, of its inner graphs and of the functions that it calls
    is a call of a function or an operator that exists."""
    missing: dict[str, list[str]] = {}
    _collect(model.graph.node, "", functions, opsets, missing, set())
    if not missing:
        return
    lines = []
    for kind, places in sorted(missing.items()):
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        lines.append(f"{kind}: {', '.join(places[:_SHOWN])}{more}")
    count = f"{len(missing)} operator{'s' if len(missing) > 1 else ''}"
    raise UnsupportedOperator(f"uses {count} that headrace does not have: " + "; ".join(lines) + _NEXT)


def called(node: Any, functions: Functions) -> Any:
    """The local function that a node calls, or None. An operator of ai.onnx is none, whatever the file has under its name."""
    standard = not domain_of(node) and find(node.op_type) is not None
    return None if standard else functions.find(node)


def _collect(
    nodes: Iterable[Any],
    place: str,
    functions: Functions,
    opsets: Mapping[str, int],
    missing: dict[str, list[str]],
    seen: set[int],
) -> None:
    for index, node in enumerate(nodes):
        domain = domain_of(node)
        here = f"{place}node {index}" + (f" {node.name!r}" if node.name else "")
        for attribute, graph in inner_graphs(node):
            _collect(graph.node, f"{here} / {attribute} / ", functions, opsets, missing, seen)
        function = called(node, functions)
        if function is not None:
            if id(function) not in seen:
                seen.add(id(function))
                versions = {domain_of(item): int(item.version) for item in function.opset_import}
                _collect(
                    function.node, f"function {function.name} / ", functions, {**opsets, **versions}, missing, seen
                )
        elif (
            (domain, node.op_type) != GRADIENT
            and find(node.op_type, domain) is None
            and not has_schema_function(node.op_type, domain, opsets.get(domain, 1))
        ):
            missing.setdefault(f"{domain}.{node.op_type}" if domain else node.op_type, []).append(here)
