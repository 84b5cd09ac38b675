"""The end of each capture: the graph's answers against those of the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.jit.errors import TraceError
from headrace.jit.exported import Exported
from headrace.runtime.graph import Value
from headrace.runtime.types import TensorType

TOLERANCE = 1e-4  # of the largest magnitude of an output


def compare(exported: Exported, expected: Sequence[np.ndarray]) -> str:
    """One line about the largest deviation on the examples and, where the batch is symbolic, on one row more. TraceError
    naming the output where it is too large."""
    examples = exported.examples
    worst, where = _worst(exported, examples, expected, "the example inputs")
    sizes = "the example"
    if (more := _one_row_more(exported.graph.inputs, examples)) is not None:
        try:
            expected = exported.eager(*more)
        except Exception as error:
            expected, exported.fixed_batch = (), f"{type(error).__name__}: {error}"
        if expected:
            found = _worst(exported, more, expected, "the example inputs with one row more")
            (worst, where), sizes = max((worst, where), found), "the example and one row more"
    nodes = sum(1 for _ in exported.graph.block.walk())
    place = f" in output {where!r}" if worst else ""
    return f"{exported.graph.name}: {nodes} nodes, {len(exported.graph.constants)} constants; on {sizes} within {worst:.2g} of the original's range{place}"


def _worst(
    exported: Exported, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], on: str
) -> tuple[float, str]:
    worst = (0.0, "")
    for value, got, want in zip(exported.graph.outputs, exported.run(*inputs), expected, strict=True):
        error = deviation(got, want)
        if error > TOLERANCE:
            shapes = (
                ""
                if (got.shape, got.dtype) == (want.shape, want.dtype)
                else f" ({got.dtype}{list(got.shape)} against {want.dtype}{list(want.shape)})"
            )
            raise TraceError(
                f"output {value.name!r} of the graph deviates from the original by {error:.2g} of its range{shapes} on {on}; allowed"
                f" are {TOLERANCE:g}. Random numbers, state that outlives a call, and sizes that were turned into plain numbers do"
                " this: pass them as inputs"
            )
        worst = max(worst, (error, value.name))
    return worst


def _one_row_more(inputs: Sequence[Value], examples: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """The examples with their first row once more along the first input's symbolic dimension 0."""
    shapes = [value.type.shape if isinstance(value.type, TensorType) and value.type.shape else () for value in inputs]
    batch = next((shape[0] for shape in shapes if shape and not isinstance(shape[0], int)), None)
    if batch is None or any(shape and shape[0] == batch and not len(array) for shape, array in zip(shapes, examples)):
        return None
    return [np.concatenate([a, a[:1]]) if shape and shape[0] == batch else a for shape, a in zip(shapes, examples)]


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference in units of the largest magnitude wanted; infinite where shapes, dtypes, NaNs or (of whole
    numbers) values differ."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if want.dtype.kind not in "fV":
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differ.any():
        return 0.0
    if not np.isfinite(a[differ]).all() or not np.isfinite(b[differ]).all():
        return float("inf")
    largest = float(np.abs(b[np.isfinite(b)]).max())
    return float(np.abs(a - b)[differ].max()) / max(largest, 1e-6)
