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
    recipe = _native.Recipe()
    given = [index for index, array in enumerate(inputs) if array is not None and index not in constants]
    fixed = [index for index, array in enumerate(inputs) if array is not None and index in constants]
    place = {index: value for value, index in enumerate([*given, *fixed])}
    codes = [dtypes.of(inputs[index]).onnx for index in place]  # type: ignore[arg-type]
    numbers = [*[-1] * len(given), *(recipe.add_constant(inputs[i], codes[place[i]]) for i in fixed)]
    wanted = [dtypes.BY_NAME[name].onnx for name in outputs if name]
    values = iter(range(len(place), len(place) + len(wanted)))
    writes = [next(values) if name else -1 for name in outputs]
    reads = [place.get(index, -1) for index in range(len(inputs))]
    recipe.add_block(
        [*codes, *wanted],
        [*numbers, *[-1] * len(wanted)],
        [(str(index), None) for index in given],
        [(op, op, dict(attributes or {}), reads, writes, version, True, [], [])],
        [(str(index), value) for index, value in enumerate(writes) if value >= 0],
    )
    (made,) = recipe.build(threads, RunError)
    if made.finish():
        raise LookupError(f"no native kernel for {op}")
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
