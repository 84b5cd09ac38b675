"""What the int8 passes share: reading QuantizeLinear and DequantizeLinear nodes.

Not a pass. All values are per tensor unless said; a missing zero point is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Node, Value
from headrace.runtime.passes.scope import Scope, attribute, dtype, integer, rank

INT8 = ("uint8", "int8")


@dataclass
class Params:
    """Scale and zero point of one quantized tensor, as constants of the graph."""

    scale: Value
    zero: Value | None
    scale_array: np.ndarray
    zero_array: np.ndarray
    dtype: str

    @property
    def per_tensor(self) -> bool:
        return self.scale_array.size == 1 and self.zero_array.size == 1

    @property
    def number(self) -> np.float32:
        """The scale as one number."""
        return np.float32(self.scale_array.reshape(-1)[0])

    @property
    def lowest(self) -> int:
        return int(np.iinfo(dtypes.of(self.dtype).numpy).min)

    @property
    def highest(self) -> int:
        return int(np.iinfo(dtypes.of(self.dtype).numpy).max)

    def same(self, other: Params) -> bool:
        """Whether both map integers to the same numbers, in the same integer type."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale_array.ravel(), other.scale_array.ravel())
            and np.array_equal(self.zero_array.ravel(), other.zero_array.ravel())
        )

    def quantize(self, number: float) -> int:
        """What QuantizeLinear makes of a number."""
        with np.errstate(all="ignore"):
            steps = np.rint(np.float32(number) / self.number)
        return int(np.clip(steps + int(self.zero_array.reshape(-1)[0]), self.lowest, self.highest))

    def inputs(self, scope: Scope, name: str) -> tuple[Value, Value]:
        """Scale and zero point as rank-0 values, made where the node has another form."""
        scale, zero = self.scale, self.zero
        if self.scale_array.ndim != 0 and self.per_tensor:
            scale = scope.constant(self.scale_array.reshape(()), f"{name}_scale")
        if zero is None or (self.zero_array.ndim != 0 and self.per_tensor):
            zero = scope.constant(
                self.zero_array.reshape(()) if self.per_tensor else self.zero_array, f"{name}_zero_point"
            )
        return scale, zero


@dataclass
class Quantized:
    """A DequantizeLinear: the integers it reads and what they mean."""

    node: Node
    value: Value
    params: Params
    axis: int  # of a scale per channel; counted from the left

    @property
    def type(self) -> str:
        return self.params.dtype


def params_of(node: Node, scope: Scope, kind: str | None) -> Params | None:
    """The parameters of a Q or DQ node with constant float32 scale; None for block-wise or computed ones."""
    scale_value = node.inputs[1] if len(node.inputs) > 1 else None
    scale = scope.array(scale_value)
    zero_value = node.inputs[2] if len(node.inputs) > 2 else None
    zero = scope.array(zero_value)
    if (
        scale_value is None
        or scale is None
        or scale.dtype != np.float32
        or attribute(node, "block_size", 0)
        or kind is None
    ):
        return None
    if zero_value is not None and zero is None:
        return None
    if zero is None:
        zero = np.zeros(scale.shape, dtypes.of(kind).numpy)
    return Params(scale_value, zero_value, scale, zero, kind)


def dequantized(value: Value | None, scope: Scope) -> Quantized | None:
    """The DequantizeLinear (to float32) that makes `value`."""
    node = scope.producer(value, "DequantizeLinear")
    source = node.inputs[0] if node is not None else None
    if node is None or source is None or dtype(node.outputs[0]) != "float32":
        return None
    params = params_of(node, scope, dtype(source))
    if params is None:
        return None
    axis, axes = integer(node, "axis", 1), rank(source)
    return Quantized(node, source, params, axis if axes is None else axis % max(axes, 1))


def activation(value: Value | None, scope: Scope) -> Quantized | None:
    """A per-tensor int8 or uint8 value behind a DequantizeLinear."""
    found = dequantized(value, scope)
    return found if found is not None and found.params.per_tensor and found.type in INT8 else None


def quantizer(node: Node | None, scope: Scope) -> Params | None:
    """The parameters of a per-tensor QuantizeLinear from float32 to an 8-bit type."""
    if node is None or node.kind != "QuantizeLinear" or dtype(node.inputs[0]) != "float32":
        return None
    params = params_of(node, scope, dtype(node.outputs[0]))
    return params if params is not None and params.per_tensor and params.dtype in INT8 else None
