"""3x3 convolutions of stride 1 by Winograd's transforms: about a third of the products, for weights 4 times (tiles of 4 x 4
results) or 16/9 times (2 x 2) as large. Sums are of other terms than those of a direct convolution: float32 results
differ from it by 1e-6 of the largest one, and an infinite or NaN pixel makes NaN of its neighbours as well.

`tile_of` is the rule, measured by `benchmarks/kernels.py --only winograd`: what counts is how often transformed weights,
which large layers read from memory, are used again, and how much of the tiles lies outside of the image. It never
reads the batch, so that a row's answer does not depend on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope
from headrace.runtime.types import TensorType

KIND = "WinogradConv"
LEAST_INPUTS, LEAST_OUTPUTS = 16, 8  # channels: below, transforms cost more than they save
HEAVY = (
    1 << 12
)  # weights of a layer from which on their memory counts: tiles of 4 save time in proportion to the pixels,
PIXELS = 640  # and on fewer 0.4 ms per MiB at most, nearly all of which tiles of 2 save as well
MANY = 64  # tiles, beside which a transform of the weights in each run takes 1 to 4 % of the layer
LARGE = 1 << 16  # weights of a layer whose transforms no cache keeps until the next call


def winograd(graph: Graph, caps: Collection[str], low: bool = False) -> Graph:
    """The graph with those convolutions as headrace.cpu.WinogradConv where there is a kernel for it. `low`: the alternative are
    products of bf16, which only tiles of 4 beat."""
    if f"headrace.cpu.{KIND}" not in caps:
        return graph
    return rewrite(graph, {"headrace.cpu.Conv": lambda node, scope: _transformed(node, scope, low)})


def tile_of(inputs: int, outputs: int, sizes: Sequence[int] | None) -> int:
    """4, 2, or 0 for a direct convolution, of so many channels and a result of those sizes (None: unknown)."""
    if inputs < LEAST_INPUTS or outputs < LEAST_OUTPUTS:
        return 0
    large = inputs * outputs >= LARGE
    if sizes is None:
        return 0 if large else 4
    height, width = sizes
    for tile in (4, 2):
        tiles = -(-height // tile) * -(-width // tile)
        inside = height * width / max(1, tiles * tile * tile)
        if tile == 4 and inputs * outputs >= HEAVY and height * width < PIXELS:
            continue
        if tiles >= (16 if large else 2) and inside >= (0.8 if large else 0.5):
            return tile
    return 0


def _expands(tile: int, sizes: Sequence[int] | None) -> bool:
    """Whether weights are transformed in each run, which so many tiles make a small part of it: they stay as large as they are."""
    return sizes is not None and len(sizes) == 2 and -(-sizes[0] // tile) * -(-sizes[1] // tile) >= MANY


def _transformed(node: Node, scope: Scope, low: bool) -> Patch | None:
    weight, attributes = scope.array(node.inputs[1]), node.attributes
    if weight is None or weight.ndim != 4 or weight.shape[2:] != (3, 3) or attributes.get("group", 1) != 1:
        return None
    if any(attributes.get(key) not in (None, (), (1, 1)) for key in ("strides", "dilations")):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and scope.array(node.inputs[2]) is None:
        return None
    output = node.outputs[0]
    shape = output.type.shape if output is not None and isinstance(output.type, TensorType) else None
    sizes = None if shape is None else [size for size in shape[1:3] if isinstance(size, int)]
    tile = tile_of(weight.shape[1], weight.shape[0], sizes if sizes and len(sizes) == 2 else None)
    if not tile or (low and tile < 4):
        return None
    made = Node(KIND, node.inputs, node.outputs, {**attributes, "tile": tile, "expand": int(_expands(tile, sizes))}, domain="headrace.cpu", name=node.name, path=node.path)  # fmt: skip
    return Patch([node], [made])
