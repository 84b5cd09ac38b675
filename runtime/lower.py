"""From a graph to a native program: machine passes, then node by node a native kernel, or a callback to the reference.

Only element types must be known; shapes may be symbolic or unknown. The blocks of If, Loop and Scan are native programs
of their own, which the executor runs: what a block reads from outside becomes extra inputs. Where a block changes the
kind of a value (a tensor on one side, an optional on the other), or scans what is no tensor, the node is a callback too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import headrace.runtime._native as _native
from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, LoadError, RunError, UnsupportedOperator
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator
from headrace.runtime.ops.control import MAX_SCANNED, MAX_TRIPS, known_sizes
from headrace.runtime.shapes import Expr
from headrace.runtime.types import TensorType, Type

if TYPE_CHECKING:
    from headrace.runtime.passes.report import Watch

_native.set_dtypes({row.onnx: row.numpy for row in dtypes.TABLE})

OBJECT = 0  # the element type code of a value that is a Python object


class Lowered(NamedTuple):
    """A program, and the recipe that it was made of where no node of it needs Python: that can be kept."""

    program: _native.Program
    recipe: _native.Recipe | None


def lower(graph: Graph, threads: int = 0, **options: Any) -> _native.Program:
    """The program that runs `graph`; `options` are those of `lowered`, which says what is raised."""
    return lowered(graph, threads, **options).program


def lowered(
    graph: Graph,
    threads: int = 0,
    *,
    machine: bool = True,
    precision: str | None = None,
    without: Collection[str] = (),
    watch: Watch | None = None,
    packing: _native.Packing | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Lowered:
    """The program that runs `graph`. threads=0: what the process may use; machine=False leaves the machine passes out,
    `without` those that it names, and `watch` is told of the others (passes/report.py);
    precision="bf16" allows products of rounded factors where the CPU has them; `packing` has constants that kernels need not
    pack, or takes them; `meanwhile` is called while a thread makes kernels.

    Raises LoadError for a bad HEADRACE_CPU_TIER, UnsupportedOperator listing every operator that does not exist here.
    """
    if any(value is not None and value.type is None for node in graph.block.walk() for value in node.outputs):
        from headrace.runtime.infer import infer_graph

        infer_graph(graph)
    caps = capabilities()
    if machine:
        from headrace.runtime.passes import machine as passes

        graph = passes.run(graph, caps, precision, skip=without, watch=watch)
    missing = sorted({node.kind for node in graph.block.walk() if not _exists(node)})
    if missing:
        raise UnsupportedOperator("headrace has no operator " + ", ".join(missing))
    lowering = _Lowering(graph)
    lowering.block(graph.block, graph.inputs, named=True)
    programs = lowering.recipe.build(threads, RunError, packing)
    meanwhile()
    plain = lowering.finish(programs)
    _native.release_idle(programs[-1].packed_bytes)  # what packing needed for a while
    return Lowered(programs[-1], lowering.recipe if plain else None)


def made_again(recipe: _native.Recipe, threads: int, packing: _native.Packing) -> _native.Program:
    """The program of a recipe that was kept. ValueError where a node has no kernel now."""
    programs = recipe.build(threads, RunError, packing)
    missing = [program.finish() for program in programs]
    if any(missing):
        raise ValueError("a node has no kernel")
    _native.release_idle(programs[-1].packed_bytes)
    return programs[-1]


def capabilities() -> frozenset[str]:
    """What machine passes may rely on: the operators with native kernels, and the CPU's tier."""
    try:
        return _capabilities(_native.cpu_tier())
    except ValueError as error:
        raise LoadError(str(error)) from error


@cache
def _capabilities(tier: str) -> frozenset[str]:
    return frozenset(_native.kernels()) | {tier}


def _exists(node: Node) -> bool:
    return node.domain == "headrace.cpu" or find(node.operator, node.domain) is not None


