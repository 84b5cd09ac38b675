"""Weights alone: 4 or 8 bits in blocks of a column, activations float32 between products. Needs no data.

MatMul and Gemm with constant weights become com.microsoft.MatMulNBits, which onnxruntime reads as well; tables that Gather
reads row by row become int8 with a scale for each row, as in dynamic quantization.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope
from headrace.runtime.quant.dynamic import dynamic_layers, product, replace_table
from headrace.runtime.quant.static import Layer, prepare

GROUPS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Blocks:
    """A scheme of weights in blocks. bits: 4 or 8. group: how many neighbours along k share a scale (16, 32, 64, 128, 256).
    symmetric: no zero points; the largest weight of a block has the lowest level. rows: what meets the weights, "int8"
    (each block of a row is rounded, symmetric) or "float32"."""

    bits: int = 4
    group: int = 32
    symmetric: bool = False
    rows: str = "int8"

    def __post_init__(self) -> None:
        for name, allowed in (("bits", (4, 8)), ("group", GROUPS), ("rows", ("int8", "float32"))):
            if (given := getattr(self, name)) not in allowed:
                raise HeadraceError(f"{name} is {given!r}; allowed: {', '.join(map(str, allowed))}")

    def __str__(self) -> str:
        zeros = "symmetric" if self.symmetric else "asymmetric"
        return f"int{self.bits} group {self.group} {zeros}, rows {self.rows}"

    def quantize(self, columns: np.ndarray) -> BlockWeights:
        """Weights [N, K] rounded to the nearest level of their block. A block of zeros: scale 1."""
        width, depth = columns.shape
        count, top = -(-depth // self.group), (1 << self.bits) - 1
        padded = np.zeros((width, count * self.group), np.float32)
        padded[:, :depth] = columns
        blocks = padded.reshape(width, count, self.group)
        if self.symmetric:
            largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
            scale = (largest / np.float32(-(top + 1) // 2)).astype(np.float32)
            zero = np.full(scale.shape, (top + 1) // 2, np.uint8)
        else:
            low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
            scale = ((high - low) / np.float32(top)).astype(np.float32)
        scale = np.where(np.abs(scale) < np.finfo(np.float32).tiny, np.float32(1), scale)
        if not self.symmetric:
            zero = np.clip(np.rint(-low / scale), 0, top).astype(np.uint8)
        levels = np.rint(blocks / scale[..., None]) + zero[..., None]
        return BlockWeights(self, np.clip(levels, 0, top).astype(np.uint8), scale, zero, depth)


@dataclass(frozen=True)
class BlockWeights:
    """levels [N, blocks, group] uint8, one a byte; scale float32 and zero uint8 [N, blocks]; depth: K."""

    scheme: Blocks
    levels: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    depth: int

    def dequantize(self) -> np.ndarray:
        """float32 [N, K]."""
        steps = self.levels.astype(np.float32) - self.zero[..., None].astype(np.float32)
        return np.asarray((steps * self.scale[..., None]).reshape(len(self.levels), -1)[:, : self.depth])

    def packed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Weights [N, blocks, bytes], scales, and zero points [N, bytes] (None: the middle) as MatMulNBits reads them."""
        zero = None if self.scheme.symmetric else _packed(self.zero, self.scheme.bits)
        return _packed(self.levels, self.scheme.bits), self.scale, zero


def _packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """Two levels of 4 bits in a byte along the last axis, the first one low."""
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=-1)
    return np.asarray(levels[..., ::2] | (levels[..., 1::2] << 4))


def quantize_weights(graph: Graph, scheme: Blocks, *, kept: Collection[str] = ()) -> Graph:
    """The graph with MatMulNBits for every product that is not named in `kept`."""
    prepared = prepare(graph)
    layers = {id(layer.node): layer for layer in dynamic_layers(prepared) if layer.name not in kept}

    def rule(node: Node, scope: Scope) -> Patch | None:
        layer = layers.get(id(node))
        if layer is None:
            return None
        return replace_table(layer, scope) if node.kind == "Gather" else _replace(layer, scheme, scope)

    return rewrite(prepared, {"MatMul": rule, "Gemm": rule, "Gather": rule})


def _replace(layer: Layer, scheme: Blocks, scope: Scope) -> Patch:
    node, name = layer.node, layer.weights.name
    array, bias, nodes = product(layer, scope)
    depth, width = array.shape
    packed, scale, zero = scheme.quantize(array.T).packed()
    constants = [scope.constant(packed, f"{name}_blocks"), scope.constant(scale, f"{name}_scales")]
    zeros = None if zero is None else scope.constant(zero, f"{name}_zeros")
    attributes: dict[str, Any] = {
        "K": depth, "N": width, "block_size": scheme.group, "bits": scheme.bits, "accuracy_level": 4 if scheme.rows == "int8" else 0,
    }  # fmt: skip
    inputs = [node.inputs[0], *constants, zeros, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    new = scope.node("MatMulNBits", inputs, nodes[-1].outputs[0], attributes, domain="com.microsoft", like=node)
    return Patch(nodes, [new])
