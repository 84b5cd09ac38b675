"""One-node graphs from the operators' own samples, and how near results must come."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.ops.base import Operator, Sample
from headrace.runtime.types import TensorType


def sample_graph(operator: Operator, sample: Sample, constant: set[int]) -> tuple[Graph, dict[str, Any]]:
    """A graph of one node, and its feeds; inputs whose index is in `constant` are constants. Dimensions are free."""
    graph, feeds, inputs = Graph(Block([], [], [])), {}, []
    for index, array in enumerate(sample.inputs):
        if array is None:
            inputs.append(None)
            continue
        array = np.asarray(array)
        if index in constant:
            inputs.append(graph.constant(f"c{index}", array))
            continue
        value = Value(f"x{index}", TensorType(dtypes.of(array).name, array.shape))
        graph.block.inputs.append(value)
        inputs.append(value)
        feeds[value.name] = array
    count = sample.outputs or sum(not out.optional for out in operator.outputs)
    outputs = Builder(graph).node(operator.name, inputs, sample.attributes, domain=operator.domain, outputs=count)
    graph.outputs.extend(outputs)
    return graph, feeds


def assert_near(found: Any, wanted: Any, ulp: float, where: str, least: float = 0.0) -> None:
    """Equal dtype and shape; values within `ulp` units in the last place of the largest of |wanted|, the typical size and
    `least` (Accuracy.scale)."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.dtype == wanted.dtype, where
    assert found.shape == wanted.shape, where
    if dtypes.of(wanted).kind not in "f" or ulp == 0:
        same = (
            np.array_equal(found, wanted)
            if wanted.dtype.kind in "biuO"
            else np.array_equal(found.astype("f8"), wanted.astype("f8"), equal_nan=True)
        )
        assert same, f"{where}: {found} != {wanted}"
        return
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    assert np.array_equal(a[~finite], b[~finite], equal_nan=True), f"{where}: {a[~finite]} != {b[~finite]}"
    if not finite.any():
        return
    info = dtypes.of(wanted)
    eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(info.name, 2.0**-3)
    tiny = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}.get(
        info.name, 2.0**-6
    )
    a, b = a[finite], b[finite]
    scale = np.maximum(
        np.maximum(np.abs(b), np.abs(b[np.abs(b) < 1e6]).mean() if (np.abs(b) < 1e6).any() else 0), max(tiny, least)
    )
    assert (np.abs(a - b) <= ulp * eps * scale).all(), (
        f"{where}: off by {(np.abs(a - b) / (eps * scale)).max():.1f} ulp"
    )
