"""LayerNormalization spelled out as ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div (, Mul, Add) becomes one node, and so does
RMSNormalization, which takes no mean off: Pow, ReduceMean, Add, Sqrt, Div (, Mul).

Source: Ba, Kiros and Hinton, "Layer Normalization", 2016; ONNX LayerNormalization-17. Zhang and Sennrich, "Root Mean Square Layer
Normalization", 2019; ONNX RMSNormalization-23.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.pattern import Match, Pattern, any_value, constant, match, one_of, op
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, made, other_input, rank, shape

PORTABLE = True
ORDER = 41


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Div": _normalize, "Mul": _normalize})


def _keeps(value: object) -> bool:
    return value == 1


def _divided(x: Pattern, squares: Pattern) -> Pattern:
    """x / sqrt(mean(squares) + epsilon)."""
    shifted = op("Add", op("ReduceMean", squares, constant("axes"), keepdims=_keeps), constant("epsilon"))
    deviation = one_of(op("Sqrt", shifted), op("Pow", shifted, 0.5))
    inverse = one_of(op("Reciprocal", deviation), op("Div", 1.0, deviation), op("Pow", shifted, -0.5))
    return one_of(op("Div", x, deviation), op("Mul", x, inverse))


def _centered() -> Pattern:
    x = any_value("x")
    centered = op("Sub", x, op("ReduceMean", x, constant("mean_axes"), keepdims=_keeps))
    return _divided(centered, centered**2.0)


_FORMS = (
    ("LayerNormalization", _centered()),
    ("RMSNormalization", _divided(any_value("x"), any_value("x") ** 2.0)),
)


def _normalize(node: Node, scope: Scope) -> Patch | None:
    for operator, pattern in _FORMS:
        found = match(pattern, node, scope)
        if found is not None:
            return _patch(node, operator, found, scope)
    return None


def _patch(node: Node, operator: str, found: Match, scope: Scope) -> Patch | None:
    x, epsilon, axes = found["x"], scope.scalar(found["epsilon"]), scope.integers(found["axes"])
    mean = scope.integers(found["mean_axes"]) if operator == "LayerNormalization" else axes
    axis, dims = _last_axes(mean, axes, rank(x)), shape(x)
    if epsilon is None or axis is None or dims is None or dtype(x) == "float64":  # there are kernels of its parts alone
        return None
    wanted = tuple(dim for dim in dims[axis:] if isinstance(dim, int))
    if len(wanted) < len(dims) - axis:
        return None
    nodes, output = list(found.nodes), made(node)
    scale, nodes, output = _next(scope, "Mul", nodes, output, wanted)
    bias: Value | None = None
    if scale is not None and operator == "LayerNormalization":
        bias, nodes, output = _next(scope, "Add", nodes, output, wanted)
    if scale is None:
        scale = scope.constant(np.ones(wanted, _numpy(dtype(x))), f"{output.name}_scale")
    attributes = {"axis": axis - len(dims), "epsilon": epsilon}
    return Patch(nodes, [scope.node(operator, [x, scale, bias], output, attributes, like=node)])


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
