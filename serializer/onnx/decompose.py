"""Operators of the domain "headrace", and those that are newer than the operator set asked for, in standard operators, for
files that others read.

Each rule is a function (F, inputs, attributes) -> value or tuple of values, found by the operator's name. `decompose`
answers a graph without such nodes; a node without a rule is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.namespaces import BuilderNamespace
from headrace.runtime.ops import find
from headrace.serializer.onnx.downgrade import schema_of
from headrace.serializer.onnx.formulas import FUNCTIONS, NEWER, Rule

_RULES: dict[str, Rule] = {**FUNCTIONS}
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def rule(function: Rule) -> Rule:
    """Register a rule under its own name."""
    _RULES[function.__name__] = function
    return function


def _replaced(node: Node, opset: int | None, functions: bool) -> bool:
    """Whether a formula must take the node's place. Raises GraphError for one of our domain that has none."""
    if node.domain == "headrace":
        if node.operator not in _RULES:
            raise GraphError(
                f"{node.label()}: the operator has no form in standard ONNX; allowed: {', '.join(sorted(_RULES))}"
            )
        return not functions
    newer = not node.domain and opset is not None and node.operator in NEWER
    return newer and schema_of(node.operator, "", opset or 0) is None


def decompose(graph: Graph, opset: int | None = None, *, functions: bool = False) -> Graph:
    """The graph with every headrace operator replaced (or kept, with `functions`: see `bodies`), and with `opset` those standard
    ones that this set lacks and that have a formula; itself where there is none. Value names stay."""
    replaced = {id(node) for node in graph.block.walk() if _replaced(node, opset, functions)}
    if not replaced:
        return graph
    fresh = Graph(
        Block([Value(value.name, value.type) for value in graph.inputs], [], []),
        dict(graph.constants), dict(graph.values), graph.name, list(graph.states), dict(graph.metadata),
    )  # fmt: skip
    builder = Builder(fresh)
    builder.names.update(graph.names())
    known = {id(old): new for old, new in zip(graph.inputs, fresh.inputs)}
    known |= {id(value): value for value in graph.values.values()}
    _copy(graph.block, builder, known, replaced)
    return decompose(fresh, opset, functions=functions)  # a formula may say an operator that this set lacks as well


def _copy(block: Block, builder: Builder, known: dict[int, Value], replaced: set[int]) -> None:
    for node in block.nodes:
        inputs = [None if value is None else known[id(value)] for value in node.inputs]
        results: list[Value | None]
        if id(node) in replaced:
            results = [*expand(node, inputs, builder)]
            for old, new in zip(node.outputs, results):
                if old is not None and new is not None:
                    new.name = old.name
        else:
            results = [None if value is None else Value(value.name, value.type) for value in node.outputs]
            attributes = {
                key: _inner(value, builder, known, replaced) if isinstance(value, Block) else value
                for key, value in node.attributes.items()
            }
            builder.append(
                Node(
                    node.operator,
                    inputs,
                    results,
                    attributes,
                    domain=node.domain,
                    name=node.name,
                    path=node.path,
                    version=node.version,
                )
            )
        known |= {id(old): new for old, new in zip(node.outputs, results) if old is not None and new is not None}
    builder.block.outputs.extend(known[id(value)] for value in block.outputs)


def _inner(block: Block, builder: Builder, known: dict[int, Value], replaced: set[int]) -> Block:
    inputs = [Value(value.name, value.type) for value in block.inputs]
    fresh = Block(inputs, [], [])
    _copy(block, builder.inner(fresh), known | {id(old): new for old, new in zip(block.inputs, inputs)}, replaced)
    return fresh


