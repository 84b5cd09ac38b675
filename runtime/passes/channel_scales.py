"""A scale for each channel between two convolutions, of which the second is depthwise, goes into their weights.

    Conv -> [Relu | Clip] -> Q(scales) -> DQ(scales) -> depthwise Conv        becomes
    Conv of weights * s/scales -> Q(s) -> DQ(s) -> depthwise Conv of weights * scales/s

A channel of a depthwise convolution depends on that channel alone, so its scale can be a factor of weights, which have one for each
channel anyway; what is left is quantized like any other value, and kernels know it. NNCF quantizes so. The bounds of a Clip must
be where quantization saturates.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.qdq_fuse import constant_float
from headrace.runtime.passes.quantized import INT8, Params, dequantized, params_of
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, integer, made, rank

PORTABLE = True
ORDER = 58


def run(graph: Graph) -> Graph:
    if not any(node.kind == "DequantizeLinear" for node in graph.block.walk()):
        return graph
    return rewrite(graph, {"QuantizeLinear": _between})


def _between(node: Node, scope: Scope) -> Patch | None:
    params = params_of(node, scope, dtype(node.outputs[0]))
    if params is None or params.dtype not in INT8 or params.scale_array.size < 2 or not _by_channel(node):
        return None
    back = scope.user(node.outputs[0], "DequantizeLinear")
    same = params_of(back, scope, params.dtype) if back is not None else None
    after = scope.user(back.outputs[0], "Conv") if back is not None else None
    before, clips = _producer(node.inputs[0], params, scope)
    if back is None or same is None or not same.same(params) or not _by_channel(back):
        return None
    channels, zeros = params.scale_array.size, params.zero_array.ravel()
    if after is None or before is None or after.inputs[0] is not back.outputs[0] or (zeros != zeros[0]).any():
        return None
    if integer(after, "group", 1) != channels or not _has_channels(after, scope, channels) or not _has_channels(before, scope, channels):  # fmt: skip
        return None
    one = np.float32(params.scale_array.max())
    factors = (one / params.scale_array).astype(np.float32)
    first = _scaled(before, factors, scope, bias=True)
    second = _scaled(after, (params.scale_array / one).astype(np.float32), scope, bias=False)
    if first is None or second is None:
        return None
    number = [
        scope.constant(one, f"{made(node).name}_scale"),
        scope.constant(zeros[0], f"{made(node).name}_zero_point"),
    ]
    x = scope.node("Conv", first[1], made(before).name, before.attributes, like=before)
    down = scope.node("QuantizeLinear", [x.outputs[0], *number], made(node).name, like=node)
    up = scope.node("DequantizeLinear", [down.outputs[0], *number], made(back).name, like=back)
    y = scope.node("Conv", [up.outputs[0], *second[1][1:]], after.outputs[0], after.attributes, like=after)
    return Patch([before, *clips, node, back, after], [*first[0], x, down, up, *second[0], y])


def _by_channel(node: Node) -> bool:
    axes = rank(node.inputs[0])
    return axes is not None and integer(node, "axis", 1) % axes == 1


def _producer(value: Value | None, params: Params, scope: Scope) -> tuple[Node | None, list[Node]]:
    """The convolution that alone makes `value`, and the Relu or Clip between that saturation does as well."""
    clip = scope.producer(value, "Relu", "Clip")
    if clip is None:
        return (scope.producer(value, "Conv") if scope.single(value) else None), []
    source = clip.inputs[0]
    if not scope.single(value) or not scope.single(source) or not _saturates(clip, params, scope):
        return None, []
    return scope.producer(source, "Conv"), [clip]


def _saturates(clip: Node, params: Params, scope: Scope) -> bool:
    """Whether every channel's levels end where the Clip does."""
    bounds = [0.0] if clip.kind == "Relu" else [scope.scalar(value) for value in clip.inputs[1:]]
    for bound, end in zip(bounds, (params.lowest, params.highest)):
        if bound is None:
            return False
        levels = np.rint(np.float32(bound) / params.scale_array) + params.zero_array.astype(np.float32)
        if (np.clip(levels, params.lowest, params.highest) != end).any():
            return False
    return bool(bounds)


def _has_channels(node: Node, scope: Scope, channels: int) -> bool:
    """Whether the weights are integers of one scale, or one for each of so many channels."""
    found = dequantized(node.inputs[1], scope)
    weights = scope.array(found.value) if found is not None else None
    if found is None or weights is None or weights.shape[0] != channels:
        return False
    return found.params.per_tensor or (found.axis == 0 and found.params.scale_array.shape == (channels,))


def _scaled(node: Node, factors: np.ndarray, scope: Scope, bias: bool) -> tuple[list[Node], list[Value | None]] | None:
    """The inputs of the convolution with weights (and the bias) times factors, one a channel, and the nodes that make them."""
    found = dequantized(node.inputs[1], scope)
    if found is None:
        return None
    channels, name = len(factors), found.value.name
    scale = scope.constant(
        np.ascontiguousarray(np.broadcast_to(found.params.scale_array, (channels,)) * factors), f"{name}_scale"
    )
    zero = scope.constant(np.ascontiguousarray(np.broadcast_to(found.params.zero_array.reshape(-1), (channels,))), f"{name}_zero_point")  # fmt: skip
    weights = scope.node("DequantizeLinear", [found.value, scale, zero], name, {"axis": 0}, like=found.node)
    inputs = [node.inputs[0], weights.outputs[0], *node.inputs[2:]]
    if bias and len(inputs) > 2 and inputs[2] is not None:
        numbers = constant_float(inputs[2], scope)
        if numbers is None:
            return None
        inputs[2] = scope.constant((numbers * factors).astype(np.float32), inputs[2].name)
    return [weights], inputs
