"""Activations that exporters spell out become one node: HardSwish, HardSigmoid, Swish (SiLU), Mish."""

from __future__ import annotations

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.pattern import any_value, constant, match, near, one_of, op
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, number, rank

PORTABLE = True
ORDER = 43


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Mul": _product, "Div": _quotient})


_X = any_value("x")
_RELU6 = op("Clip", _X + 3.0, 0.0, 6.0)  # clip(x + 3, 0, 6)
_SIXTH = op("HardSigmoid", _X, alpha=lambda a: near(a, 1 / 6), beta=lambda b: near(b, 0.5))
_HARD_SWISH = one_of((_X * _RELU6) / 6.0, _X * (_RELU6 / 6.0), (_X / 6.0) * _RELU6, _X * _SIXTH)
_HARD_SIGMOID = _RELU6 / 6.0
_SWISH = _X * op("Sigmoid", _X)
_SCALED_SWISH = _X * op("Sigmoid", op("Mul", _X, constant("alpha")))
_MISH = _X * op("Tanh", op("Softplus", _X))


def _quotient(node: Node, scope: Scope) -> Patch | None:
    return _hard(node, scope)


def _product(node: Node, scope: Scope) -> Patch | None:
    return _hard(node, scope) or _swish(node, scope) or _scaled_swish(node, scope) or _mish(node, scope)


def _hard(node: Node, scope: Scope) -> Patch | None:
    found = match(_HARD_SWISH, node, scope)
    if found is not None:
        return Patch(found.nodes, [scope.node("HardSwish", [found["x"]], node.outputs[0], like=node)])
    found = match(_HARD_SIGMOID, node, scope)
    # x * (clip(x + 3, 0, 6) / 6) is a HardSwish whose root comes later
    if found is None or any(found["x"] in user.inputs for user in scope.users(node.outputs[0]) if user.kind == "Mul"):
        return None
    attributes = {"alpha": 1.0 / 6.0, "beta": 0.5}
    return Patch(found.nodes, [scope.node("HardSigmoid", [found["x"]], node.outputs[0], attributes, like=node)])


def _swish(node: Node, scope: Scope) -> Patch | None:
    found = match(_SWISH, node, scope)
    if found is None:
        return None
    return Patch(found.nodes, [scope.node("Swish", [found["x"]], node.outputs[0], {"alpha": 1.0}, like=node)])


def _scaled_swish(node: Node, scope: Scope) -> Patch | None:
    found = match(_SCALED_SWISH, node, scope)
    if found is None:
        return None
    alpha = scope.scalar(found["alpha"])
    if alpha is None or not _no_wider(found["alpha"], found["x"]):
        return None
    return Patch(found.nodes, [scope.node("Swish", [found["x"]], node.outputs[0], {"alpha": alpha}, like=node)])


def _mish(node: Node, scope: Scope) -> Patch | None:
    found = match(_MISH, node, scope)
    if found is None:
        return None
    return Patch(found.nodes, [scope.node("Mish", [found["x"]], node.outputs[0], like=node)])


def _no_wider(alpha: Value, x: Value) -> bool:
    return (rank(alpha) or 0) <= (rank(x) or 0)


def fused_form(node: Node | None, scope: Scope) -> dict[str, object] | None:
    """An activation node as attributes of a fused operator (activation, alpha, beta, clip_min, clip_max); None for
    what is no activation of constant parameters."""
    if node is None or len(node.outputs) != 1:
        return None
    match node.kind:
        case "Relu" | "HardSwish" | "Sigmoid" | "Tanh":
            return {"activation": node.operator}
        case "Swish" if near(number(node, "alpha", 1.0), 1.0):
            return {"activation": "Silu"}
        case "LeakyRelu":
            return {"activation": "LeakyRelu", "alpha": number(node, "alpha", 0.01)}
        case "HardSigmoid":
            return {"activation": "HardSigmoid", "alpha": number(node, "alpha", 0.2), "beta": number(node, "beta", 0.5)}
        case "Gelu":
            exact = attribute(node, "approximate", "none") == "none"
            return {"activation": "Gelu" if exact else "GeluTanh"}
        case "Clip":
            return _clip(node, scope)
    return None


def _clip(node: Node, scope: Scope) -> dict[str, object] | None:
    bounds: dict[str, object] = {}
    for key, value in zip(("clip_min", "clip_max"), node.inputs[1:]):
        bound = scope.scalar(value) if value is not None else None
        if value is not None and bound is None:
            return None
        if bound is not None:
            bounds[key] = bound
    if dtype(node.outputs[0]) == "float32" and bounds == {"clip_min": 0.0}:
        return {"activation": "Relu"}
    return {"activation": "Clip", **bounds}


def allowed(operator: str, form: dict[str, object] | None) -> bool:
    """Whether the fused operator of domain headrace knows this activation and takes these attributes."""
    known = find(operator, "headrace")
    if known is None or form is None:
        return False
    choices = known.attributes["activation"].choices
    return (not choices or form["activation"] in choices) and all(key in known.attributes for key in form)
