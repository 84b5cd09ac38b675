"""Gelu in onnxruntime's forms: exact, approximate, and each with a bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Attr, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.spelled import Spelled, times, total


class Gelu(Spelled):
    """x * Phi(x), Phi the normal distribution. Source: onnxruntime, com.microsoft.Gelu-1."""

    inputs, outputs = (In("X"),), (Out("Y"),)
    types = {"T": dtypes.FLOAT}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return F.Gelu(inputs[0])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 8), (17,), (0, 3)):
            yield Sample([draw(rng, shape, "float32")])


class BiasGelu(Spelled):
    """Gelu(A + B), B [size of A's last axis]. Source: onnxruntime, com.microsoft.BiasGelu-1."""

    inputs, outputs = (In("A"), In("B")), (Out("C"),)
    types = {"T": dtypes.FLOAT}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return F.Gelu(F.Add(inputs[0], inputs[1]))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 8), (1, 5)):
            yield Sample([draw(rng, shape, "float32"), draw(rng, shape[-1:], "float32")])


class FastGelu(Spelled):
    """Gelu(X + bias) by tanh. Source: onnxruntime, com.microsoft.FastGelu-1."""

    inputs, outputs = (In("X"), In("bias", optional=True)), (Out("Y"),)
    types = {"T": dtypes.FLOAT}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return F.Gelu(total(F, inputs), approximate="tanh")

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3, 8), "float32")])
        yield Sample([draw(rng, (2, 3, 8), "float32"), draw(rng, (8,), "float32")])


class QuickGelu(Spelled):
    """X * sigmoid(alpha * X). Source: onnxruntime, com.microsoft.QuickGelu-1."""

    inputs, outputs = (In("X"),), (Out("Y"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"alpha": Attr("float", 1.702)}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        (x,) = inputs
        return F.Mul(x, F.Sigmoid(times(F, x, attributes["alpha"])))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3, 8), "float32")])
        yield Sample([draw(rng, (17,), "float32")], {"alpha": 1.0})
