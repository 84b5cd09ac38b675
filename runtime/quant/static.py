"""Static quantization: a float graph and calibration data become a Q/DQ graph.

Weights of Conv, Gemm and MatMul become int8 behind a DequantizeLinear, one scale for each output channel; biases of Conv
and Gemm int32. Their inputs, and what must be an integer for them to work on integers, get QuantizeLinear and
DequantizeLinear. A residual Add and a Relu or Clip behind a product stay between it and its QuantizeLinear, so that one
operator takes them all. A bias also takes up the mean error of rounded weights: (W - W_int8) times the mean input. What only moves elements shares the scale of its input. The result is plain ONNX; passes fuse
it when it is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes import optimize
from headrace.runtime.passes.affine import weights_name
from headrace.runtime.passes.edit import copy_node, drop_dead, in_order, substitute
from headrace.runtime.passes.scope import Names, Scope, attribute, dtype, integer, made, other_input, rank, same_shape
from headrace.runtime.quant import schemes
from headrace.runtime.quant.calibrate import Feeds, Progress, Ranges, Statistics, calibrate
from headrace.runtime.quant.unfuse import unfuse
from headrace.runtime.types import TensorType

FUSED = ("fuse_conv", "fuse_matmul")  # passes whose results this module would have to take apart
SHARES = (
    "MaxPool",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Expand",
    "DepthToSpace",
    "SpaceToDepth",
)


@dataclass
class Layer:
    """A product with constant weights: the node, the axis of its output channels, and the value that it ends in after a
    residual Add and an activation."""

    name: str
    node: Node
    axis: int
    end: Value
    residual: Value | None = None
    weights_at: int = 1  # which input the weights are

    @property
    def weights(self) -> Value:
        value = self.node.inputs[self.weights_at]
        assert value is not None  # a layer has weights
        return value

    @property
    def input(self) -> Value:
        value = self.node.inputs[0]
        assert value is not None  # Conv, Gemm and MatMul have one
        return value

    @property
    def channels(self) -> tuple[str, int]:
        """The name of the input, and which of its axes has the channels that are summed over."""
        return self.input.name, 1 if self.node.kind == "Conv" else -1


@dataclass
class Plan:
    """Which layers are quantized, which values carry integers, and which of these share one range."""

    layers: list[Layer]
    values: list[Value] = field(default_factory=list)
    shared: dict[Value, Value] = field(default_factory=dict)  # value -> the one that it shares with

    def root(self, value: Value) -> Value:
        while value in self.shared:
            value = self.shared[value]
        return value

    def share(self, value: Value, other: Value) -> None:
        a, b = self.root(value), self.root(other)
        if a is not b:
            self.shared[a] = b


def prepare(graph: Graph) -> Graph:
    """The graph in the form that quantization reads: optimized, BatchNormalization folded, nothing fused."""
    return unfuse(optimize(graph, skip=FUSED))


def layers_of(graph: Graph) -> list[Layer]:
    """Every layer that can be quantized, in order. Names are those of the output values: unique and stable."""
    scope = Scope(graph, graph.block, Names(graph))
    found = [layer for node in graph.nodes if (layer := _layer(node, scope)) is not None]
    _end_layers(found, scope)
    return found


def _layer(node: Node, scope: Scope) -> Layer | None:
    if (
        node.kind not in ("Conv", "Gemm", "MatMul")
        or dtype(node.outputs[0]) != "float32"
        or scope.array(node.inputs[0]) is not None
    ):
        return None
    weights = scope.array(node.inputs[1])
    added = node.inputs[2] if len(node.inputs) > 2 else None
    bias = scope.array(added)
    if weights is None or weights.dtype != np.float32 or weights.size == 0 or (added is not None and bias is None):
        return None
    end, name = made(node), made(node).name
    match node.kind:
        case "Conv":
            return Layer(name, node, 0, end)
        case "Gemm":
            plain = (
                attribute(node, "alpha", 1.0) == 1.0
                and attribute(node, "beta", 1.0) == 1.0
                and not attribute(node, "transA", 0)
            )
            width = weights.shape[0 if attribute(node, "transB", 0) else 1]
            row = bias is None or (bias.size == width and bias.ndim <= 2)
            return Layer(name, node, 0 if attribute(node, "transB", 0) else 1, end) if plain and row else None
    return Layer(name, node, 1, end) if weights.ndim == 2 and (rank(node.inputs[0]) or 0) >= 2 else None


def _end_layers(layers: Sequence[Layer], scope: Scope) -> None:
    """Follow each layer through its bias, one residual Add and one Relu or Clip; two layers never take the same Add."""
    taken: set[int] = set()
    for layer in layers:
        if layer.node.kind == "MatMul":
            layer.end = _after_bias(layer.end, scope)
        following = scope.user(layer.end, "Add")
        other = other_input(following, layer.end)
        if (
            following is not None
            and id(following) not in taken
            and same_shape(other, layer.end)
            and scope.array(other) is None
        ):
            taken.add(id(following))
            layer.residual, layer.end = other, made(following)
        following = scope.user(layer.end, "Relu", "Clip")
        if following is not None and all(
            scope.array(value) is not None for value in following.inputs[1:] if value is not None
        ):
            layer.end = made(following)


def _after_bias(value: Value, scope: Scope) -> Value:
    following = scope.user(value, "Add")
    array = scope.array(other_input(following, value))
    if (
        following is None
        or array is None
        or array.ndim > (rank(value) or 0)
        or any(size != 1 for size in array.shape[:-1])
    ):
        return value
    return made(following)


def plan(graph: Graph, kept: Collection[str] = ()) -> Plan:
    """What to quantize; layers named in `kept` stay float."""
    scope = Scope(graph, graph.block, Names(graph))
    chosen = [layer for layer in layers_of(graph) if layer.name not in kept]
    result = Plan(chosen)
    marked: dict[Value, None] = {}
    for layer in chosen:
        marked[layer.node.inputs[0]] = None  # type: ignore[index]
        if layer.node.kind == "Conv":
            marked[layer.end] = None
            if layer.residual is not None:
                marked[layer.residual] = None
    _spread(result, marked, scope)
    order = {value: index for index, value in enumerate(_in_order(graph))}
    result.values = sorted(marked, key=order.__getitem__)
    return result


def _spread(result: Plan, marked: dict[Value, None], scope: Scope) -> None:
    """From quantized values up through what shares scales, and through pools; and over Adds of two quantized values."""
    work = list(marked)
    while work:
        value = work.pop()
        node = scope.producer(value, *SHARES, "Concat", "GlobalAveragePool", "AveragePool")
        if node is None or len(node.outputs) != 1:
            continue
        sources = [
            source for source in (node.inputs if node.kind == "Concat" else node.inputs[:1]) if source is not None
        ]
        if any(dtype(source) != "float32" or scope.array(source) is not None for source in sources):
            continue
        for source in sources:
            if node.kind in SHARES or node.kind == "Concat":
                result.share(source, value)
            if source not in marked:
                marked[source] = None
                work.append(source)


def _in_order(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(value for node in graph.nodes for value in node.outputs if value is not None)]


# ---- building the Q/DQ graph


def quantize_static(
    graph: Graph,
    data: Sequence[Feeds],
    *,
    observer: str = "minmax",
    kept: Collection[str] = (),
    progress: Progress | None = None,
) -> Graph:
    """The Q/DQ graph of a float graph. `kept` names layers (see `layers_of`) that stay float."""
    prepared = prepare(graph)
    chosen = plan(prepared, kept)
    return insert(prepared, chosen, measure(prepared, chosen, data, observer=observer, progress=progress))


def measure(
    graph: Graph, chosen: Plan, data: Sequence[Feeds], *, observer: str, progress: Progress | None = None
) -> Statistics:
    """Calibrate what the plan needs: ranges of its values, channel means of its layers' inputs."""
    if not chosen.values:
        return Statistics()
    channels = {layer.channels for layer in chosen.layers}
    return calibrate(graph, data, chosen.values, observer=observer, channels=channels, progress=progress)


