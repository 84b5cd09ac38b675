"""A depthwise convolution and the 1x1 convolution after it, with the 1x1 convolution before it where there is one, in one node:
what lies between them, several times as large as what goes in and out, then never leaves the cache.

Only where it is large: a small map stays in the cache by itself, and whole images feed the products better than strips of
them. Sizes of the batch are never read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, shape

KIND = "SeparableConv"
GEOMETRY = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "precision")
LEAST = 1 << 17  # values of one image between the convolutions


def separable(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with those convolutions as headrace.cpu.SeparableConv where there is a kernel for it."""
    if f"headrace.cpu.{KIND}" not in caps:
        return graph
    return rewrite(graph, {"headrace.cpu.Conv": _joined})


def _joined(node: Node, scope: Scope) -> Patch | None:
    """From the depthwise convolution on, both ways."""
    if not _is_depthwise(node, scope) or len(_parameters(node)) > 2:
        return None
    project, expand = (
        scope.user(node.outputs[0], "headrace.cpu.Conv"),
        scope.producer(node.inputs[0], "headrace.cpu.Conv"),
    )
    if project is None or not _is_pointwise(project, scope) or project.inputs[0] is not node.outputs[0]:
        return None
    if expand is not None and not (
        scope.single(node.inputs[0]) and _is_pointwise(expand, scope) and len(_parameters(expand)) <= 2
    ):
        expand = None
    first = node if expand is None else expand
    types = {dtype(value) for value in (first.inputs[0], node.inputs[0], node.outputs[0])}
    low = [each.attributes.get("precision") == "bf16" for each in (project, expand) if each is not None]
    if types != ({"bfloat16"} if all(low) else {"float32"}) or (any(low) and not all(low)):
        return None
    if max(_size(node.inputs[0]) if expand is not None else 0, _size(node.outputs[0])) < LEAST:
        return None
    parts = [node, project] if expand is None else [expand, node, project]
    none: list[Value | None] = [None, None]
    weights = [*(none if expand is None else _parameters(expand, 2)), *_parameters(node, 2), *_parameters(project)]
    attributes = {
        **{key: value for key, value in node.attributes.items() if key not in ("group", "precision")},
        **({} if expand is None else _activation("expand_", expand)),
        **_activation("project_", project),
    }
    made = Node(KIND, [first.inputs[0], *weights], project.outputs, attributes, domain="headrace.cpu", name=project.name, path=project.path)  # fmt: skip
    return Patch(parts, [made])


def _activation(prefix: str, node: Node) -> dict[str, Any]:
    """What a 1x1 convolution has beside the geometry of a 1x1 convolution."""
    return {f"{prefix}{key}": value for key, value in node.attributes.items() if key not in GEOMETRY}


def _parameters(node: Node, count: int | None = None) -> list[Value | None]:
    """Weight, bias, residual, as far as there are any; or the first `count`."""
    given = node.inputs[1:]
    while given and given[-1] is None:
        given = given[:-1]
    return given if count is None else [*given, None, None][:count]


def _constant(node: Node, scope: Scope) -> bool:
    return all(value is None or scope.array(value) is not None for value in _parameters(node, 2))


def _is_depthwise(node: Node, scope: Scope) -> bool:
    weight = scope.array(node.inputs[1])
    if weight is None or weight.ndim != 4 or weight.shape[1] != 1 or weight[0].size > 64 or not _constant(node, scope):
        return False
    return bool(node.attributes.get("group", 1) == weight.shape[0] > 1 and weight.shape[0] % 2 == 0)


def _is_pointwise(node: Node, scope: Scope) -> bool:
    weight, attributes = scope.array(node.inputs[1]), node.attributes
    if weight is None or weight.ndim != 4 or weight.shape[2:] != (1, 1) or not _constant(node, scope):
        return False
    if attributes.get("group", 1) != 1 or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    return attributes.get("pads") in (None, (), (0,) * 4) and attributes.get("strides") in (None, (), (1, 1))


def _size(value: Value | None) -> int:
    """Values of one image; 0 where that is not known."""
    sizes, total = shape(value), 1
    for size in sizes[1:] if sizes is not None else (0,):
        total *= size if isinstance(size, int) else 0
    return total
