"""inspect: what a model file holds, without running it."""

from __future__ import annotations

import collections
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
    device: str = "cpu",
) -> dict[str, Any]:
    """Facts of a `.hr` or `.onnx` file as plain data.

    Keys: path, format, bytes, parameters, inputs, outputs (name, dtype, shape as text), operators (name -> count),
    rows (independent, reason), properties, members (`.hr` only: name, size, sha256), golden (number of cases), entries
    (entry point -> inputs, outputs, states, hash); with `graph` the text of the main entry point, after the portable passes
    where `optimized`; with `code` the same as Python that runs under headrace; with `kernels` what runs each node
    on `device` (operator, node, kernel, reason; on the CPU the kernel's variant, "blocks" for If, Loop and Scan; "reference" with
    the reason where there is none), and `device` and `device_reason`.

    Raises LoadError where the file is damaged or not a model.
    """
    path = Path(path)
    opened = open_source(path)
    main = opened.program.main
    if optimized:
        from headrace.runtime.passes import optimize

        main = optimize(main)
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
    if kernels:
        with load(path, device=device) as model:
            facts["kernels"] = model.kernels()
            facts |= {key: model.properties.get(key, "") for key in ("device", "device_reason")}
    if graph:
        facts["graph"] = str(main)
    if code:
        from headrace.jit.code import graph_code

        facts["code"] = graph_code(main)
    return facts


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
