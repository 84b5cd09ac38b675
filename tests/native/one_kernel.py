"""Runs one native kernel: a program of a single node, without graph, passes or fallback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import _native, dtypes
from headrace.runtime.errors import RunError
from headrace.runtime.lower import capabilities

TIERS = ("baseline", "avx2", "avx512_vnni", "avx512_bf16")


def tiers() -> list[str]:
    """The tiers that this build can run on this CPU, lowest first."""
    return list(TIERS[: TIERS.index(next(iter(capabilities() & set(TIERS)))) + 1])


def program(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("float32",),
    *,
    constants: Sequence[int] = (),
    threads: int = 1,
    version: int = 28,
) -> Any:
    """A program with the node `op`; inputs named by their index, those in `constants` packed ahead."""
    made = _native.Program(threads, RunError)
    reads = []
    for index, array in enumerate(inputs):
        if array is None:
            reads.append(-1)
        elif index in constants:
            reads.append(made.add_constant(array, dtypes.of(array).onnx))
        else:
            reads.append(made.add_input(str(index), dtypes.of(array).onnx, None))
    writes = [made.add_value(dtypes.BY_NAME[name].onnx) if name else -1 for name in outputs]
    made.add_node(op, op, dict(attributes or {}), reads, writes, version, True)
    if made.finish():
        raise LookupError(f"no native kernel for {op}")
    for index, value in enumerate(writes):
        if value >= 0:
            made.add_output(str(index), value)
    return made


def run(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("float32",),
    **options: Any,
) -> Any:
    """The outputs of `op` (the array itself where there is one)."""
    constants = options.get("constants", ())
    made = program(op, inputs, attributes, outputs, **options)
    feeds = {str(i): a for i, a in enumerate(inputs) if a is not None and i not in constants}
    results = made.run(feeds)
    values = [results[str(i)] for i, name in enumerate(outputs) if name]
    return values[0] if len(values) == 1 else values
