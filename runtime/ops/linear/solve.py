"""Square matrices: Det (ONNX), and of the domain headrace Inverse, Solve and Cholesky. Leading dimensions are batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.base import MIXED, Accuracy, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw, numpy_dtype, scalar, unbroadcast
from headrace.runtime.ops.linear.matmul import matmul_shape, transpose_last
from headrace.runtime.shapes import Shape, equal
from headrace.runtime.types import TensorType, Type

REAL = frozenset({"float32", "float64"})


def matrices(context: Context, index: int = 0, square: bool = True) -> Shape | None:
    """The shape [..., m, n] of an input. GraphError where it holds no (square) matrices."""
    shape = context.shape(index)
    if shape is not None and (len(shape) < 2 or (square and equal(shape[-1], shape[-2]) is False)):
        raise GraphError(f"input {index} must hold {'square ' if square else ''}matrices, not {context.type(index)}")
    return shape


def batch_rows(tags: Sequence[int | None], context: Context, outputs: int = 1, matrix: int = 2) -> list[int | None]:
    """Row tags of an operator that treats each matrix of input 0 alone."""
    rank = context.type(0).rank
    if all(tag is None for tag in tags):
        return [None] * outputs
    if (
        len([tag for tag in tags if tag is not None]) > 1
        or tags[0] in (None, MIXED)
        or rank is None
        or tags[0] >= rank - matrix
    ):
        return [MIXED] * outputs
    return [tags[0]] * outputs


def well_conditioned(rng: np.random.Generator, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
    """Random matrices near a multiple of the identity."""
    return (draw(rng, shape, "float64", -0.5, 0.5) + 2.0 * np.eye(shape[-1])).astype(numpy_dtype(dtype))


def last_size(F: Any, x: Any) -> int:
    """The size of the matrices; GraphError where it is symbolic."""
    shape = F.type(x).shape
    if shape is None or not isinstance(shape[-1], int):
        raise GraphError("this gradient needs a known matrix size")
    return shape[-1]


def constant(F: Any, array: np.ndarray, like: Any) -> Any:
    return F.constant(array.astype(numpy_dtype(F.dtype(like))))


def symmetric(F: Any, x: Any) -> Any:
    """(x + x^T) / 2."""
    return F.Mul(F.Add(x, transpose_last(F, x)), scalar(F, 0.5, x))


class _Square(Operator):
    """One square matrix in; same shape out."""

    domain = "headrace"
    inputs = (In("A"),)
    outputs = (Out("Y"),)
    types = {"T": REAL}
    accuracy = Accuracy(64.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), matrices(context))]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_rows(tags, context)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 3), (1, 1), (2, 4, 4), (0, 2, 2), (2, 1, 3, 3)):
            yield Sample([well_conditioned(rng, shape)])
        yield Sample([well_conditioned(rng, (3, 3), "float64")])


class Det(_Square):
    """Determinants; at a singular matrix the gradient does not exist here."""

    domain = ""
    versions = (11, 22)
    inputs = (In("X"),)
    types = {"T": dtypes.FLOAT}

    def infer(self, context: Context) -> list[Type | None]:
        shape = matrices(context)
        return [TensorType(context.dtype(), None if shape is None else shape[:-2])]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(np.linalg.det, inputs, inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        last = F.constant(np.array([-2, -1], np.int64))
        scaled = F.Unsqueeze(F.Mul(grads[0], outputs[0]), last)
        return [F.Mul(scaled, transpose_last(F, F.Inverse(inputs[0])))]


class Inverse(_Square):
    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        try:
            return [np.linalg.inv(inputs[0])]
        except np.linalg.LinAlgError:
            raise RunError("the matrix is singular: it has no inverse") from None

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        turned = transpose_last(F, outputs[0])
        return [F.Neg(F.MatMul(turned, F.MatMul(grads[0], turned)))]


class Solve(Operator):
    """X with A @ X = B: A is [..., n, n], B is [..., n, k]; leading dimensions are broadcast."""

    domain = "headrace"
    inputs = (In("A"), In("B"))
    outputs = (Out("X"),)
    types = {"T": REAL}
    accuracy = Accuracy(64.0)

    def infer(self, context: Context) -> list[Type | None]:
        a, b = matrices(context), matrices(context, 1, square=False)
        return [TensorType(context.dtype(), matmul_shape(a, b))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        try:
            return [np.linalg.solve(*inputs)]
        except np.linalg.LinAlgError:
            raise RunError("the matrix is singular: the equations have no unique solution") from None

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        for_b = F.Solve(transpose_last(F, inputs[0]), grads[0])
        for_a = F.Neg(F.MatMul(for_b, transpose_last(F, outputs[0])))
        return [unbroadcast(F, for_a, inputs[0]), unbroadcast(F, for_b, inputs[1])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for a, b in (
            ((3, 3), (3, 2)),
            ((2, 4, 4), (4, 1)),
            ((1, 1), (1, 1)),
            ((3, 3), (2, 3, 2)),
            ((0, 2, 2), (0, 2, 1)),
        ):
            yield Sample([well_conditioned(rng, a), draw(rng, b, "float32")])


class Cholesky(_Square):
    """The lower triangular L with L @ L^T = the symmetric part of A, which must be positive definite."""

    outputs = (Out("L"),)

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a = inputs[0]
        try:
            return [np.linalg.cholesky((a + np.swapaxes(a, -1, -2)) * np.asarray(0.5, a.dtype))]
        except np.linalg.LinAlgError:
            raise RunError("the matrix is not positive definite: it has no Cholesky factor") from None

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        """I. Murray, "Differentiation of the Cholesky decomposition" (2016): L^-T phi(L^T g) L^-1, made symmetric."""
        lower = outputs[0]
        size = last_size(F, lower)
        turned = transpose_last(F, lower)
        phi = F.Mul(F.MatMul(turned, grads[0]), constant(F, np.tril(np.ones((size, size))) - 0.5 * np.eye(size), lower))
        left = F.Solve(turned, phi)  # L^-T phi
        return [symmetric(F, transpose_last(F, F.Solve(turned, transpose_last(F, left))))]
