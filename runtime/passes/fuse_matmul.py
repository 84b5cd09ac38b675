"""Matrix products with what surrounds them become headrace.FusedMatMul: a Transpose of the last two axes before, a
constant factor, a bias, an Add of a value of the same shape, and an activation after. Gemm becomes one too. Not float64,
which has kernels of plain products alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import allowed, fused_form
from headrace.runtime.passes.identities import permutation
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, is_float, number, other_input, rank, same_shape

PORTABLE = True
ORDER = 82
FUSED = dtypes.FLOAT - {"float64"}


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"MatMul": _matmul, "Gemm": _gemm, "headrace.FusedMatMul": _matmul})


@dataclass
class Product:
    """A product being put together: alpha * op(a) op(b) + bias + r, then an activation."""

    a: Value
    b: Value
    output: Value
    nodes: list[Node]
    bias: Value | None = None
    r: Value | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def _matmul(node: Node, scope: Scope) -> Patch | None:
    if dtype(node.outputs[0]) not in FUSED or node.attributes.get("activation"):
        return None
    a, b, bias, r = [*node.inputs, None, None][:4]
    if a is None or b is None or node.outputs[0] is None:
        return None
    product = Product(a, b, node.outputs[0], [node], bias, r, dict(node.attributes))
    _take_transposes(product, scope)
    if dtype(product.output) == "float32":  # narrow types round every factor; tests of ONNX see it
        _take_operand_factors(product, scope)
        _take_transposes(product, scope)
        _take_factor(product, scope)
    _take_tail(product, scope)
    changed = len(product.nodes) > 1 or product.a is not a or product.b is not b
    return _patch(product, node, scope) if changed else None


def _gemm(node: Node, scope: Scope) -> Patch | None:
    """Gemm with a bias row, or without C; another C (a column, a matrix) stays a Gemm."""
    if dtype(node.outputs[0]) not in FUSED:
        return None
    a, b, c = [*node.inputs, None][:3]
    if a is None or b is None or node.outputs[0] is None:
        return None
    product = Product(a, b, node.outputs[0], [node])
    for key in ("transA", "transB"):
        if attribute(node, key, 0):
            product.attributes[key] = 1
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    if alpha != 1.0:
        product.attributes["alpha"] = alpha
    if c is not None:
        product.bias = _row(c, product.output, scope, beta)
        if product.bias is None and same_shape(c, product.output) and beta == 1.0:
            product.r = c
        elif product.bias is None:
            return None
    _take_tail(product, scope)
    return _patch(product, node, scope)


def _patch(product: Product, node: Node, scope: Scope) -> Patch:
    inputs = [product.a, product.b, product.bias, product.r]
    return Patch(
        product.nodes,
        [scope.node("FusedMatMul", inputs, product.output, product.attributes, domain="headrace", like=node)],
    )


def _take_transposes(product: Product, scope: Scope) -> None:
    """A Transpose of the last two axes is an attribute."""
    for key, side in (("transA", "a"), ("transB", "b")):
        before = scope.producer(getattr(product, side), "Transpose")
        perm = permutation(before) if before is not None else None
        if before is None or perm is None or len(perm) < 2 or before.inputs[0] is None:
            continue
        axes = len(perm)
        if perm == (*range(axes - 2), axes - 1, axes - 2):
            setattr(product, side, before.inputs[0])
            product.attributes[key] = 1 - product.attributes.get(key, 0)


def _take_operand_factors(product: Product, scope: Scope) -> None:
    """A number that an operand is multiplied with is alpha, where nobody else reads the operand."""
    for side in ("a", "b"):
        value: Value = getattr(product, side)
        before = scope.producer(value, "Mul")
        if before is None or not scope.single(value):
            continue
        for x, other in (before.inputs, before.inputs[::-1]):
            factor = scope.scalar(other)
            if x is not None and factor is not None and (rank(other) or 0) <= (rank(x) or 0):
                setattr(product, side, x)
                product.attributes["alpha"] = product.attributes.get("alpha", 1.0) * factor
                break


def _take_factor(product: Product, scope: Scope) -> None:
    """A Mul or Div of the product by one number is alpha, where nothing was added before."""
    if product.bias is not None or product.r is not None:
        return
    following = scope.user(product.output, "Mul", "Div")
    other = other_input(following, product.output)
    factor = scope.scalar(other)
    if following is None or factor is None or (rank(other) or 0) > (rank(product.output) or 0):
        return
    if following.kind == "Div":
        if following.inputs[0] is not product.output or factor == 0:
            return
        factor = 1.0 / factor
    product.attributes["alpha"] = product.attributes.get("alpha", 1.0) * factor
    _grow(product, following)


def _take_tail(product: Product, scope: Scope) -> None:
    following = scope.user(product.output, "Add")
    if following is not None and product.bias is None and product.r is None:
        bias = _row(other_input(following, product.output), product.output, scope)
        if bias is not None:
            product.bias = bias
            _grow(product, following)
            following = scope.user(product.output, "Add")
    other = other_input(following, product.output)
    if (
        following is not None
        and product.r is None
        and other is not product.output
        and same_shape(other, product.output)
    ):
        product.r = other
        _grow(product, following)
    following = scope.user(product.output)
    form = fused_form(following, scope)
    if following is not None and following.inputs[0] is product.output and allowed("FusedMatMul", form):
        form = {} if form is None else form
        if "alpha" not in form:  # FusedMatMul's alpha is the factor of the product
            product.attributes.update(form)
            _grow(product, following)


def _grow(product: Product, node: Node) -> None:
    product.nodes.append(node)
    product.output = node.outputs[0]  # type: ignore[assignment]


def _row(value: Value | None, output: Value, scope: Scope, factor: float = 1.0) -> Value | None:
    """A constant that is one row for all rows, as a vector of the product's width; None for anything else."""
    array, dims = scope.array(value), getattr(output.type, "shape", None)
    if array is None or value is None or not dims or not isinstance(dims[-1], int) or not is_float(array):
        return None
    if array.ndim > len(dims) or array.size not in (1, dims[-1]) or any(size != 1 for size in array.shape[:-1]):
        return None
    if array.ndim == 1 and array.shape[0] == dims[-1] and factor == 1.0:
        return value
    row = np.broadcast_to(array.reshape(-1), (dims[-1],)) * np.array(factor, array.dtype)
    return scope.constant(np.ascontiguousarray(row.astype(array.dtype)), value.name)
