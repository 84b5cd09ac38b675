"""A graph as Python: readable, it runs again with the same numbers, and compiled by jit.script it is the same graph."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from headrace.runtime.canonical import UNNAMED
from headrace.runtime.graph import Block, Graph, Node, Value

INLINE = 16  # whole-number constants up to this size stand in the text
_PAD = "    "


def graph_code(graph: Graph) -> str:
    """`forward(<inputs>, weights)`: one line a node, If as `if`, Loop as `for` or `while`; `weights` maps the names of
    constants to tensors. Outputs that are not called as a tuple's are answered as a dict."""
    printer = _Printer(graph)
    inputs = [printer.name(value) for value in graph.inputs]
    doc = ", ".join(f"{name}: {value.type}" for name, value in zip(inputs, graph.inputs))
    states = "".join(f"; state {state.input} <- {state.output}" for state in graph.states)
    lines = [
        "import headrace as torch",
        "from headrace.jit import operators as F",
        "",
        "",
        f"def forward({', '.join([*inputs, 'weights'])}):",
        f'{_PAD}"""{doc} -> {", ".join(str(value.type) for value in graph.outputs)}{states}"""',
        *printer.block(graph.block, _PAD),
        f"{_PAD}return {printer.results()}",
    ]
    return "\n".join(lines) + "\n"


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._names: dict[Value, str] = {}
        self._used = {"weights", "torch", "F", "forward", "range"}
        self._path = ""
        self._read = {id(v) for n in graph.block.walk() for v in n.inputs}
        self._read |= {id(v) for n in graph.block.walk() for b in n.blocks.values() for v in b.outputs}
        self._read |= {id(v) for v in graph.outputs}

    def name(self, value: Value | None) -> str:
        """The Python text of a value."""
        if value is None:
            return "None"
        array = self.graph.constant_of(value)
        if array is not None:
            return (value.name.startswith(UNNAMED) and _inline(array)) or f"weights[{value.name!r}]"
        if value not in self._names:
            self._names[value] = self._fresh(value.name)
        return self._names[value]

    def _fresh(self, name: str) -> str:
        found = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "x"
        found = "_" + found if found[0].isdigit() or keyword.iskeyword(found) else found
        while found in self._used:
            found += "_"
        self._used.add(found)
        return found

    def results(self) -> str:
        """What the function answers: one value, a tuple, or a dict where the outputs have names of their own."""
        outputs = self.graph.outputs
        names = [value.name for value in outputs]
        if names == (["output"] if len(names) == 1 else [f"output_{i}" for i in range(len(names))]):
            return ", ".join(map(self.name, outputs))
        return "{" + ", ".join(f"{value.name!r}: {self.name(value)}" for value in outputs) + "}"

    # ---------------------------------------------------------------- nodes

    def block(self, block: Block, pad: str) -> Iterator[str]:
        for node in block.nodes:
            if node.path != self._path:
                self._path = node.path
                if node.path:
                    yield f"{pad}# {node.path}"
            if node.kind == "If":
                yield from self._branch(node, pad)
            elif node.kind == "Loop":
                yield from self._loop(node, pad)
            elif node.blocks:
                raise ValueError(f"{node.label()}: blocks of {node.kind} have no form as plain Python")
            else:
                yield pad + self._plain(node)

    def _plain(self, node: Node) -> str:
        arguments = [self.name(value) for value in node.inputs]
        if len(node.outputs) > 1:
            arguments.append(f"outputs={len(node.outputs)}")
        arguments += [f"{key}={_text(value)}" for key, value in sorted(node.attributes.items())]
        call = f"F.{node.operator}" if node.domain in ("", "headrace") else f"F.op({node.domain!r}, {node.operator!r})"
        names = ", ".join("_" if value is None else self.name(value) for value in node.outputs)
        return f"{names} = {call}({', '.join(arguments)})"

    def _assigned(self, targets: Sequence[str], values: Sequence[str], pad: str) -> Iterator[str]:
        if targets:
            yield f"{pad}{', '.join(targets)} = {', '.join(values)}"

    def _branch(self, node: Node, pad: str) -> Iterator[str]:
        wanted = [i for i, value in enumerate(node.outputs) if value is not None]
        targets = [self.name(node.outputs[i]) for i in wanted]
        yield f"{pad}if {self.name(node.inputs[0])}:"
        for key in ("then_branch", "else_branch"):
            block = node.blocks[key]
            if key == "else_branch":
                yield f"{pad}else:"
            inner = [*self.block(block, pad + _PAD)]
            inner += self._assigned(targets, [self.name(block.outputs[i]) for i in wanted], pad + _PAD)
            yield from inner or [f"{pad}{_PAD}pass"]

    # ---------------------------------------------------------------- loops

    def _loop(self, node: Node, pad: str) -> Iterator[str]:
        """`for` where only the number of trips (and a `break`) ends it, `while` where only a condition does."""
        limit, start, *initial = (*node.inputs, None, None)[: max(2, len(node.inputs))]
        body = node.blocks["body"]
        carried = body.inputs[2:]
        scanned = body.outputs[1 + len(carried) :]
        lists = [self._fresh("items") for _ in scanned]
        for name, value in zip(lists, scanned):
            yield f"{pad}{name} = F.SequenceEmpty(dtype={_onnx(value)})"
        names, values = [self.name(v) for v in carried], [self.name(v) for v in initial]
        always = self.graph.constant_of(start) if start is not None else np.array(True)
        if limit is not None and always is not None and bool(always.all()):
            yield from self._assigned(names, values, pad)
            yield from self._counted(self.name(limit), body, lists, pad)
        else:
            yield from self._conditional(limit, start, body, (names, values, lists), pad)
        outputs = [self.name(value) for value in node.outputs[: len(carried)] if value is not None]
        yield from self._assigned(outputs, [n for n, v in zip(names, node.outputs) if v is not None], pad)
        for name, found in zip(lists, node.outputs[len(carried) :]):
            if found is not None:
                yield f"{pad}{self.name(found)} = F.ConcatFromSequence({name}, axis=0, new_axis=1)"

    def _counted(self, limit: str, body: Block, lists: list[str], pad: str) -> Iterator[str]:
        trip, going, *carried = body.inputs
        yield f"{pad}for {self.name(trip)} in range({limit}):"
        inner = pad + _PAD
        if id(trip) in self._read:
            yield f"{inner}{self.name(trip)} = torch.tensor({self.name(trip)})"
        if id(going) in self._read and going is not body.outputs[0]:
            yield f"{inner}{self.name(going)} = torch.tensor(True)"
        yield from self._body(body, lists, inner)
        targets = [self.name(value) for value in carried]
        yield from self._assigned(targets, [self.name(v) for v in body.outputs[1 : 1 + len(carried)]], inner)
        ends = self.graph.constant_of(body.outputs[0])
        if body.outputs[0] is going or (ends is not None and bool(ends.all())):
            if not body.nodes and not targets and not lists:
                yield f"{inner}pass"
        else:
            yield f"{inner}break" if ends is not None else f"{inner}if not {self.name(body.outputs[0])}:"
            if ends is None:
                yield f"{inner}{_PAD}break"

    def _conditional(
        self,
        limit: Value | None,
        start: Value | None,
        body: Block,
        names: tuple[list[str], list[str], list[str]],
        pad: str,
    ) -> Iterator[str]:
        trip, going, *carried = body.inputs
        targets, values, lists = names
        counted = limit is not None or id(trip) in self._read
        targets = [self.name(going), *targets]
        values = [self.name(start) if start is not None else "torch.tensor(True)", *values]
        after = [self.name(value) for value in body.outputs[: 1 + len(carried)]]
        if counted:
            targets, values = [*targets, self.name(trip)], [*values, "torch.tensor(0)"]
            after.append(f"{self.name(trip)} + 1")
        yield from self._assigned(targets, values, pad)
        within = f" and {self.name(trip)} < {self.name(limit)}" if limit is not None else ""
        yield f"{pad}while {self.name(going)}{within}:"
        yield from self._body(body, lists, pad + _PAD)
        yield from self._assigned(targets, after, pad + _PAD)

    def _body(self, body: Block, lists: list[str], pad: str) -> Iterator[str]:
        yield from self.block(body, pad)
        for name, value in zip(lists, body.outputs[len(body.outputs) - len(lists) :]):
            yield f"{pad}{name} = F.SequenceInsert({name}, {self.name(value)})"


