"""Where each node of a specialised graph runs, and why: device work, a view, or the CPU's reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.runtime.cuda.arena import ALIGNMENT
from headrace.runtime.cuda.graphs import Recorder
from headrace.runtime.cuda.rules import rules
from headrace.runtime.cuda.rules.base import Bound, NoKernel, Site, Work
from headrace.runtime.errors import RunError
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.scope import reads
from headrace.runtime.plan import byte_size, static_shape
from headrace.runtime.types import TensorType


@dataclass
class OnDevice:
    """Kernels for one node."""

    node: Node
    work: Work


@dataclass
class OnHost:
    """A node that the reference runs, and why no kernel does."""

    node: Node
    reason: str


@dataclass
class Upload:
    """A host value's bytes go to its place on the device."""

    value: Value


@dataclass
class Download:
    """A device value's bytes come to the host, because the next host step or the caller reads them."""

    value: Value


EMPTY = "an input is empty"
Step = OnDevice | OnHost | Upload | Download


@dataclass
class Placement:
    """The steps in order. `uploads` are the graph inputs that the device reads, copied before the first step."""

    steps: list[Step] = field(default_factory=list)
    uploads: list[Value] = field(default_factory=list)
    views: dict[Value, Value] = field(default_factory=dict)
    on_device: set[Value] = field(default_factory=set)
    on_host: set[Value] = field(default_factory=set)

    @property
    def fallbacks(self) -> list[OnHost]:
        return [step for step in self.steps if isinstance(step, OnHost)]


def place(graph: Graph, derive: Callable[..., Any], blas: bool) -> Placement:
    """Decide for every node. Values are copied where they are needed, once each way."""
    walk = _Walk(graph, derive, blas)
    for node in graph.nodes:
        walk.node(node)
    for value in graph.outputs:
        walk.to_host(value)
    return walk.placement


class _Walk:
    def __init__(self, graph: Graph, derive: Callable[..., Any], blas: bool) -> None:
        self.graph, self.derive, self.blas = graph, derive, blas
        self.inputs = set(graph.inputs)
        self.placement = Placement(on_host=set(graph.inputs))

    def node(self, node: Node) -> None:
        at = self.placement
        if self.is_view(node):
            made, source = node.outputs[0], node.inputs[0]
            assert made is not None and source is not None
            self.to_device(source)
            at.views[made] = source
            at.on_device.add(made)
            return
        work = self.work(node)
        if isinstance(work, Work):
            for value in reads(node):
                self.to_device(value)
            at.steps.append(OnDevice(node, work))
            at.on_device.update(value for value in node.outputs if value is not None)
            return
        for value in reads(node):
            self.to_host(value)
        at.steps.append(OnHost(node, work))
        at.on_host.update(value for value in node.outputs if value is not None)

    def is_view(self, node: Node) -> bool:
        """A view of something that is, or may as well be, on the device."""
        operator = find(node.operator, node.domain)
        source = node.inputs[0] if node.inputs else None
        if operator is None or not operator.view or source is None or len(node.outputs) != 1 or node.outputs[0] is None:
            return False
        if self.graph.constant_of(source) is not None or static_shape(node.outputs[0]) is None:
            return False
        if not isinstance(source.type, TensorType) or source.type.dtype == "string":
            return False
        return source in self.placement.on_device or source in self.inputs

    def work(self, node: Node) -> Work | str:
        """Kernels for the node, or why there are none."""
        rule = rules().get(node.kind)
        if rule is None:
            operator = find(node.operator, node.domain)
            return "its input is on the CPU" if operator is not None and operator.view else "no CUDA kernel"
        values = [value for value in (*reads(node), *node.outputs) if value is not None]
        if any(not isinstance(value.type, TensorType) or value.type.dtype == "string" for value in values):
            return "no tensor of numbers"
        if any(static_shape(value) is None for value in values):
            return "sizes depend on data"
        if all(value is None or not byte_size(value) for value in node.outputs):
            return Work("nothing", lambda bound: None)
        if any(not byte_size(value) for value in reads(node) if self.graph.constant_of(value) is None):
            return EMPTY
        operator = find(node.operator, node.domain) or find(node.operator, "headrace") or find(node.operator)
        attributes = operator.complete(node.attributes) if operator is not None else node.attributes
        try:
            work = rule(Site(node, self.graph, attributes, self.derive, self.blas))
            _rehearse(node, work)
        except NoKernel as none:
            return str(none)
        return work

    def to_device(self, value: Value) -> None:
        at = self.placement
        if value in at.on_device or self.graph.constant_of(value) is not None:
            return
        if value not in at.on_host:
            raise RunError(f"value %{value.name} is read before anything computes it")
        if value in self.inputs:
            at.uploads.append(value)
        else:
            at.steps.append(Upload(value))
        at.on_device.add(value)

    def to_host(self, value: Value) -> None:
        at = self.placement
        if value not in at.on_host and self.graph.constant_of(value) is None:
            at.steps.append(Download(value))
            at.on_host.add(value)


class _NoLibrary:
    """In the place of lt.Lt: plans nothing."""

    @staticmethod
    def plan(*operands: Any) -> Callable[[int], None]:
        return lambda stream: None


def _rehearse(node: Node, work: Work) -> None:
    """Emit once for made-up addresses: what launch functions refuse (a ValueError) is no kernel either."""
    addresses = [ALIGNMENT * (1 + i) if value is not None else 0 for i, value in enumerate(node.inputs)]
    results = [ALIGNMENT * (100 + i) if value is not None else 0 for i, value in enumerate(node.outputs)]
    nowhere = Recorder("rehearsal")
    try:
        work.emit(Bound(nowhere, addresses, results, ALIGNMENT, ALIGNMENT, lambda array: ALIGNMENT, _NoLibrary))
    except ValueError as error:
        raise NoKernel(str(error)) from error


def listing(steps: Sequence[Step]) -> list[dict[str, str]]:
    """One row a node: operator, node, kernel, and why there is none."""
    rows = []
    for step in steps:
        if isinstance(step, OnDevice | OnHost):
            kernel = step.work.kernel if isinstance(step, OnDevice) else "reference"
            reason = step.reason if isinstance(step, OnHost) else ""
            rows.append({"operator": step.node.kind, "node": step.node.label(), "kernel": kernel, "reason": reason})
    return rows
