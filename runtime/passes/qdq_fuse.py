"""Q/DQ islands become integer operators: headrace.QConv, QGemm, QAdd.

    DQ(x), DQ(w), bias -> Conv -> [Add DQ(r)] -> [Relu | Clip] -> Q      headrace.QConv
    the same with Gemm or MatMul (weights constant)                      headrace.QGemm, float32 out where no Q follows
    DQ(a), DQ(b) -> Add -> [Relu | Clip] -> Q                            headrace.QAdd

The integer form differs from the float evaluation of the island by at most one quantum (design: "One meaning"). A bias
becomes int32 in units of x_scale * w_scale; one that does not fit leaves the island as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import fused_form
from headrace.runtime.passes.quantized import INT8, Params, Quantized, activation, dequantized, quantizer
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, is_float, made, other_input, rank, same_shape
from headrace.runtime.types import TensorType

PORTABLE = True
ORDER = 62


def run(graph: Graph) -> Graph:
    if not any(node.kind == "DequantizeLinear" for node in graph.block.walk()):
        return graph
    return rewrite(graph, {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul, "Add": _add})


@dataclass
class Tail:
    """What follows a linear operator and goes into it: covered nodes, the value they end in, and their meaning."""

    nodes: list[Node]
    output: Value
    residual: Quantized | None = None
    bias: np.ndarray | None = None
    form: dict[str, object] = field(default_factory=dict)
    params: Params | None = None  # of the closing QuantizeLinear; None: float32 out


def tail_of(node: Node, scope: Scope, *, bias: bool = False, residual: bool = True) -> Tail:
    """Follow single uses: Add of a constant vector (where `bias`), Add of a dequantized value, Relu or Clip, Q."""
    tail = Tail([node], made(node))
    if bias:
        following = scope.user(tail.output, "Add")
        vector = _vector(following, tail.output, scope)
        if following is not None and vector is not None:
            tail.bias = vector
            _grow(tail, following)
    if residual:
        following = scope.user(tail.output, "Add")
        other = other_input(following, tail.output)
        found = activation(other, scope)
        if following is not None and found is not None and same_shape(other, tail.output):
            tail.residual = found
            _grow(tail, following)
    following = scope.user(tail.output, "Relu", "Clip")
    form = fused_form(following, scope)
    if following is not None and form is not None and form["activation"] in ("Relu", "Clip"):
        tail.form = form
        _grow(tail, following)
    following = scope.user(tail.output, "QuantizeLinear")
    tail.params = quantizer(following, scope)
    if following is not None and tail.params is not None:
        _grow(tail, following)
    return tail


def _grow(tail: Tail, node: Node) -> None:
    tail.nodes.append(node)
    tail.output = made(node)


def _vector(node: Node | None, value: Value, scope: Scope) -> np.ndarray | None:
    """A constant (float, or dequantized) that Add adds along the last axis."""
    array = constant_float(other_input(node, value), scope)
    axes = rank(value)
    if array is None or axes is None or array.ndim > axes or any(size != 1 for size in array.shape[:-1]):
        return None
    return array.reshape(-1)


def constant_float(value: Value | None, scope: Scope) -> np.ndarray | None:
    """The numbers of a float constant, also of one held as integers behind a DequantizeLinear."""
    array = scope.array(value)
    if array is not None:
        return array if is_float(array) else None
    found = dequantized(value, scope)
    integers = scope.array(found.value) if found is not None else None
    if found is None or integers is None:
        return None
    scale, zero = (
        _along(part, integers.ndim, found.axis) for part in (found.params.scale_array, found.params.zero_array)
    )
    return np.asarray((integers.astype(np.float64) - zero) * scale, np.float32)


def _along(part: np.ndarray, axes: int, axis: int) -> np.ndarray:
    if part.size == 1:
        return part.reshape(())
    return part.reshape([-1 if place == axis else 1 for place in range(axes)])


def integer_bias(value: Value | None, extra: np.ndarray | None, units: np.ndarray, scope: Scope) -> np.ndarray | None:
    """The bias in integer units of x_scale * w_scale ([N] or one number). Integers that are in these units already are
    taken as they are. None where a part is not constant or does not fit int32."""
    found = dequantized(value, scope)
    integers = scope.array(found.value) if found is not None else None
    if (
        extra is None
        and found is not None
        and integers is not None
        and integers.dtype == np.int32
        and not found.params.zero_array.any()
    ):
        scale = found.params.scale_array.ravel()
        if np.allclose(scale, units, rtol=1e-6, atol=0):
            return np.asarray(integers.reshape(-1))
    own = np.zeros(1) if value is None else constant_float(value, scope)
    if own is None or np.isnan(own).any():
        return None
    total = own.reshape(-1).astype(np.float64) + (0.0 if extra is None else extra.astype(np.float64))
    steps = np.rint(total / units.astype(np.float64))
    return steps.astype(np.int32) if np.all(np.abs(steps) < 2**31 - 1) else None


# ---- convolution


def _conv(node: Node, scope: Scope) -> Patch | None:
    x, w = activation(node.inputs[0], scope), dequantized(node.inputs[1], scope)
    weights = scope.array(w.value) if w is not None else None
    if x is None or w is None or weights is None or w.type not in INT8 or not _channelwise(w, 0, weights.shape[0]):
        return None
    tail = tail_of(node, scope)
    if tail.params is None:
        return None
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = _bias(bias_value, None, x, w, weights.shape[0], scope)
    if bias_value is not None and bias is None:
        return None
    inputs = [
        *_quantized_inputs(x, scope),
        *_weight_inputs(w, w.value, scope),
        *tail.params.inputs(scope, tail.output.name),
        bias,
    ]
    return _patch("QConv", node, inputs, tail, scope, {**node.attributes})


def _channelwise(w: Quantized, axis: int, channels: int) -> bool:
    """One scale for all, or one for each output channel."""
    return w.params.per_tensor or (w.axis == axis and w.params.scale_array.shape == (channels,))


def _bias(
    value: Value | None, extra: np.ndarray | None, x: Quantized, w: Quantized, channels: int, scope: Scope
) -> Value | None:
    if value is None and extra is None:
        return None
    units = x.params.number * w.params.scale_array.reshape(-1)
    steps = integer_bias(value, extra, units, scope)
    if steps is None or steps.size not in (1, channels):
        return None
    name = value.name if value is not None else f"{w.value.name}_bias"
    return scope.constant(np.ascontiguousarray(np.broadcast_to(steps, (channels,))), f"{name}_int32")


def _quantized_inputs(found: Quantized, scope: Scope) -> tuple[Value, Value, Value]:
    return (found.value, *found.params.inputs(scope, found.value.name))


def _weight_inputs(w: Quantized, value: Value, scope: Scope) -> tuple[Value, Value, Value]:
    """Weights, their scale, and their zero point (one 0 where all are 0, which is what kernels like)."""
    scale, zero = w.params.inputs(scope, w.value.name)
    if not w.params.per_tensor and not w.params.zero_array.any():
        zero = scope.constant(np.zeros((), w.params.zero_array.dtype), f"{w.value.name}_zero_point")
    return value, scale, zero


def _patch(
    operator: str, node: Node, inputs: list[Value | None], tail: Tail, scope: Scope, attributes: dict[str, object]
) -> Patch:
    if tail.residual is not None:
        inputs = [*inputs, *_quantized_inputs(tail.residual, scope)]
    new = scope.node(operator, inputs, tail.output, {**attributes, **tail.form}, domain="headrace", like=node)
    return Patch(tail.nodes, [new])


# ---- matrix products


def _gemm(node: Node, scope: Scope) -> Patch | None:
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    return _product(node, scope, transposed=bool(attribute(node, "transB", 0)))


def _matmul(node: Node, scope: Scope) -> Patch | None:
    return _product(node, scope, transposed=False)


def _product(node: Node, scope: Scope, transposed: bool) -> Patch | None:
    x, w = activation(node.inputs[0], scope), dequantized(node.inputs[1], scope)
    weights = scope.array(w.value) if w is not None else None
    if x is None or w is None or weights is None or weights.ndim != 2 or w.type not in INT8 or (rank(x.value) or 0) < 2:
        return None
    channels = weights.shape[0 if transposed else 1]
    if not _channelwise(w, 0 if transposed else 1, channels):
        return None
    added = node.inputs[2] if len(node.inputs) > 2 else None
    if added is not None and not _is_row(added):
        return None
    tail = tail_of(node, scope, bias=added is None)
    bias = _bias(added, tail.bias, x, w, channels, scope)
    if bias is None and (added is not None or tail.bias is not None):
        return None
    value = scope.constant(np.ascontiguousarray(weights.T), w.value.name) if transposed else w.value
    out = tail.params.inputs(scope, tail.output.name) if tail.params is not None else (None, None)
    inputs = [*_quantized_inputs(x, scope), *_weight_inputs(w, value, scope), *out, bias]
    return _patch("QGemm", node, inputs, tail, scope, {})


def _is_row(value: Value) -> bool:
    """Whether a Gemm's C is one row (or one number) for all rows."""
    dims = value.type.shape if isinstance(value.type, TensorType) else None
    return dims is not None and all(dim == 1 for dim in dims[:-1])


# ---- addition


def _add(node: Node, scope: Scope) -> Patch | None:
    a, b = (activation(value, scope) for value in node.inputs)
    if a is None or b is None or not same_shape(a.value, b.value) or scope.array(a.value) is not None:
        return None
    tail = tail_of(node, scope, residual=False)
    if tail.params is None:
        return None
    inputs = [*_quantized_inputs(a, scope), *_quantized_inputs(b, scope), *tail.params.inputs(scope, tail.output.name)]
    return _patch("QAdd", node, list(inputs), tail, scope, {})
