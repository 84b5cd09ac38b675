"""Constant scales and shifts go into the weights beside them.

BatchNormalization at inference is a scale and a shift for each channel; so are Mul, Div, Add and Sub by a constant that
is the same over space. After Conv, ConvTranspose, Gemm or MatMul they scale the weights' output channels and the bias;
a scale before Conv or MatMul goes to the input channels. A BatchNormalization that stands alone becomes Mul and Add.
Folding is computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.edit import copy_node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, integer, is_float, made, number, rank

PORTABLE = True
ORDER = 50


def run(graph: Graph) -> Graph:
    rules = dict.fromkeys(("Mul", "Div", "Add", "Sub", "BatchNormalization"), _after)
    return rewrite(graph, {**rules, "Conv": _before, "MatMul": _before})


@dataclass
class Affine:
    """y = scale * x + shift for each channel; vectors of one element or one per channel, float64."""

    source: Value
    scale: np.ndarray
    shift: np.ndarray


def affine_of(node: Node, scope: Scope, axis: int) -> Affine | None:
    """The scale and shift that a node applies along `axis` (counted from the left) of its input, or None."""
    if node.kind == "BatchNormalization":
        return _of_batch_norm(node, scope) if axis == 1 else None
    for index in (1, 0):
        array, source = scope.array(node.inputs[index]), node.inputs[1 - index]
        if array is None or source is None or not is_float(array) or dtype(source) != dtype(node.outputs[0]):
            continue
        if index == 0 and node.kind == "Div":
            return None
        vector = per_channel(array, rank(source), axis)
        if vector is None:
            return None
        one, zero = np.ones(1), np.zeros(1)
        match node.kind:
            case "Mul":
                return Affine(source, vector, zero)
            case "Div":
                return Affine(source, 1.0 / vector, zero) if np.all(vector != 0) else None
            case "Add":
                return Affine(source, one, vector)
            case "Sub":
                return Affine(source, one, -vector) if index == 1 else Affine(source, -one, vector)
    return None


def per_channel(array: np.ndarray, axes: int | None, axis: int) -> np.ndarray | None:
    """The elements of a constant that differs along one axis only, as float64; None for any other."""
    if axes is None or array.ndim > axes:
        return None
    dims = (1,) * (axes - array.ndim) + array.shape
    if any(size != 1 for place, size in enumerate(dims) if place != axis):
        return None
    return array.reshape(-1).astype(np.float64)


def _of_batch_norm(node: Node, scope: Scope) -> Affine | None:
    parts = [scope.array(value) for value in node.inputs[1:5]]
    if node.inputs[0] is None or any(part is None for part in parts) or attribute(node, "training_mode", 0):
        return None
    if any(value is not None and (scope.users(value) or id(value) in scope.outputs) for value in node.outputs[1:]):
        return None
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in parts)
    scale = gamma / np.sqrt(variance + number(node, "epsilon", 1e-5))
    return Affine(node.inputs[0], scale, beta - mean * scale)


# ---- after a linear operator


def _after(node: Node, scope: Scope) -> Patch | None:
    source = next((value for value in node.inputs if scope.array(value) is None), None)
    linear = scope.producer(source, "Conv", "ConvTranspose", "Gemm", "MatMul")
    if linear is not None and scope.single(source):
        axes = rank(source)
        axis = 1 if linear.kind != "MatMul" else (axes - 1 if axes else 1)
        affine = affine_of(node, scope, axis)
        patch = _fold_after(node, linear, affine, scope) if affine is not None else None
        if patch is not None:
            return patch
    return _alone(node, scope) if node.kind == "BatchNormalization" else None


def _fold_after(node: Node, linear: Node, affine: Affine, scope: Scope) -> Patch | None:
    weights = scope.array(linear.inputs[1])
    bias = scope.array(linear.inputs[2]) if len(linear.inputs) > 2 else None
    if (
        weights is None
        or not is_float(weights)
        or (bias is None and len(linear.inputs) > 2 and linear.inputs[2] is not None)
    ):
        return None
    channels = _output_channels(linear, weights)
    if channels is None or affine.scale.size not in (1, channels) or affine.shift.size not in (1, channels):
        return None
    if linear.kind == "MatMul" and np.any(affine.shift != 0):
        return None  # MatMul has no bias; fuse_matmul takes the Add
    scale, shift = np.broadcast_to(affine.scale, (channels,)), np.broadcast_to(affine.shift, (channels,))
    if linear.kind == "Gemm" and bias is not None:
        vector = per_channel(bias, 2, 1)
        if vector is None:
            return None
        bias = np.broadcast_to(vector, (channels,)) * number(linear, "beta", 1.0)
    return _with_weights(node, linear, weights, bias, scale, shift, scope)


def _with_weights(
    node: Node,
    linear: Node,
    weights: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    scope: Scope,
) -> Patch:
    inputs = [linear.inputs[0], linear.inputs[1]]
    name = weights_name(linear)
    if np.any(scale != 1):
        scaled = (weights.astype(np.float64) * _spread(linear, weights, scale)).astype(weights.dtype)
        inputs[1] = scope.constant(scaled, name)
    total = shift if bias is None else bias.astype(np.float64) * scale + shift
    if bias is not None or np.any(total != 0):
        inputs.append(scope.constant(total.astype(weights.dtype), f"{name}_bias"))
    attributes = dict(linear.attributes)
    if linear.kind == "Gemm":
        attributes["beta"] = 1.0
    new = copy_node(linear, inputs=inputs, outputs=[node.outputs[0]], attributes=attributes)
    return Patch([linear, node], [new])


def weights_name(linear: Node) -> str:
    weights = linear.inputs[1]
    return "weights" if weights is None else weights.name


def _output_channels(linear: Node, weights: np.ndarray) -> int | None:
    match linear.kind:
        case "Conv":
            return int(weights.shape[0])
        case "ConvTranspose":
            return int(weights.shape[1]) * integer(linear, "group", 1)
        case "Gemm":
            return int(weights.shape[0 if attribute(linear, "transB", 0) else 1])
        case "MatMul":
            return int(weights.shape[-1]) if weights.ndim >= 2 else None
    return None


def _spread(linear: Node, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The scale of each output channel in the shape that multiplies the weights."""
    match linear.kind:
        case "Conv":
            return scale.reshape(-1, *[1] * (weights.ndim - 1))
        case "ConvTranspose":  # [C, M / group, ...]; the channels of group g are rows g * C / group and on
            group = integer(linear, "group", 1)
            rows = np.repeat(scale.reshape(group, -1), weights.shape[0] // group, axis=0)
            return rows.reshape(*rows.shape, *[1] * (weights.ndim - 2))
        case "Gemm" if attribute(linear, "transB", 0):
            return scale[:, None]
    return scale


# ---- before a linear operator


def _before(linear: Node, scope: Scope) -> Patch | None:
    """A scale of the input, and a shift where no padding mixes zeros in, go into the weights."""
    node = scope.producer(linear.inputs[0], "Mul", "Div", "Add", "Sub", "BatchNormalization")
    weights = scope.array(linear.inputs[1])
    if node is None or weights is None or not is_float(weights) or not scope.single(linear.inputs[0]):
        return None
    axes = rank(linear.inputs[0])
    if axes is None or weights.ndim < 2 or (linear.kind == "MatMul" and weights.ndim != 2):
        return None
    affine = affine_of(node, scope, 1 if linear.kind == "Conv" else axes - 1)
    if affine is None:
        return None
    if linear.kind == "MatMul":
        return _before_matmul(linear, node, affine, weights, scope)
    return _before_conv(linear, node, affine, weights, scope)


def _before_matmul(linear: Node, node: Node, affine: Affine, weights: np.ndarray, scope: Scope) -> Patch | None:
    if np.any(affine.shift != 0) or affine.scale.size not in (1, weights.shape[0]):
        return None
    scaled = (weights.astype(np.float64) * affine.scale[:, None]).astype(weights.dtype)
    inputs = [affine.source, scope.constant(scaled, weights_name(linear))]
    return Patch([node, linear], [copy_node(linear, inputs=inputs)])


def _before_conv(linear: Node, node: Node, affine: Affine, weights: np.ndarray, scope: Scope) -> Patch | None:
    group = integer(linear, "group", 1)
    channels = weights.shape[1] * group
    shifted = bool(np.any(affine.shift != 0))
    if affine.scale.size not in (1, channels) or affine.shift.size not in (1, channels):
        return None
    if shifted and not _unpadded(linear):
        return _shift_first(linear, node, affine, weights, scope)
    bias = scope.array(linear.inputs[2]) if len(linear.inputs) > 2 else None
    if shifted and bias is None and len(linear.inputs) > 2 and linear.inputs[2] is not None:
        return None
    wide = weights.astype(np.float64)
    inputs: list[Value | None] = [affine.source, *linear.inputs[1:]]
    name = weights_name(linear)
    if np.any(affine.scale != 1):
        inputs[1] = scope.constant((wide * _by_input(affine.scale, weights, group)).astype(weights.dtype), name)
    if shifted:
        added = (wide * _by_input(affine.shift, weights, group)).sum(axis=tuple(range(1, weights.ndim)))
        total = added if bias is None else bias.astype(np.float64) + added
        inputs = [*inputs[:2], scope.constant(total.astype(weights.dtype), f"{name}_bias")]
    return Patch([node, linear], [copy_node(linear, inputs=inputs)])


def _shift_first(linear: Node, node: Node, affine: Affine, weights: np.ndarray, scope: Scope) -> Patch | None:
    """Before a padded Conv, x * s + b is (x + b / s) * s, whose factor goes into the weights: one pass less."""
    inner = scope.producer(affine.source, "Mul", "Div")
    first = affine_of(inner, scope, 1) if inner is not None and scope.single(affine.source) else None
    if inner is None or first is None or np.any(affine.scale != 1) or not np.all(np.abs(first.scale) > 1e-6):
        return None
    group = integer(linear, "group", 1)
    if first.scale.size not in (1, weights.shape[1] * group):
        return None
    kind, dims = weights.dtype, (-1, *[1] * (weights.ndim - 2))
    shift = (affine.shift / first.scale).astype(kind)
    moved = scope.constant(shift.reshape(dims) if shift.size > 1 else shift.reshape(()), f"{made(node).name}_shift")
    scaled = (weights.astype(np.float64) * _by_input(first.scale, weights, group)).astype(kind)
    inputs = [node.outputs[0], scope.constant(scaled, weights_name(linear)), *linear.inputs[2:]]
    added = scope.node("Add", [first.source, moved], node.outputs[0], like=node)
    return Patch([inner, node, linear], [added, copy_node(linear, inputs=inputs)])


def _by_input(vector: np.ndarray, weights: np.ndarray, group: int) -> np.ndarray:
    """Values for each input channel in the shape that multiplies weights [M, C / group, ...]."""
    rows = np.broadcast_to(vector, (weights.shape[1] * group,)).reshape(group, weights.shape[1])
    rows = np.repeat(rows, weights.shape[0] // group, axis=0)
    return rows.reshape(*rows.shape, *[1] * (weights.ndim - 2))


def _unpadded(linear: Node) -> bool:
    pads = attribute(linear, "pads", ()) or ()
    return attribute(linear, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(pads)


# ---- alone


def _alone(node: Node, scope: Scope) -> Patch | None:
    affine = _of_batch_norm(node, scope)
    axes = rank(node.inputs[0])
    if affine is None or axes is None or axes < 2:
        return None
    kind = dtypes.of(dtype(node.inputs[0]) or "float32").numpy
    dims = (-1, *[1] * (axes - 2))
    name = made(node).name
    scale = scope.constant(affine.scale.reshape(dims).astype(kind), f"{name}_scale")
    shift = scope.constant(affine.shift.reshape(dims).astype(kind), f"{name}_shift")
    scaled = scope.node("Mul", [affine.source, scale], f"{name}_scaled", type=affine.source.type, like=node)
    return Patch([node], [scaled, scope.node("Add", [scaled.outputs[0], shift], node.outputs[0], like=node)])
