"""What a model says about itself: its inputs and outputs, golden data, and what a reader answers for a file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from headrace.runtime.graph import Program, Value
from headrace.runtime.shapes import Shape
from headrace.runtime.types import TensorType, Type


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. `shape` holds integers and symbolic dimensions; None: even the rank is free. `type` is the
    whole type where it is no tensor (sequence, optional, map); `dtype` is then the type's text."""

    name: str
    dtype: str
    shape: Shape | None
    type: Type | None = None

    @staticmethod
    def of(value: Value) -> TensorSpec:
        if isinstance(value.type, TensorType):
            return TensorSpec(value.name, value.type.dtype, value.type.shape, value.type)
        return TensorSpec(value.name, str(value.type), None, value.type)

    def __str__(self) -> str:
        return f"{self.name}: {self.type if self.type is not None else '?'}"


@dataclass(frozen=True)
class Golden:
    """Recorded inputs and the outputs that they must give, |a - b| <= atol + rtol * max |b|
    (runtime/golden.py)."""

    inputs: list[dict[str, np.ndarray]]
    outputs: list[dict[str, np.ndarray]]
    rtol: float = 1e-4
    atol: float = 1e-5


@dataclass(frozen=True)
class Opened:
    """What a reader answers: the program, free properties (name, version, created, ...), golden data if there is any, and
    a digest of the whole file where it has one."""

    program: Program
    properties: dict[str, str] = field(default_factory=dict)
    golden: Golden | None = None
    digest: str = ""
