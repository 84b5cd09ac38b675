"""Products in bf16 where the caller allows it and the CPU multiplies bf16: factors are rounded, sums stay float32.

Products and recurrent layers with constant weights (which are rounded once, when the kernel is made), and convolutions. What lies between
them stays float32, and so do the values of the graph.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph, Node
from headrace.runtime.types import TensorType

UNUSUAL = ("activations", "activation_alpha", "activation_beta", "clip", "input_forget")
PRECISIONS = {"bf16": "avx512_bf16"}  # a precision, and the instruction-set tier that multiplies it


def low_precision(graph: Graph, caps: Collection[str], precision: str) -> Graph:
    """The graph with its products in `precision`; the same graph where this CPU has no such products."""
    from headrace.runtime.graph import Block

    if PRECISIONS[precision] not in caps:
        return graph

    def lowered(node: Node) -> Node:
        attributes = {
            key: block(value) if isinstance(value, Block) else value for key, value in node.attributes.items()
        }
        operator, domain = node.operator, node.domain
        if _is_product(node, graph):
            operator, domain, attributes = "MatMul", "headrace.cpu", {**attributes, "precision": precision}
        elif node.kind == "headrace.cpu.Conv":
            attributes["precision"] = precision
        elif _is_recurrent(node, graph) and f"headrace.cpu.{node.operator}" in caps:
            domain = "headrace.cpu"
        elif not node.blocks:
            return node
        return Node(operator, node.inputs, node.outputs, attributes, domain=domain, name=node.name, path=node.path, version=node.version)  # fmt: skip

    def block(given: Block) -> Block:
        return Block(given.inputs, [lowered(node) for node in given.nodes], given.outputs)

    copy = Graph(
        block(graph.block), dict(graph.constants), dict(graph.values), graph.name, graph.states, graph.metadata
    )
    return copy


def _is_recurrent(node: Node, graph: Graph) -> bool:
    """A recurrent layer as its kernel takes it: float32, constant weights and bias, nothing out of the ordinary."""
    if node.kind not in ("LSTM", "GRU", "RNN") or any(node.attributes.get(key) for key in UNUSUAL):
        return False
    data, weights = [node.inputs[0], *node.inputs[5:]], node.inputs[1:4]
    return (
        all(value is None or graph.constant_of(value) is not None for value in weights)
        and all(value is None or getattr(value.type, "dtype", "") == "float32" for value in [*data, *weights])
        and not any(value is not None for value in node.inputs[7:])
    )


def _is_product(node: Node, graph: Graph) -> bool:
    """MatMul or FusedMatMul of float32 with a constant matrix."""
    if node.kind not in ("MatMul", "headrace.FusedMatMul"):
        return False
    weight, types = graph.constant_of(node.inputs[1]), [value.type for value in node.inputs if value is not None]
    return (
        weight is not None
        and weight.ndim >= 2
        and all(isinstance(type, TensorType) and type.dtype == "float32" for type in types)
    )
