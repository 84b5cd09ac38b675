"""Products of few rows read their weights from where they lie. A step of a decoder multiplies one row by each matrix: it takes as
long as reading the matrices does, and a packed copy is read no faster than the mapped file. So there is none: less memory, and
less to do in a load. Several requests at a time pay for it, eight a third of the time, and more rows than that are packed as they go.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope
from headrace.runtime.shapes import Shape
from headrace.runtime.types import TensorType

ROWS = 8  # as many are read for at once; native/kernels/gemm/gemm.h
LEAST = 1 << 20  # bytes of a matrix: smaller ones may be in a cache, and then their order counts


def few_rows(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with those products as headrace.cpu.MatMul whose `few_rows` is 1."""
    if "headrace.cpu.MatMul" not in caps:
        return graph
    return rewrite(graph, {"MatMul": _unpacked, "headrace.FusedMatMul": _unpacked})


def is_few(shape: Shape | None) -> bool:
    """Whether a left factor of this shape has few rows: a sequence's one step, of however many sequences, or a fixed number."""
    if shape is None or len(shape) < 2:
        return False
    count = 1
    for axis, size in enumerate(shape[:-1]):
        if isinstance(size, int):
            count *= size
        elif axis or len(shape) < 3:
            return False
    return 0 < count <= (ROWS if isinstance(shape[0], int) else 1)


def _unpacked(node: Node, scope: Scope) -> Patch | None:
    weight, types = scope.array(node.inputs[1]), [value.type for value in node.inputs if value is not None]
    if weight is None or weight.ndim != 2 or weight.nbytes < LEAST:
        return None
    if node.attributes.get("transA") or node.attributes.get("transB"):
        return None
    if not all(isinstance(type, TensorType) and type.dtype == "float32" for type in types):
        return None
    if not isinstance(types[0], TensorType) or not is_few(types[0].shape):
        return None
    made = Node("MatMul", node.inputs, node.outputs, {**node.attributes, "few_rows": 1}, domain="headrace.cpu", name=node.name, path=node.path)  # fmt: skip
    return Patch([node], [made])