def code_of(type: Type | None) -> int:
    """The element type code of a value of this type; OBJECT for what is no tensor."""
    return dtypes.BY_NAME[type.dtype].onnx if isinstance(type, TensorType) else OBJECT


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes that kernels read: numbers, texts, tuples of them, and tensors of one element as a number. None
    where one says more than that (a block, a larger tensor): such a node has no kernel."""
    plain: dict[str, Any] = {}
    for key, value in attributes.items():
        if isinstance(value, np.ndarray):
            if value.size != 1 or value.dtype.kind == "O":
                return None
            number = value.reshape(()).item()
            plain[key] = number if isinstance(number, int) else float(number)
        elif isinstance(value, Block):
            return None
        elif isinstance(value, bool | int | float | str | bytes | tuple | list | np.generic):
            plain[key] = value.item() if isinstance(value, np.generic) else value
    return plain


def _said(operator: Operator | None, attributes: Mapping[str, Any]) -> list[str]:
    """The attributes that say something else than their default: a kernel must know them."""
    defaults = {} if operator is None else operator.attribute_defaults
    return [
        key
        for key, value in attributes.items()
        if value is not None and (isinstance(value, np.ndarray) or value != defaults.get(key))
    ]


@dataclass
class _Node:
    """A node, and its blocks, each with its number in the recipe and the places of what it captures."""

    node: Node
    operator: Operator | None
    attributes: Mapping[str, Any]
    blocks: Sequence[tuple[Block, int, list[int]]]

    def callback(self, programs: Sequence[_native.Program]) -> Callable[[list[Any]], list[Any]]:
        """The reference, for a node without a kernel. Raises LoadError where there is none either."""
        if self.operator is None:
            raise LoadError(f"{self.node.label()}: this CPU has no kernel for it")
        blocks = [(block, programs[number], places) for block, number, places in self.blocks]
        return _callback(self.operator, self.attributes, self.node, _runner(blocks) if blocks else None)


class _Values:
    """The values of one program by number, inputs first."""

    def __init__(self) -> None:
        self.numbers: dict[Value, int] = {}
        self.dtypes: list[int] = []
        self.constants: list[int] = []

    def add(self, value: Value, dtype: int, constant: int = -1) -> int:
        number = self.numbers[value] = len(self.dtypes)
        self.dtypes.append(dtype)
        self.constants.append(constant)
        return number


class _Lowering:
    """Writes the recipe of one graph. Its constants are constants of each program that reads them."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.recipe = graph, _native.Recipe()
        self.nodes: list[list[_Node]] = []  # of each program
        self.constants: dict[Value, int] = {}

    def block(self, block: Block, inputs: Sequence[Value], *, named: bool = False) -> int:
        """The number of a program that computes the block's outputs from `inputs`; those of its own blocks come before it.
        Without names dimensions are not checked."""
        values, symbols = _Values(), dict[str, int]()
        nodes: list[_Node] = []
        steps: list[_native.Step] = []
        for value in inputs:
            values.add(value, code_of(value.type))
        for node in block.nodes:
            steps.append(self._step(node, values, nodes))
        outputs = [(value.name, self._read(value, values)) for value in block.outputs]
        names = [
            (value.name if named else str(index), _dims(value.type, symbols) if named else None)
            for index, value in enumerate(inputs)
        ]
        self.nodes.append(nodes)
        return self.recipe.add_block(values.dtypes, values.constants, names, steps, outputs)

    def finish(self, programs: Sequence[_native.Program]) -> bool:
        """Kernels are made, and what has none gets its reference: whether nothing did. LoadError where there is neither, or a
        kernel fails."""
        plain = self.recipe.plain
        for program, nodes in zip(programs, self.nodes):
            try:
                without = program.finish()
            except ValueError as error:
                raise LoadError(str(error)) from error
            for index in without:
                program.set_callback(index, nodes[index].callback(programs))
            plain = plain and not without
        return plain

    def _read(self, value: Value | None, values: _Values) -> int:
        if value is None:
            return -1
        number = values.numbers.get(value)
        return self._constant(value, values) if number is None else number

    def _constant(self, value: Value, values: _Values) -> int:
        array = self.graph.constant_of(value)
        if array is None:
            raise GraphError(f"value %{value.name} is read before anything computes it")
        code = OBJECT if dtypes.of(array).name == "string" else code_of(value.type)
        if value not in self.constants:
            self.constants[value] = self.recipe.add_constant(array, code)
        return values.add(value, code, self.constants[value])

    def _step(self, node: Node, values: _Values, nodes: list[_Node]) -> _native.Step:
        operator = find(node.operator, node.domain)
        attributes = operator.complete(node.attributes) if operator is not None else dict(node.attributes)
        inputs = [*node.inputs, *([None] * (2 - len(node.inputs)) if node.kind == "Loop" else [])]
        blocks, outer = self._blocks(node, len(inputs)) if node.blocks else ([], [])
        reads = [self._read(value, values) for value in [*inputs, *outer]]
        writes = [-1 if value is None else values.add(value, code_of(value.type)) for value in node.outputs]
        nodes.append(_Node(node, operator, attributes, blocks))
        if blocks and (plain := _control_attributes(node, attributes)) is not None:
            inner = [(number, places) for _, number, places in blocks]
            return node.kind, node.label(), plain, reads, writes, node.version, True, [], inner
        pure = all(inner.deterministic for inner in _operators(node))
        given = plain_attributes(attributes)
        return node.kind, node.label(), given, reads, writes, node.version, pure, _said(operator, attributes), []

    def _blocks(self, node: Node, own: int) -> tuple[list[tuple[Block, int, list[int]]], list[Value]]:
        """The blocks of a node that has `own` inputs, each with its number and the places of what it captures; and what follows
        those inputs for that: what any of them captures."""
        captured = {id(block): self._captured(block) for block in node.blocks.values()}
        outer = list(dict.fromkeys(value for values in captured.values() for value in values))
        place = {value: own + index for index, value in enumerate(outer)}
        blocks = [
            (block, self.block(block, [*block.inputs, *captured[id(block)]]), [place[v] for v in captured[id(block)]])
            for _, block in sorted(node.blocks.items(), reverse=True)  # then_branch, else_branch
        ]
        return blocks, outer

    def _captured(self, block: Block) -> list[Value]:
        """What a block reads from outside, constants aside: those belong to every program that reads them."""
        return [value for value in block.captured() if self.graph.constant_of(value) is None]