def joined(chosen: Plan, ranges: Ranges) -> dict[Value, tuple[float, float]]:
    """The range of each value, values that share a scale joined."""
    groups: dict[Value, tuple[float, float]] = {}
    for value in chosen.values:
        low, high = ranges[value.name]
        root = chosen.root(value)
        known = groups.get(root, (low, high))
        groups[root] = (min(known[0], low), max(known[1], high))
    return {value: groups[chosen.root(value)] for value in chosen.values}


def insert(graph: Graph, chosen: Plan, statistics: Statistics) -> Graph:
    """Put Q and DQ around the values and DQ behind the weights."""
    result = Graph(
        graph.block, dict(graph.constants), dict(graph.values), graph.name, list(graph.states), dict(graph.metadata)
    )
    scope = Scope(result, graph.block, Names(graph))
    found = {value: schemes.activation(*pair) for value, pair in joined(chosen, statistics.ranges).items()}
    added: list[Node] = []
    replaced: dict[int, Value] = {}  # graph inputs: their readers read the dequantized value
    raw: dict[int, Value] = {}  # other values: their producer makes a raw value, the DQ makes the old one
    for value, scheme in found.items():
        source, out = _ends(value, graph, scope, replaced, raw)
        added += _pair(source, out, scheme, scope)
    weighted = {
        id(layer.node): _weighted(layer, found, statistics.means.get(layer.channels), scope, added)
        for layer in chosen.layers
    }
    nodes = [weighted.get(id(node), node) for node in graph.nodes]
    nodes = [substitute(node, replaced, raw) for node in nodes] + added
    return drop_dead(_with_block(result, Block(graph.inputs, in_order(nodes, graph.block), graph.outputs)))


