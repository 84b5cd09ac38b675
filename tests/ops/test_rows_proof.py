"""Which graphs may be batched: the proof, and the node that is named where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.namespaces import BuilderNamespace
from headrace.runtime.rows import prove_rows
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

B, S = symbol("batch"), symbol("seq")


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def proof(build: Callable[[Any, Any], Any], *shape: Any, dtype: str = "float32") -> Any:
    graph = Graph(Block([Value("x", TensorType(dtype, shape or (B, 4)))], [], []))
    F = BuilderNamespace(Builder(graph))
    result = build(F, graph.inputs[0])
    graph.outputs.extend(list(result) if isinstance(result, tuple) else [result])
    return prove_rows(graph)


def weight(F: Any, *shape: int) -> Any:
    return F.constant(np.ones(shape, np.float32))


def mlp(F: Any, x: Any) -> Any:
    return F.Softmax(F.Gemm(F.Relu(F.MatMul(x, weight(F, 4, 8))), weight(F, 2, 8), weight(F, 2), transB=1), axis=-1)


def normalised(F: Any, x: Any) -> Any:
    mean = F.ReduceMean(x, F.constant(i64(1)), keepdims=1)
    return F.Sub(x, mean)


def reshaped(F: Any, x: Any) -> Any:
    """x.view(x.size(0), -1, 2), as torch exports it."""
    first = F.Unsqueeze(F.Gather(F.Shape(x), F.constant(np.array(0))), F.constant(i64(0)))
    return F.Reshape(x, F.Concat(first, F.constant(i64(-1, 2)), axis=0))


def attention(F: Any, x: Any) -> Any:
    """[batch, seq, 8] with two heads; the reshapes take the sizes from Shape."""
    shape = F.Shape(x)
    heads = F.Concat(F.Slice(shape, F.constant(i64(0)), F.constant(i64(2))), F.constant(i64(2, 4)), axis=0)
    q, k, v = (F.Transpose(F.Reshape(F.MatMul(x, weight(F, 8, 8)), heads), perm=(0, 2, 1, 3)) for _ in range(3))
    scores = F.Softmax(F.MatMul(q, F.Transpose(k, perm=(0, 1, 3, 2))), axis=-1)
    mixed = F.Transpose(F.MatMul(scores, v), perm=(0, 2, 1, 3))
    back = F.Concat(F.Slice(shape, F.constant(i64(0)), F.constant(i64(2))), F.constant(i64(8)), axis=0)
    return F.Reshape(mixed, back)


def folded_heads(F: Any, x: Any) -> Any:
    """[batch, 5, 8] as torch's MultiheadAttention: time first, the heads folded into the batch, and back."""
    batch = F.Unsqueeze(F.Gather(F.Shape(x), F.constant(np.array(0))), F.constant(i64(0)))
    folded = F.Concat(F.constant(i64(5)), F.Mul(batch, F.constant(i64(2))), F.constant(i64(4)), axis=0)
    time_first = F.Transpose(x, perm=(1, 0, 2))
    q, k, v = (F.Transpose(F.Reshape(F.MatMul(time_first, weight(F, 8, 8)), folded), perm=(1, 0, 2)) for _ in range(3))
    mixed = F.MatMul(F.Softmax(F.MatMul(q, F.Transpose(k, perm=(0, 2, 1))), axis=-1), v)
    back = F.Reshape(
        F.Transpose(mixed, perm=(1, 0, 2)), F.Concat(F.constant(i64(5)), batch, F.constant(i64(8)), axis=0)
    )
    return F.Transpose(back, perm=(1, 0, 2))


def folded_time(F: Any, x: Any) -> Any:
    """[batch, 5, 8] time first, time and batch as one axis for a product, and back."""
    flat = F.Reshape(F.Transpose(x, perm=(1, 0, 2)), F.constant(i64(-1, 8)))
    y = F.Gemm(flat, weight(F, 8, 8), weight(F, 8))
    return F.Transpose(F.Reshape(y, F.constant(i64(5, -1, 8))), perm=(1, 0, 2))


