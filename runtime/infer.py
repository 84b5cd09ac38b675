"""Types of every value: one walk over a graph, operator by operator.

The walk fills in attribute defaults, checks dtypes against the operator's declaration, and asks its `infer`. Two facts are
carried beside the types: the *symbolic value* of small integer tensors (what shape arithmetic computes), and the *known
array* of small tensors whose inputs are all known. So Shape -> Gather -> Concat -> Reshape stays exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, HeadraceError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Context, In, Operator, Out
from headrace.runtime.shapes import Dim, Expr, product, substitute, symbol, symbols
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type

# Tensors of at most this many elements are folded while types are inferred.
KNOWN_LIMIT = 1024
# Families whose references take time and memory in proportion to their inputs and outputs: only these are folded, so that
# a hostile attribute (a window of 10**9) costs nothing while a file is loaded.
_FOLDED = frozenset({"elementwise", "reduce", "shape", "move"})

Symbolic = tuple[Dim, ...] | Dim


def infer_graph(graph: Graph) -> Inference:
    """Fill in `Value.type` of every value, blocks included. GraphError names the node that breaks a rule.

    Answers the inference, whose `symbolic` and `known` hold what was learnt about small tensors.
    """
    inference = Inference(graph)
    for node in graph.nodes:
        inference.node(node)
    return inference


class Inference:
    """What is known about the values of one graph. `node` adds what one more node tells."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.symbolic: dict[Value, Symbolic] = {}
        self.known: dict[Value, np.ndarray] = {}
        self._symbols = set().union(*(symbols_of(value.type) for value in graph.inputs))
        self._input_symbols = frozenset(self._symbols)
        self._depth = 0

    def constant(self, value: Value | None) -> np.ndarray | None:
        """The array of a value, where it is a constant of the graph or small and known."""
        if value is None:
            return None
        found = self.graph.constant_of(value)
        return self.known.get(value) if found is None else found

    def value(self, value: Value | None) -> Symbolic | None:
        """The elements of an integer tensor of rank 0 or 1 as dimensions, where known."""
        if value is None:
            return None
        if value in self.symbolic:
            return self.symbolic[value]
        array = self.constant(value)
        if array is None or array.ndim > 1 or array.size > KNOWN_LIMIT or array.dtype.kind not in "iu":
            return None
        found = array.tolist()
        return tuple(found) if array.ndim else found

    def fresh(self, hint: str) -> Expr:
        """A symbol that nothing in this graph uses yet: `hint`, `hint_2`, ..."""
        name = next(n for n in numbered(hint) if n not in self._symbols)
        self._symbols.add(name)
        return symbol(name)

    def context(self, node: Node, operator: Operator) -> Context:
        """What the operator sees of the node. GraphError for attributes that it does not allow."""
        return _NodeContext(self, node, operator)

    def node(self, node: Node) -> None:
        """Set the types of the node's outputs."""
        operator = find(node.operator, node.domain)
        if operator is None:
            raise GraphError(f"{node.label()}: there is no operator {node.kind}")
        try:
            check_inputs(operator, [None if value is None else value.type for value in node.inputs])
            context = self.context(node, operator)
            types = operator.infer(context)
            if len(types) < len(node.outputs):
                raise GraphError(f"{operator.kind} has {len(types)} outputs; the node asks for {len(node.outputs)}")
            values = operator.values(context)
        except HeadraceError as error:
            raise GraphError(_named(node, error)) from error
        except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError) as error:
            raise GraphError(_named(node, error)) from error
        self._assign(node, types)
        self._learn(node, operator, context, values)

    def block(self, block: Block, inputs: Sequence[Type | None]) -> list[Type | None]:
        """Types of a block's outputs, from those of its inputs (None: as declared). May be called again with others."""
        for value, type in zip(block.inputs, inputs):
            value.type = type if type is not None else value.type
            self.symbolic.pop(value, None)
            self.known.pop(value, None)
        self._depth += 1
        try:
            for node in block.nodes:
                self.node(node)
        finally:
            self._depth -= 1
        return [value.type for value in block.outputs]

    def _assign(self, node: Node, types: Sequence[Type | None]) -> None:
        for value, type in zip(node.outputs, types):
            if value is None:
                continue
            self.symbolic.pop(value, None)
            self.known.pop(value, None)
            declared = value.type
            if type is None:
                type = declared
            elif self._depth == 0 and _unranked(type) and not _unranked(declared) and _dtype(type) == _dtype(declared):
                type = self._renamed(
                    declared
                )  # a declaration says more than the rule; only at top level, where it is stable
            value.type = type

    def _renamed(self, type: Type | None) -> Type | None:
        """A declared type whose own symbols cannot be confused with those of this walk."""
        if not isinstance(type, TensorType) or type.shape is None:
            return type
        renames: dict[str, Dim] = {name: self.fresh(name) for name in sorted(symbols_of(type) - self._input_symbols)}
        return type.with_shape(tuple(substitute(dim, renames) for dim in type.shape))

    def _learn(self, node: Node, operator: Operator, context: Context, values: Sequence[Any] | None) -> None:
        for value, found in zip(node.outputs, values or ()):
            if value is None or found is None:
                continue
            found = found if isinstance(found, int | Expr) else tuple(found)
            self.symbolic[value] = found
            flat = found if isinstance(found, tuple) else (found,)
            if all(isinstance(x, int) for x in flat) and isinstance(value.type, TensorType):
                self.known[value] = np.asarray(found, dtypes.of(value.type.dtype).numpy)
        family = type(operator).__module__.split(".")[-2]
        if family in _FOLDED and operator.deterministic and not any(value in self.symbolic for value in node.outputs):
            self._fold(node, operator, context)

    def _fold(self, node: Node, operator: Operator, context: Context) -> None:
        """Run the reference where every input is a small known array, and the outputs are small too."""
        arrays = context.constants
        if any(array is None and type is not None for array, type in zip(arrays, context.inputs)):
            return
        if any(array is not None and (array.size > KNOWN_LIMIT or array.dtype.kind == "O") for array in arrays):
            return
        if not all(map(_small, node.outputs)):
            return
        try:
            with np.errstate(all="ignore"):
                results = operator.reference(list(arrays), context.attributes, len(node.outputs))
        except Exception:
            return
        for value, result in zip(node.outputs, results):
            if value is not None and isinstance(result, np.ndarray | np.generic):
                self.known[value] = np.asarray(result)


