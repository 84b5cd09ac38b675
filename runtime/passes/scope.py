"""What rules read and make nodes with: one block, with producers, readers, constants, types and fresh names. Not a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, HeadraceError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.infer import infer_operator
from headrace.runtime.ops import find
from headrace.runtime.shapes import Shape
from headrace.runtime.types import TensorType, Type


class Names:
    """Fresh names of one graph: like Graph.fresh, but the set of used names is collected once, as the graph was when the
    first name is asked for: a pass that finds nothing to do asks for none."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.counts: Counter[str] = Counter()

    @cached_property
    def used(self) -> set[str]:
        return self._graph.names()

    def fresh(self, name: str) -> str:
        candidate = name
        while candidate in self.used:
            self.counts[name] += 1
            candidate = f"{name}_{self.counts[name] + 1}"
        self.used.add(candidate)
        return candidate


class Scope:
    """One block as rules see it: who makes a value, who reads it, what is constant. Making nodes and constants through
    it gives them names that nothing else in the graph has."""

    def __init__(self, graph: Graph, block: Block, names: Names) -> None:
        self.graph, self.block, self.names = graph, block, names
        self.producers: dict[int, Node] = {}
        self.readers: dict[int, list[Node]] = {}
        for node in block.nodes:
            for value in node.outputs:
                if value is not None:
                    self.producers[id(value)] = node
            for value in reads(node):
                self.readers.setdefault(id(value), []).append(node)
        self.outputs = {id(value) for value in block.outputs}

    # ---- reading

    def producer(self, value: Value | None, *kinds: str) -> Node | None:
        """The node of this block that makes `value`, if it is one of `kinds` (any, where none is given)."""
        node = self.producers.get(id(value)) if value is not None else None
        return node if node is not None and (not kinds or node.kind in kinds) else None

    def users(self, value: Value | None) -> list[Node]:
        """The nodes that read `value`, each once for every time it reads it (inner blocks count as their node)."""
        return self.readers.get(id(value), [])

    def single(self, value: Value | None) -> bool:
        """Whether exactly one node reads `value`, once, and the block does not answer it."""
        return value is not None and len(self.users(value)) == 1 and id(value) not in self.outputs

    def user(self, value: Value | None, *kinds: str) -> Node | None:
        """The only reader of `value`, if it is one of `kinds`."""
        if not self.single(value):
            return None
        node = self.users(value)[0]
        return node if not kinds or node.kind in kinds else None

    def array(self, value: Value | None) -> np.ndarray | None:
        """The array of a constant, else None."""
        return self.graph.constant_of(value)

    def scalar(self, value: Value | None) -> float | None:
        """The number in a constant of one element, else None."""
        array = self.array(value)
        if array is None or array.size != 1 or (array.dtype.kind in "OSUV" and not is_float(array)):
            return None
        return float(array.reshape(()).astype(np.float64))

    def integers(self, value: Value | None) -> tuple[int, ...] | None:
        """The elements of a constant integer array (axes, a shape), else None."""
        array = self.array(value)
        return tuple(int(x) for x in array.ravel()) if array is not None and array.dtype.kind in "iu" else None

    def replaceable(self, old: Value | None, new: Value | None) -> bool:
        """Whether renaming `old` to `new` gets rid of `old`: not where `old` is an answer of the block and `new` is
        none that a node of this block could make under that name."""
        if old is None or new is None:
            return False
        return id(old) not in self.outputs or (id(new) in self.producers and id(new) not in self.outputs)

    # ---- making

    def constant(self, array: np.ndarray | np.generic, name: str = "constant") -> Value:
        name = self.names.fresh(name)
        array = np.asarray(array)
        value = Value(name, TensorType(dtypes.of(array).name, tuple(array.shape)))
        self.graph.constants[name], self.graph.values[name] = array, value
        return value

    def value(self, name: str, type: Type | None = None) -> Value:
        """A value that no node makes yet."""
        return Value(self.names.fresh(name), type)

    def node(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        output: Value | str | None = None,
        attributes: Mapping[str, object] | None = None,
        *,
        domain: str = "",
        type: Type | None = None,
        like: Node | None = None,
    ) -> Node:
        """A new node with one output: `output` is the value it makes, or a hint for the name of a new one (of `type`,
        inferred where None). Its name and module path are those of `like`."""
        trimmed = list(inputs)
        while trimmed and trimmed[-1] is None:
            trimmed.pop()
        if not isinstance(output, Value):
            type = type or self.infer(operator, domain, trimmed, attributes or {})
            output = self.value(output or operator.lower(), type)
        name, path = (like.name, like.path) if like is not None else ("", "")
        return Node(operator, trimmed, [output], attributes, domain=domain, name=name, path=path)

    def infer(
        self, operator: str, domain: str, inputs: Sequence[Value | None], attributes: Mapping[str, object]
    ) -> Type | None:
        """The type of an operator's first output; None where the inputs' types are not known well enough."""
        found = find(operator, domain)
        if found is None:
            return None
        constants = [self.array(value) for value in inputs]
        try:
            types = [None if value is None else value.type for value in inputs]
            return infer_operator(found, types, attributes, 1, constants)[0]
        except HeadraceError:
            return None


def is_float(array: np.ndarray) -> bool:
    return dtypes.of(array).kind == "f"


def reads(node: Node) -> list[Value]:
    """Every value that a node reads, those of its inner blocks included."""
    values = [value for value in node.inputs if value is not None]
    for block in node.blocks.values():
        values += block.captured()
    return values


def attribute(node: Node, key: str, default: Any = None) -> Any:
    """An attribute, or the operator's default where the node leaves it out (REQUIRED and None: `default`)."""
    value = node.attributes.get(key)
    if value is not None:
        return value
    operator = find(node.operator, node.domain)
    known = operator.attributes.get(key) if operator is not None else None
    return (
        default if known is None or not isinstance(known.default, int | float | str | tuple | list) else known.default
    )


def integer(node: Node, key: str, default: int = 0) -> int:
    """An integer attribute."""
    return int(attribute(node, key, default))


def number(node: Node, key: str, default: float = 0.0) -> float:
    """A float attribute."""
    return float(attribute(node, key, default))


def made(node: Node) -> Value:
    """The first output, which rules for operators of one output may count on."""
    value = node.outputs[0]
    if value is None:
        raise GraphError(f"{node.label()} answers nothing")
    return value


def other_input(node: Node | None, value: Value | None) -> Value | None:
    """The other input of a node of two inputs."""
    return None if node is None else node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def rank(value: Value | None) -> int | None:
    return value.type.rank if value is not None and isinstance(value.type, TensorType) else None


def shape(value: Value | None) -> Shape | None:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


def dtype(value: Value | None) -> str | None:
    return value.type.dtype if value is not None and isinstance(value.type, TensorType) else None


def same_shape(a: Value | None, b: Value | None) -> bool:
    """Whether two values have the same shape for certain."""
    left = shape(a)
    return left is not None and left == shape(b)
