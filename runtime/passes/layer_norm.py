"""LayerNormalization spelled out as ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div (, Mul, Add) becomes one node.

Source: Ba, Kiros and Hinton, "Layer Normalization", 2016; ONNX LayerNormalization-17.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.pattern import Pattern, any_value, constant, match, one_of, op
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, made, other_input, rank, shape

PORTABLE = True
ORDER = 41


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Div": _normalize, "Mul": _normalize})


def _keeps(value: object) -> bool:
    return value == 1


def _pattern() -> Pattern:
    x, axes = any_value("x"), constant("axes")
    centered = op("Sub", x, op("ReduceMean", x, axes, keepdims=_keeps, name="mean"))
    variance = op("ReduceMean", centered**2.0, constant("axes_2"), keepdims=_keeps)
    shifted = op("Add", variance, constant("epsilon"))
    deviation = one_of(op("Sqrt", shifted), op("Pow", shifted, 0.5))
    inverse = one_of(op("Reciprocal", deviation), op("Div", 1.0, deviation), op("Pow", shifted, -0.5))
    return one_of(op("Div", centered, deviation), op("Mul", centered, inverse))


_PATTERN = _pattern()


def _normalize(node: Node, scope: Scope) -> Patch | None:
    found = match(_PATTERN, node, scope)
    if found is None:
        return None
    x, epsilon = found["x"], scope.scalar(found["epsilon"])
    axis = _last_axes(scope.integers(found["axes"]), scope.integers(found["axes_2"]), rank(x))
    dims = shape(x)
    if epsilon is None or axis is None or dims is None:
        return None
    wanted = tuple(dim for dim in dims[axis:] if isinstance(dim, int))
    if len(wanted) < len(dims) - axis:
        return None
    nodes, output = list(found.nodes), made(node)
    scale, nodes, output = _next(scope, "Mul", nodes, output, wanted)
    bias: Value | None = None
    if scale is not None:
        bias, nodes, output = _next(scope, "Add", nodes, output, wanted)
    else:
        scale = scope.constant(np.ones(wanted, _numpy(dtype(x))), f"{output.name}_scale")
    attributes = {"axis": axis - len(dims), "epsilon": epsilon}
    return Patch(nodes, [scope.node("LayerNormalization", [x, scale, bias], output, attributes, like=node)])


def _last_axes(first: tuple[int, ...] | None, second: tuple[int, ...] | None, axes: int | None) -> int | None:
    """The first normalized axis, where both means go over the same axes and these are the last ones."""
    if not first or not second or axes is None:
        return None
    chosen = sorted(axis % axes for axis in first)
    if chosen != sorted(axis % axes for axis in second) or chosen != list(range(chosen[0], axes)):
        return None
    return chosen[0]


def _next(
    scope: Scope, kind: str, nodes: list[Node], output: Value, wanted: tuple[int, ...]
) -> tuple[Value | None, list[Node], Value]:
    """The constant of the following Mul or Add, where it has the normalized dimensions; and the pattern grown by it."""
    following = scope.user(output, kind)
    if following is not None:
        other = other_input(following, output)
        array = scope.array(other)
        if (
            other is not None
            and array is not None
            and array.size == int(np.prod(wanted))
            and array.shape[-len(wanted) :] == wanted
        ):
            fitted = other if array.shape == wanted else scope.constant(array.reshape(wanted), other.name)
            return fitted, [*nodes, following], made(following)
    return None, nodes, output


def _numpy(name: str | None) -> np.dtype:
    return dtypes.of(name or "float32").numpy