class _NodeContext(Context):
    """The context of a node of a graph; what is known of its inputs is looked up when the operator asks, which few do."""

    def __init__(self, inference: Inference, node: Node, operator: Operator) -> None:
        self._inference, self._node = inference, node
        self.inputs = [None if value is None else value.type for value in node.inputs]
        self.attributes = operator.complete(node.attributes)
        self.n_outputs, self.version = len(node.outputs), node.version
        self._fresh, self.infer_block, self.batch = inference.fresh, inference.block, None

    @cached_property
    def values(self) -> list[Symbolic | None]:  # type: ignore[override]
        return [self._inference.value(value) for value in self._node.inputs]

    @cached_property
    def constants(self) -> list[np.ndarray | None]:  # type: ignore[override]
        return [self._inference.constant(value) for value in self._node.inputs]


def check_inputs(operator: Operator, types: Sequence[Type | None]) -> dict[str, str]:
    """Check the number and the dtypes of inputs; answers type variable -> dtype. Raises GraphError.

    A variadic input whose types are a set (not a variable) may mix dtypes. Values that are no tensors are left to the
    operator's own rule.
    """
    bound: dict[str, str] = {}
    formals = expand_formals(operator.inputs, len(types))
    if formals is None:
        raise GraphError(f"{operator.kind} has {len(types)} inputs; allowed: {arity_text(operator.inputs)}")
    for index, (formal, type) in enumerate(itertools.zip_longest(formals, types)):
        if type is None:
            if formal.optional:
                continue
            raise GraphError(f"input {index} ({formal.name}) of {operator.kind} is missing")
        if isinstance(type, TensorType):
            _check_dtype(operator, formal, index, type.dtype, bound)
    return bound


def _check_dtype(operator: Operator, formal: In, index: int, dtype: str, bound: dict[str, str]) -> None:
    allowed = formal.types if isinstance(formal.types, frozenset) else operator.types.get(formal.types, dtypes.ANY)
    if dtype not in allowed:
        names = ", ".join(sorted(allowed))
        raise GraphError(f"input {index} ({formal.name}) of {operator.kind} is {dtype}; allowed: {names}")
    if isinstance(formal.types, str) and bound.setdefault(formal.types, dtype) != dtype:
        raise GraphError(
            f"input {index} ({formal.name}) of {operator.kind} is {dtype}; it must be {bound[formal.types]} as another"
            f" input of type {formal.types} is"
        )


def expand_formals(formals: Sequence[Any], count: int) -> list[Any] | None:
    """One formal for each of `count` actual inputs or outputs, or more where some are missing; None: too many."""
    expanded = list(formals)
    if expanded and expanded[-1].variadic:
        expanded += [expanded[-1]] * (count - len(expanded))
    return expanded if count <= len(expanded) else None


def arity_text(formals: Sequence[In | Out]) -> str:
    """How many are allowed: "2", "1 to 3", "1 or more"."""
    least = sum(not formal.optional for formal in formals)
    if formals and formals[-1].variadic:
        return f"{least} or more"
    return str(least) if least == len(formals) else f"{least} to {len(formals)}"


def symbols_of(type: Type | None) -> frozenset[str]:
    """The names of the symbolic dimensions in a type."""
    match type:
        case TensorType(shape=shape) if shape is not None:
            return frozenset().union(*map(symbols, shape))
        case SequenceType(element=inner) | OptionalType(element=inner) | MapType(value=inner):
            return symbols_of(inner)
    return frozenset()


def numbered(name: str) -> Any:
    """name, name_2, name_3, ..."""
    return itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))


def _named(node: Node, error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if text.startswith("node ") else f"{node.label()}: {text}"


def _unranked(type: Type | None) -> bool:
    return not isinstance(type, TensorType) or type.shape is None


def _dtype(type: Type | None) -> str | None:
    return type.dtype if isinstance(type, TensorType) else None


def _small(value: Value | None) -> bool:
    if value is None:
        return True
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        return False
    size = product(value.type.shape)
    return isinstance(size, int) and size <= KNOWN_LIMIT and value.type.dtype != "string"


def infer_operator(
    operator: Operator,
    types: Sequence[Type | None],
    attributes: Mapping[str, Any],
    n_outputs: int = 1,
    constants: Sequence[np.ndarray | None] | None = None,
    fresh: Callable[[str], Dim] | None = None,
) -> list[Type | None]:
    """Output types of one operator outside any graph: what eager code and tests ask."""
    check_inputs(operator, types)
    context = Context(types, operator.complete(attributes), constants=constants, fresh=fresh, n_outputs=n_outputs)
    return operator.infer(context)
