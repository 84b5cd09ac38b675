"""What a model says of itself, apart from its graph: kept with its program, so that the next start need not read the graph for it."""

from __future__ import annotations

import collections
import json
from dataclasses import asdict, dataclass
from typing import Any

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph
from headrace.runtime.interface import Opened, TensorSpec
from headrace.runtime.type_text import read_type
from headrace.runtime.types import TensorType


@dataclass(frozen=True)
class Facts:
    """Of one entry point of a file: its name and those of all, its interface, whether it has states, the element type that most
    of its weights have ("": it has none), the file's free properties, whether it has golden data, and what a walk over the graph
    found out (Learnt.encode; None: nobody walked)."""

    entry: str
    entries: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stateful: bool
    precision: str
    properties: dict[str, str]
    golden: bool
    learnt: dict[str, Any] | None = None

    @staticmethod
    def of(opened: Opened, entry: str) -> Facts:
        """`entry`: its name, or "" for the main one."""
        entry = entry or opened.main
        graph = opened.runs(entry)
        interface = opened.optimized.get(entry)
        if interface is None:
            inputs, outputs = (tuple(map(TensorSpec.of, side)) for side in (graph.inputs, graph.outputs))
        else:
            inputs, outputs = interface.inputs, interface.outputs
        stateful, properties = bool(graph.states), dict(opened.properties)
        golden = opened.golden is not None
        return Facts(entry, opened.entries, inputs, outputs, stateful, _precision(graph), properties, golden)

    def encode(self) -> bytes:
        sides = {key: [[spec.name, str(spec.type)] for spec in getattr(self, key)] for key in ("inputs", "outputs")}
        return json.dumps({**asdict(self), **sides}).encode()

    @staticmethod
    def decode(data: bytes) -> Facts:
        """What `encode` wrote. Raises ValueError where it is something else."""
        try:
            said: dict[str, Any] = json.loads(data)
            sides = {key: tuple(_spec(*row) for row in said[key]) for key in ("inputs", "outputs")}
            return Facts(**{**said, **sides, "entries": tuple(said["entries"])})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"what a model says of itself does not parse: {error}") from None


def _spec(name: str, text: str) -> TensorSpec:
    type = read_type(text)
    return (
        TensorSpec(name, type.dtype, type.shape, type)
        if isinstance(type, TensorType)
        else TensorSpec(name, text, None, type)
    )


def _precision(graph: Graph) -> str:
    """The element type that most weights have; of a graph without weights that of its first input that is no text."""
    sizes: collections.Counter[str] = collections.Counter()
    for array in graph.constants.values():
        sizes[dtypes.of(array).name] += array.size
    kinds = [kind for kind, _ in sizes.most_common(1)] or [spec.dtype for spec in map(TensorSpec.of, graph.inputs)]
    return next((kind for kind in kinds if kind != "string"), "")