def folded_otherwise(F: Any, x: Any) -> Any:
    """The same, but read back as if the batch were in front: rows of several examples in one."""
    flat = F.Reshape(F.Transpose(x, perm=(1, 0, 2)), F.constant(i64(-1, 8)))
    return F.Reshape(F.Relu(flat), F.constant(i64(-1, 5, 8)))


def added_across(F: Any, x: Any) -> Any:
    """Two folds of one size that are not the same: [batch * 5] and [5 * batch]."""
    time_first = F.Reshape(F.Transpose(x, perm=(1, 0, 2)), F.constant(i64(-1, 8)))
    return F.Reshape(F.Add(time_first, F.Reshape(x, F.constant(i64(-1, 8)))), F.constant(i64(-1, 5, 8)))


def twice(F: Any, x: Any) -> Any:
    """[batch, 4] as [2 * batch, 2]."""
    batch = F.Unsqueeze(F.Gather(F.Shape(x), F.constant(np.array(0))), F.constant(i64(0)))
    return F.Reshape(x, F.Concat(F.Mul(batch, F.constant(i64(2))), F.constant(i64(2)), axis=0))


def batch_of(F: Any, x: Any) -> Any:
    return F.Unsqueeze(F.Gather(F.Shape(x), F.constant(np.array(0))), F.constant(i64(0)))


def batch_middle(F: Any, x: Any) -> Any:
    """Time first and back, as recurrent models do."""
    return F.Transpose(F.Tanh(F.Transpose(x, perm=(1, 0, 2))), perm=(1, 0, 2))


def convolution(F: Any, x: Any) -> Any:
    y = F.Relu(F.Conv(x, weight(F, 5, 3, 3, 3), pads=(1, 1, 1, 1)))
    return F.Flatten(F.GlobalAveragePool(y))


def zeros_of_batch(F: Any, x: Any) -> Any:
    first = F.Slice(F.Shape(x), F.constant(i64(0)), F.constant(i64(1)))
    return F.Add(x, F.ConstantOfShape(F.Concat(first, F.constant(i64(4)), axis=0)))


def self_product(F: Any, x: Any) -> Any:
    return F.Einsum(x, weight(F, 4, 3), equation="bi,ij->bj")


