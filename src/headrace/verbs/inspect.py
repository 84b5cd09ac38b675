"""inspect: what a model file holds, without running it."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.runtime.graph import Graph
from headrace.runtime.model import load
from headrace.runtime.rows import prove_rows
from headrace.runtime.source import open_source
from headrace.runtime.types import TensorType


def inspect(
    path: str | Path,
    *,
    graph: bool = False,
    code: bool = False,
    optimized: bool = False,
    kernels: bool = False,
    passes: bool = False,
    memory: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
    without: Sequence[str] = (),
    precision: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Facts of a `.hr` or `.onnx` file as plain data.

    Keys: path, format, bytes, parameters, inputs, outputs (name, dtype, shape as text), operators (name -> count),
    rows (independent, reason), properties, members (`.hr` only: name, size, sha256), golden (number of cases), entries
    (entry point -> inputs, outputs, states, hash); with `graph` the text of the main entry point, after the portable passes
    where `optimized`; with `code` the same as Python that runs under headrace; with `kernels` what runs each node
    on `device` (operator, node, kernel, reason; on the CPU the kernel's variant, "blocks" for If, Loop and Scan; "reference" with
    the reason where there is none), and `device` and `device_reason`; with `passes` what each pass did (name, portable, count of
    nodes that went or changed, did), those of `without` left out, with products in `precision`; with `memory` the bytes of the model and of one
    call (runtime/memory.py) with inputs of `shapes`, else `batch` rows.

    Raises LoadError where the file is damaged or not a model.
    """
    path = Path(path)
    opened = open_source(path)
    main = opened.program.main
    if optimized:
        from headrace.runtime.passes import optimize

        main = optimize(main, skip=without)
    rows = prove_rows(main)
    facts: dict[str, Any] = {
        "path": str(path),
        "format": "headrace archive" if path.suffix == ".hr" else "ONNX",
        "bytes": path.stat().st_size,
        "parameters": sum(array.size for array in main.constants.values() if array.dtype.kind in "fiV"),
        "inputs": [_spec(value) for value in main.inputs],
        "outputs": [_spec(value) for value in main.outputs],
        "operators": _operators(main),
        "rows": {"independent": rows.independent, "reason": rows.reason},
        "properties": dict(opened.properties),
        "golden": len(opened.golden.inputs) if opened.golden else 0,
        "entries": {name: _entry(entry) for name, entry in opened.program.entries.items()},
        "hash": main.hash(),
    }
    if path.suffix == ".hr":
        from headrace.serializer import archive

        facts["members"] = [{"name": name, **member} for name, member in archive.inspect(path)["members"].items()]
    if passes:
        facts["passes"] = _passes(opened.program.main, without, precision)
    if memory:
        with load(path, device="cpu", without=without, precision=precision) as model:
            facts["memory"] = model.memory(shapes, batch=batch)
    if kernels:
        with load(path, device=device, without=without, precision=precision) as model:
            facts["kernels"] = model.kernels()
            facts |= {key: model.properties.get(key, "") for key in ("device", "device_reason")}
    if graph:
        facts["graph"] = str(main)
    if code:
        from headrace.jit.code import graph_code

        facts["code"] = graph_code(main)
    return facts


def _passes(graph: Graph, without: Sequence[str], precision: str | None) -> list[dict[str, Any]]:
    """What every pass does to the graph on its way to a native program, in the order in which they first run."""
    from headrace.runtime.lower import lower
    from headrace.runtime.passes import names, optimize
    from headrace.runtime.passes.report import Watch

    watch = Watch()
    lower(optimize(graph, skip=without, watch=watch), precision=precision, without=without, watch=watch)
    seen = [{"name": r.name, "portable": r.portable, "count": r.count, "did": str(r)} for r in watch.rewrites.values()]
    left_out = [{"name": name, "portable": None, "count": 0, "did": "left out"} for name in names() if name in without]
    return seen + left_out


def _entry(graph: Graph) -> dict[str, Any]:
    """One entry point; states are inputs and outputs as well."""
    return {
        "inputs": [_spec(value) for value in graph.inputs],
        "outputs": [_spec(value) for value in graph.outputs],
        "states": [{"input": state.input, "output": state.output} for state in graph.states],
        "hash": graph.hash(),
    }


def _spec(value: Any) -> dict[str, str]:
    kind = value.type
    if isinstance(kind, TensorType):
        shape = "?" if kind.shape is None else "[" + ", ".join(map(str, kind.shape)) + "]"
        return {"name": value.name, "dtype": kind.dtype, "shape": shape}
    return {"name": value.name, "dtype": str(kind), "shape": ""}


def _operators(graph: Graph) -> dict[str, int]:
    counts = collections.Counter(node.kind for node in graph.block.walk())
    return dict(counts.most_common())