def expand(node: Node, inputs: list[Value | None], builder: Builder) -> list[Value]:
    """The node's outputs as its formula makes them over `inputs`, each by a node of its own. Raises GraphError where the
    formula cannot say this node."""
    operator, function = find(node.operator, node.domain), (_RULES if node.domain else NEWER)[node.operator]
    assert operator is not None
    start = len(builder.nodes)
    formals = len(operator.inputs)
    try:
        made = function(
            BuilderNamespace(builder, node.path),
            [*inputs, *[None] * formals][: max(formals, len(inputs))],
            operator.complete(node.attributes),
        )
    except GraphError as error:
        raise GraphError(f"{node.label()}: has no form in standard ONNX here: {error}") from error
    results = list(made) if isinstance(made, tuple) else [made]
    if any(old is not None for old in node.outputs[len(results) :]):
        raise GraphError(f"{node.label()}: has no form in standard ONNX with {len(node.outputs)} outputs")
    own = {id(value) for new in builder.nodes[start:] for value in new.outputs}
    for index, value in enumerate(results):  # an input passed on, or one value twice, goes through a node of its own
        if id(value) not in own:
            (results[index],) = builder.node("Identity", [value], path=node.path)
        own.discard(id(value))
    return results


def activate(F: Any, y: Any, attributes: Mapping[str, Any]) -> Any:
    """The fused operators' `activation`, with its parameters."""

    def get(key: str, default: float) -> float:
        return default if attributes.get(key) is None else float(attributes[key])

    match attributes.get("activation") or "":
        case "":
            return y
        case "Relu" | "HardSwish" | "Sigmoid" | "Tanh" | "Gelu" | "Softplus" | "Mish" as name:
            return getattr(F, name)(y)
        case "GeluTanh":
            return F.Gelu(y, approximate="tanh")
        case "Silu":
            return F.Mul(y, F.Sigmoid(y))
        case "LeakyRelu":
            return F.LeakyRelu(y, alpha=get("alpha", 0.01))
        case "Elu":
            return F.Elu(y, alpha=get("alpha", 1.0))
        case "HardSigmoid":
            return F.HardSigmoid(y, alpha=get("alpha", 0.2), beta=get("beta", 0.5))
        case "Clip":
            return _clip(F, y, attributes.get("clip_min"), attributes.get("clip_max"))
        case other:
            raise GraphError(f"the activation {other!r} has no standard operator")


def _clip(F: Any, y: Any, low: float | None, high: float | None) -> Any:
    kind = dtypes.of(F.dtype(y)).numpy
    bounds = [None if bound is None or np.isinf(bound) else F.constant(np.array(bound, kind)) for bound in (low, high)]
    return y if bounds == [None, None] else F.Clip(y, *bounds)


def _conv_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attributes[key] for key in _CONV if attributes.get(key) is not None}