@pytest.mark.parametrize(
    "build, shape",
    [
        (mlp, (B, 4)),
        (normalised, (B, 4)),
        (reshaped, (B, 4)),
        (attention, (B, S, 8)),
        (batch_middle, (B, S, 3)),
        (folded_heads, (B, 5, 8)),
        (folded_time, (B, 5, 8)),
        (lambda F, x: F.Reshape(F.Relu(twice(F, x)), F.constant(i64(-1, 4))), (B, 4)),
        (convolution, (B, 3, 8, 8)),
        (zeros_of_batch, (B, 4)),
        (self_product, (B, 4)),
        (lambda F, x: F.Clip(x, weight(F), weight(F)), (B, 4)),
        (lambda F, x: F.TopK(x, F.constant(i64(2)), outputs=2), (B, 4)),
        (lambda F, x: F.ArgMax(x, axis=1, keepdims=0), (B, 4)),
        (lambda F, x: F.CumSum(x, F.constant(np.array(1))), (B, 4)),
        (lambda F, x: F.Concat(x, F.Neg(x), axis=1), (B, 4)),
        (lambda F, x: F.Where(F.Greater(x, weight(F)), x, F.Dropout(x)), (B, 4)),
    ],
)
def test_independent(build: Callable[[Any, Any], Any], shape: tuple[Any, ...]) -> None:
    found = proof(build, *shape)
    assert found.independent, found.reason


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda F, x: F.Softmax(x, axis=0), "Softmax"),
        (lambda F, x: F.Sub(x, F.ReduceMean(x, F.constant(i64(0)))), "ReduceMean"),
        (lambda F, x: F.ReduceMax(x), "ReduceMax"),
        (lambda F, x: F.MatMul(x, F.Transpose(x, perm=(1, 0))), "MatMul"),
        (lambda F, x: F.Gemm(x, x, transA=1), "Gemm"),
        (lambda F, x: F.CumSum(x, F.constant(np.array(0))), "CumSum"),
        (lambda F, x: F.Add(x, weight(F, 3, 4)), "Add"),
        (lambda F, x: F.Add(F.Unsqueeze(x, F.constant(i64(0))), F.Unsqueeze(x, F.constant(i64(1)))), "Add"),
        (lambda F, x: F.Transpose(x, perm=(1, 0)), "axis 1"),
        (lambda F, x: F.Reshape(x, F.constant(i64(-1, 8))), "Reshape"),
        (lambda F, x: F.Slice(x, F.constant(i64(0)), F.constant(i64(1))), "Slice"),
        (lambda F, x: F.Mul(x, F.Cast(F.Gather(F.Shape(x), F.constant(np.array(0))), to=1)), "Gather|Shape|Cast"),
        (lambda F, x: F.RandomNormalLike(x), "RandomNormalLike"),
        (lambda F, x: F.Add(x, F.RandomUniformLike(x)), "RandomUniformLike"),
        (lambda F, x: F.Concat(x, x, axis=0), "Concat"),
        # Rows of one example are neighbours: halves of twice the batch are not it.
        (twice, "more than one row"),
        (lambda F, x: F.Slice(twice(F, x), F.constant(i64(0)), batch_of(F, x)), "Slice|Shape"),
        (lambda F, x: F.Slice(F.Concat(x, x, axis=0), F.constant(i64(0)), batch_of(F, x)), "Concat|Shape"),
        (lambda F, x: F.Reshape(F.Softmax(twice(F, x), axis=0), F.constant(i64(-1, 4))), "Softmax"),
        (lambda F, x: F.Reshape(F.Transpose(twice(F, x), perm=(1, 0)), F.constant(i64(-1, 4))), "Reshape"),
        (lambda F, x: weight(F, 2, 2), "does not carry the batch"),
        (lambda F, x: (F.Relu(x), F.Shape(x)), "."),
    ],
)
def test_not_independent(build: Callable[[Any, Any], Any], reason: str) -> None:
    found = proof(build, B, 4)
    assert not found.independent
    import re

    assert re.search(reason, found.reason), found.reason


@pytest.mark.parametrize(("build", "reason"), [(folded_otherwise, "Reshape"), (added_across, "Add")])
def test_folds_that_are_not_undone(build: Callable[[Any, Any], Any], reason: str) -> None:
    found = proof(build, B, 5, 8)
    assert not found.independent and reason in found.reason


def test_position_dependent_rows_are_refused() -> None:
    """x + arange(batch) gives row i the number i: merged, a row would see another number."""

    def build(F: Any, x: Any) -> Any:
        size = F.Gather(F.Shape(x), F.constant(np.array(0)))
        counted = F.Cast(F.Range(F.constant(np.array(0)), size, F.constant(np.array(1))), to=1)
        return F.Add(x, F.Unsqueeze(counted, F.constant(i64(1))))

    assert not proof(build, B, 4).independent


@pytest.mark.parametrize(
    "shapes, reason",
    [
        (((2, 4),), "fixed"),
        (((),), "no batch dimension"),
        (((B, 4), (symbol("other"), 4)), "that of others"),
        (((B, B),), "second dimension"),
        (((B, 4), (4,)), "fixed"),
    ],
)
def test_inputs_must_share_one_symbol(shapes: tuple[Any, ...], reason: str) -> None:
    graph = Graph(Block([Value(f"x{i}", TensorType("float32", shape)) for i, shape in enumerate(shapes)], [], []))
    graph.outputs.append(graph.inputs[0])
    found = prove_rows(graph)
    assert not found.independent and reason in found.reason
