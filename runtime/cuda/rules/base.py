"""What a rule sees of a node, and what it answers: work for the device, or why there is none.

A rule is a function `rule(site) -> Work`, in the table RULES of a module of this folder. It runs once for each plan, with
every size known; it raises NoKernel(reason) for what its kernel does not do, and the node then runs as the CPU's
reference, listed with that reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.cuda.interface import Device
from headrace.runtime.graph import Graph, Node
from headrace.runtime.plan import static_shape
from headrace.runtime.types import TensorType


class NoKernel(Exception):
    """The device has no kernel for this node; the text says why."""


@dataclass
class Bound:
    """Addresses of one node in one plan: what `Work.emit` calls kernels with. An absent input is 0."""

    device: Device  # a Recorder: launches are written down
    inputs: Sequence[int]
    outputs: Sequence[int]
    scratch: int
    status: int  # an int32 that is 0 before each call; kernels set it where `Work.failure` happened
    constant: Callable[[np.ndarray], int]  # uploads once
    blas: Any = None  # lt.Lt, or None on a device without cuBLASLt


@dataclass
class Work:
    """`emit` enqueues the kernels; `kernel` is what listings call them; `scratch` is what it needs
    while it runs, in bytes; `in_place` are inputs whose memory output 0 may take over; `failure` says what was wrong with the
    data where a kernel reports it in `Bound.status`."""

    kernel: str
    emit: Callable[[Bound], None]
    scratch: int = 0
    in_place: tuple[int, ...] = ()
    failure: str = ""


class Site:
    """One node with its sizes, dtypes, constants and complete attributes."""

    def __init__(
        self, node: Node, graph: Graph, attributes: Mapping[str, Any], derive: Callable[..., Any], blas: bool
    ) -> None:
        self.node, self.attributes, self.blas = node, attributes, blas
        self._graph, self._derive = graph, derive

    @property
    def kind(self) -> str:
        return self.node.kind

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def dtype(self, index: int = 0) -> str:
        """The element type of an input; "" where it is absent or no tensor."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return value.type.dtype if value is not None and isinstance(value.type, TensorType) else ""

    def shape(self, index: int = 0) -> tuple[int, ...]:
        value = self.node.inputs[index]
        found = static_shape(value) if value is not None else None
        if found is None:
            raise NoKernel(f"the size of input {index} depends on data")
        return found

    def size(self, index: int = 0) -> int:
        return math.prod(self.shape(index))

    def out_dtype(self, index: int = 0) -> str:
        value = self.node.outputs[index]
        return value.type.dtype if value is not None and isinstance(value.type, TensorType) else ""

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        value = self.node.outputs[index]
        found = static_shape(value) if value is not None else None
        if found is None:
            raise NoKernel(f"the size of output {index} depends on data")
        return found

    def constant(self, index: int) -> np.ndarray | None:
        """The array of a constant input."""
        return self._graph.constant_of(self.node.inputs[index]) if self.has(index) else None

    def fixed(self, index: int) -> np.ndarray:
        """The array of an input that must be constant."""
        array = self.constant(index)
        if array is None:
            raise NoKernel(f"input {index} is not a constant")
        return array

    def derived(self, what: str, sources: Sequence[np.ndarray], make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made from constants, made once for the model: `what` names the way."""
        found: np.ndarray = self._derive(what, sources, make)
        return found

    def need(self, condition: bool, reason: str) -> None:
        """Raise NoKernel unless `condition`."""
        if not condition:
            raise NoKernel(reason)

    def need_dtypes(self, allowed: Sequence[str], *indices: int) -> None:
        for index in indices:
            if self.has(index) and self.dtype(index) not in allowed:
                raise NoKernel(f"input {index} is {self.dtype(index)}; kernels take {', '.join(allowed)}")


Rule = Callable[[Site], Work]