@rule
def FusedConv(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, w, bias, r = inputs[:4]
    y = F.Conv(x, w, bias, **_conv_attributes(attributes))
    return activate(F, y if r is None else F.Add(y, r), attributes)


def _swap(F: Any, value: Any) -> Any:
    """The last two dimensions exchanged."""
    rank = F.rank(value)
    return F.Transpose(value, perm=(*range(rank - 2), rank - 1, rank - 2))


@rule
def FusedMatMul(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    a, b, bias, r = inputs[:4]
    y = F.MatMul(_swap(F, a) if attributes.get("transA") else a, _swap(F, b) if attributes.get("transB") else b)
    factor = attributes.get("alpha")
    if factor is not None and factor != 1.0:
        y = F.Mul(y, F.constant(np.array(factor, dtypes.of(F.dtype(y)).numpy)))
    for term in (bias, r):
        y = y if term is None else F.Add(y, term)
    return activate(F, y, {key: value for key, value in attributes.items() if key != "alpha"})


def _channels(F: Any, scale: Any, axis: int) -> dict[str, int]:
    """Attributes of a DequantizeLinear whose scale is one number, or one for each index along `axis`."""
    return {"axis": axis} if F.rank(scale) == 1 else {}


def _bias(F: Any, bias: Any, x_scale: Any, w_scale: Any) -> Any:
    """An int32 bias in units of x_scale * w_scale, as float32 [M]."""
    return F.Mul(F.Cast(bias, to=1), F.Reshape(F.Mul(x_scale, w_scale), F.constant(np.array([-1], np.int64))))


@rule
def QConv(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias, r, r_scale, r_zp = inputs[:12]
    weights = F.DequantizeLinear(w, w_scale, w_zp, **_channels(F, w_scale, 0))
    y = F.Conv(F.DequantizeLinear(x, x_scale, x_zp), weights, **_conv_attributes(attributes))
    if bias is not None:
        spread = F.constant(np.array([1, -1, *[1] * (F.rank(w) - 2)], np.int64))
        y = F.Add(y, F.Reshape(_bias(F, bias, x_scale, w_scale), spread))
    if r is not None:
        y = F.Add(y, F.DequantizeLinear(r, r_scale, r_zp))
    return F.QuantizeLinear(activate(F, y, attributes), y_scale, y_zp)


@rule
def QGemm(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias, r, r_scale, r_zp = inputs[:12]
    y = F.MatMul(F.DequantizeLinear(x, x_scale, x_zp), F.DequantizeLinear(w, w_scale, w_zp, **_channels(F, w_scale, 1)))
    if bias is not None:
        y = F.Add(y, _bias(F, bias, x_scale, w_scale))
    if r is not None:
        y = F.Add(y, F.DequantizeLinear(r, r_scale, r_zp))
    y = activate(F, y, attributes)
    return y if y_scale is None else F.QuantizeLinear(y, y_scale, y_zp)


@rule
def QAdd(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp = inputs[:8]
    y = F.Add(F.DequantizeLinear(a, a_scale, a_zp), F.DequantizeLinear(b, b_scale, b_zp))
    return F.QuantizeLinear(activate(F, y, attributes), y_scale, y_zp)


@rule
def DynamicQuantizeRows(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x = inputs[0]
    zero, steps, axes = F.constant(np.float32(0)), F.constant(np.float32(255)), F.constant(np.array([-1], np.int64))
    low = F.Min(F.ReduceMin(x, axes, keepdims=1), zero)
    high = F.Max(F.ReduceMax(x, axes, keepdims=1), zero)
    scale = F.Div(F.Sub(high, low), steps)
    divisor = F.Where(F.Equal(scale, zero), F.constant(np.float32(1)), scale)  # the scale of a row of zeros is 1
    level = F.Round(F.Clip(F.Sub(zero, F.Div(low, divisor)), zero, steps))
    levels = F.Clip(F.Add(F.Round(F.Div(x, divisor)), level), zero, steps)
    return F.Cast(levels, to=2), divisor, F.Cast(level, to=2)


@rule
def DynamicMatMul(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, w, w_scale, bias = inputs[:4]
    q, scale, level = DynamicQuantizeRows(F, [x], {})
    rows = F.Sub(F.Cast(q, to=1), F.Cast(level, to=1))
    y = F.Mul(F.Mul(F.MatMul(rows, F.Cast(w, to=1)), scale), w_scale)
    return activate(F, y if bias is None else F.Add(y, bias), attributes)


@rule
def MatMulIntegerToFloat(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    a, b, a_scale, b_scale, a_zp, b_zp, bias = inputs[:7]
    y = F.Mul(F.Cast(F.MatMulInteger(a, b, a_zp, b_zp), to=1), F.Mul(a_scale, b_scale))
    return activate(F, y if bias is None else F.Add(y, bias), attributes)


@rule
def SumTo(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, like = inputs
    shape, target = F.type(x).shape, F.type(like).shape
    if shape is None or target is None:
        raise GraphError("the ranks of its inputs are not known")
    lead = len(shape) - len(target)
    axes = [*range(lead), *(lead + i for i, dim in enumerate(target) if dim == 1 and shape[lead + i] != 1)]
    if any(dim not in (1, shape[lead + i]) for i, dim in enumerate(target)):
        raise GraphError("which dimensions were broadcast depends on symbolic sizes")
    if not axes:
        return x
    return F.Reshape(F.ReduceSum(x, F.constant(np.array(axes, np.int64)), keepdims=1), F.Shape(like))
