"""Linear equations, as skl2onnx writes them for Gaussian processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime.ops.base import Attr, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.linear.matmul import transpose_last
from headrace.runtime.ops.linear.solve import REAL, well_conditioned
from headrace.runtime.ops.spelled import Spelled


class Solve(Spelled):
    """X with A' @ X = Y; A' is A, transposed where `transposed` says so. onnxruntime has no such operator: skl2onnx's is
    scipy.linalg.solve of a general matrix, for which `lower` means nothing.
    Source: skl2onnx, algebra/custom_ops.py (OnnxSolve)."""

    inputs, outputs = (In("A"), In("Y")), (Out("X"),)
    types = {"T": REAL}
    attributes = {"lower": Attr("int", 0, (0, 1)), "transposed": Attr("int", 0, (0, 1))}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, y = inputs
        solve = F.op("headrace", "Solve")
        return solve(transpose_last(F, a) if attributes["transposed"] else a, y)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a = well_conditioned(rng, (4, 4))
        yield Sample([a, draw(rng, (4, 3), "float32")])
        yield Sample([a, draw(rng, (4, 1), "float32")], {"transposed": 1})
        yield Sample([np.tril(a).astype(np.float64), draw(rng, (4, 2), "float64")], {"lower": 1})
