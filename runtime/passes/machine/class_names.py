"""Classifiers whose classes have names answer the numbers 0, 1, ... in a native kernel; a LabelEncoder makes names of these."""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope
from headrace.runtime.types import TensorType

# Kind -> the attribute that numbers its classes.
NUMBERS = {
    "ai.onnx.ml.TreeEnsembleClassifier": "classlabels_int64s",
    "ai.onnx.ml.LinearClassifier": "classlabels_ints",
    "ai.onnx.ml.SVMClassifier": "classlabels_ints",
}


def class_names(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with numbered classes where the classifier has a kernel."""
    return rewrite(graph, {kind: _numbered for kind in NUMBERS if kind in caps})


def _numbered(node: Node, scope: Scope) -> Patch | None:
    names, output = node.attributes.get("classlabels_strings"), node.outputs[0]
    if not isinstance(names, tuple) or not names:
        return None
    numbers = tuple(range(len(names)))
    attributes = {key: value for key, value in node.attributes.items() if key != "classlabels_strings"}
    attributes[NUMBERS[node.kind]] = numbers
    chosen = None
    if output is not None:
        shape = output.type.shape if isinstance(output.type, TensorType) else None
        chosen = scope.value(f"{output.name}_number", TensorType("int64", shape))
    outputs = [chosen, *node.outputs[1:]]
    added = [Node(node.operator, node.inputs, outputs, attributes, domain=node.domain, name=node.name, path=node.path)]
    if output is not None:
        table = {"keys_int64s": numbers, "values_strings": names}
        added.append(scope.node("LabelEncoder", [chosen], output, table, domain=node.domain, like=node))
    return Patch([node], added)