def _onnx(value: Value) -> int:
    from headrace.runtime import dtypes

    return dtypes.BY_NAME[getattr(value.type, "dtype", "float32")].onnx


def _inline(array: np.ndarray) -> str:
    """Small constants as text; "" for what stays among the weights."""
    if (
        array.size > INLINE
        or array.ndim > 1
        or not array.size
        or array.dtype.kind not in "iubf"
        or (array.dtype.kind == "f" and array.size > 1)
    ):
        return ""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return ""
    if array.dtype == np.int64 or array.dtype == np.bool_:
        return f"torch.tensor({array.tolist()})"
    text = str(array[()]) if array.dtype.kind == "f" and not array.ndim else array.tolist()
    return f"torch.tensor({text}, dtype=torch.{array.dtype.name})"


def _text(value: Any) -> str:
    """An attribute as Python."""
    if isinstance(value, np.ndarray):
        return f"torch.tensor({value.tolist()}, dtype=torch.{value.dtype.name}).numpy()"
    if isinstance(value, tuple | list):
        return "(" + "".join(f"{_text(item)}, " for item in value).rstrip(" " if len(value) == 1 else ", ") + ")"
    if isinstance(value, float):
        return repr(float(value)) if np.isfinite(value) else f'float("{value}")'
    return repr(value)