def _control_attributes(node: Node, attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the native executor must know of an If, Loop or Scan beside its blocks; None where it cannot run the node."""
    if node.domain or node.operator not in ("If", "Loop", "Scan"):
        return None
    outputs = [0 if value is None else code_of(value.type) for value in node.outputs]
    if node.operator == "If":
        codes = [[code_of(value.type) for value in block.outputs] for block in node.blocks.values()]
        wanted = [index for index, value in enumerate(node.outputs) if value is not None]
        return {} if all(code[index] == outputs[index] for code in codes for index in wanted) else None
    body: Block = attributes["body"]
    plain = {key: value for key, value in attributes.items() if key != "body" and value is not None}
    head_in, head_out = (2, 1) if node.operator == "Loop" else (0, 0)
    carried = len(body.inputs) - head_in - int(plain.get("num_scan_inputs", 0))
    given = [OBJECT if value is None else code_of(value.type) for value in node.inputs[head_in:]]
    inner = [code_of(value.type) for value in body.inputs[head_in:]]
    results = [code_of(value.type) for value in body.outputs[head_out:]]
    scanned = body.outputs[head_out + carried :]
    if (
        given != inner
        or results[:carried] != inner[:carried]
        or OBJECT in inner[carried:]
        or OBJECT in results[carried:]
    ):
        return None
    if any(
        value is not None and code != outputs[index] for index, (value, code) in enumerate(zip(node.outputs, results))
    ):
        return None
    for index, value in enumerate(scanned):
        if isinstance(value.type, TensorType):
            plain[f"scanned_{index}"] = tuple(known_sizes(value.type))
    return {**plain, "max_trips": MAX_TRIPS, "max_bytes": MAX_SCANNED}


def _runner(blocks: Sequence[tuple[Block, _native.Program, list[int]]]) -> Callable[[Sequence[Any]], Any]:
    """What makes `run_block` of a callback from the inputs of one call, captured values included."""
    programs = {id(block): (program, places) for block, program, places in blocks}

    def bind(values: Sequence[Any]) -> Callable[[Block, Sequence[Any]], list[Any]]:
        def run_block(block: Block, inputs: Sequence[Any]) -> list[Any]:
            program, places = programs[id(block)]
            feeds = [_as_declared(value, given) for value, given in zip(block.inputs, inputs)]
            results: list[Any] | None = program.run_list([*feeds, *(values[place] for place in places)])
            if results is None:
                given = ", ".join(str(getattr(feed, "dtype", type(feed).__name__)) for feed in feeds)
                raise RunError(f"a block takes ({', '.join(map(repr, block.inputs))}); given: {given}")
            return results

        return run_block

    return bind


def _operators(node: Node) -> list[Operator]:
    """The operators of a node and of its blocks."""
    nodes = [node, *(inner for block in node.blocks.values() for inner in block.walk())]
    return [operator for inner in nodes if (operator := find(inner.operator, inner.domain)) is not None]


def _callback(
    operator: Operator, attributes: Mapping[str, Any], node: Node, bind: Any
) -> Callable[[list[Any]], list[Any]]:
    """The reference as a callback of the native executor."""
    n_inputs, n_outputs, label = len(node.inputs), len(node.outputs), node.label()

    def call(inputs: list[Any]) -> list[Any]:
        try:
            run_block = None if bind is None else bind(inputs)
            with np.errstate(all="ignore"):
                return list(operator.reference(inputs[:n_inputs], attributes, n_outputs, run_block))
        except RunError as error:
            text = str(error)
            raise (error if text.startswith("node ") else RunError(f"{label}: {text}")) from error
        except Exception as error:
            raise RunError(f"{label}: {error or type(error).__name__}") from error

    return call


def _as_declared(value: Value, given: Any) -> Any:
    """A block's input as an array of its declared type: operators hand over Python numbers as well."""
    if isinstance(value.type, TensorType) and value.type.dtype != "string":
        return np.asarray(given, dtypes.BY_NAME[value.type.dtype].numpy)
    return given


def _dims(type: Type | None, symbols: dict[str, int]) -> list[int] | None:
    """How the program checks an input's shape: a size, -1 (free), -2 - k (symbol k); None: any rank."""
    if not isinstance(type, TensorType) or type.shape is None:
        return None
    dims = []
    for dim in type.shape:
        if isinstance(dim, Expr):
            dims.append(-1 if dim.name is None else -2 - symbols.setdefault(dim.name, len(symbols)))
        else:
            dims.append(dim)
    return dims