def _with_block(graph: Graph, block: Block) -> Graph:
    graph.block = block
    return graph


def _ends(
    value: Value, graph: Graph, scope: Scope, replaced: dict[int, Value], raw: dict[int, Value]
) -> tuple[Value, Value]:
    if value in graph.inputs:
        out = replaced[id(value)] = scope.value(f"{value.name}_dequantized", value.type)
        return value, out
    source = raw[id(value)] = scope.value(f"{value.name}_raw", value.type)
    return source, value


def _pair(source: Value, out: Value, scheme: schemes.Scheme, scope: Scope) -> list[Node]:
    scale = scope.constant(scheme.scale, f"{out.name}_scale")
    zero = scope.constant(scheme.zero, f"{out.name}_zero_point")
    shape = source.type.shape if isinstance(source.type, TensorType) else None
    integers = scope.value(f"{out.name}_quantized", TensorType(str(scheme.dtype), shape))
    quantize = scope.node("QuantizeLinear", [source, scale, zero], integers)
    return [quantize, scope.node("DequantizeLinear", [integers, scale, zero], out)]


def _weighted(
    layer: Layer, found: dict[Value, schemes.Scheme], mean: np.ndarray | None, scope: Scope, added: list[Node]
) -> Node:
    """The layer's node reading dequantized weights and bias."""
    node = layer.node
    x_scale = found[layer.input].scale
    array = np.asarray(scope.array(node.inputs[1]))
    bias = scope.array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None and node.kind != "MatMul":
        bias = np.zeros(array.shape[layer.axis], np.float32)
    least = schemes.least_weight_scale(bias.reshape(-1), x_scale) if bias is not None else 0.0
    integers, scheme = schemes.weights(array, layer.axis, least)
    name = weights_name(node)
    inputs: list[Value | None] = [
        layer.input,
        _dequantized(integers, scheme.scale, scheme.zero, layer.axis, name, array, scope, added),
    ]
    if bias is not None:
        missing = _mean_error(layer, array - scheme.dequantize(integers, layer.axis), mean)
        steps, scale = schemes.bias(bias.reshape(-1) + missing, x_scale, scheme.scale)
        inputs.append(_dequantized(steps, scale, None, 0, f"{name}_bias", steps, scope, added))
    return copy_node(node, inputs=inputs)


def _mean_error(layer: Layer, error: np.ndarray, mean: np.ndarray | None) -> np.ndarray | float:
    """What each output channel loses on average by rounded weights: their error times the mean input of each channel.
    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2."""
    if mean is None or not np.isfinite(mean).all():
        return 0.0
    if layer.node.kind != "Conv":
        return np.tensordot(mean, error, axes=(0, 1 - layer.axis))
    group = integer(layer.node, "group", 1)
    rows = np.repeat(mean.reshape(group, -1), error.shape[0] // group, axis=0)
    return np.asarray((error.reshape(*error.shape[:2], -1).sum(axis=2) * rows).sum(axis=1))


def _dequantized(
    integers: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None,
    axis: int,
    name: str,
    like: np.ndarray,
    scope: Scope,
    added: list[Node],
) -> Value:
    parts = [scope.constant(integers, f"{name}_quantized"), scope.constant(scale, f"{name}_scale")]
    if zero is not None:
        parts.append(scope.constant(zero, f"{name}_zero_point"))
    out = scope.value(f"{name}_dequantized", TensorType("float32", tuple(like.shape)))
    added.append(scope.node("DequantizeLinear", parts, out, {"axis": axis}))
    return out
