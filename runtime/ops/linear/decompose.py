"""Decompositions of the domain headrace: Eigh, QR, SVD. Leading dimensions are batches.

Signs of vectors are those of LAPACK; gradients do not exist where eigenvalues or singular values coincide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import Accuracy, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.linear.matmul import transpose_last
from headrace.runtime.ops.linear.solve import (
    REAL,
    batch_rows,
    constant,
    last_size,
    matrices,
    symmetric,
    well_conditioned,
)
from headrace.runtime.shapes import minimum
from headrace.runtime.types import TensorType, Type


class _Decomposition(Operator):
    domain = "headrace"
    inputs = (In("A"),)
    types = {"T": REAL}
    accuracy = Accuracy(256.0)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_rows(tags, context, context.n_outputs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 3), (1, 1), (5, 3), (2, 4, 2), (0, 3, 2)):
            yield Sample([draw(rng, shape, "float32")])
        yield Sample([draw(rng, (4, 3), "float64")])


def gaps(F: Any, values: Any, size: int) -> Any:
    """1 / (v_j - v_i) off the diagonal, 0 on it, from values [..., n]."""
    row = F.Unsqueeze(values, F.constant(np.array([-2], np.int64)))
    column = F.Unsqueeze(values, F.constant(np.array([-1], np.int64)))
    eye = constant(F, np.eye(size), values)
    return F.Mul(F.Reciprocal(F.Add(F.Sub(row, column), eye)), constant(F, 1 - np.eye(size), values))


def columns(F: Any, x: Any) -> Any:
    """Values [..., n] as a row [..., 1, n], so that a product scales columns."""
    return F.Unsqueeze(x, F.constant(np.array([-2], np.int64)))


def diagonal(F: Any, values: Any, size: int) -> Any:
    """Values [..., n] on the diagonal of [..., n, n]."""
    return F.Mul(columns(F, values), constant(F, np.eye(size), values))


def total(F: Any, terms: Sequence[Any]) -> Any:
    """The sum of the terms that are there."""
    present = [term for term in terms if term is not None]
    return present[0] if len(present) == 1 else F.Sum(*present) if present else None


class Eigh(_Decomposition):
    """Eigenvalues (ascending) and eigenvectors (columns) of the symmetric part of A."""

    outputs = (Out("W"), Out("V"))

    def infer(self, context: Context) -> list[Type | None]:
        shape = matrices(context)
        return [TensorType(context.dtype(), None if shape is None else shape[:-1]), TensorType(context.dtype(), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a = inputs[0]
        return list(np.linalg.eigh((a + np.swapaxes(a, -1, -2)) * np.asarray(0.5, a.dtype)))

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        w, v = outputs
        size, turned = last_size(F, v), transpose_last(F, v)
        on = None if grads[0] is None else diagonal(F, grads[0], size)
        off = None if grads[1] is None else F.Mul(F.MatMul(turned, grads[1]), gaps(F, w, size))
        middle = total(F, (on, off))
        return [None if middle is None else symmetric(F, F.MatMul(v, F.MatMul(middle, turned)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 3), (1, 1), (2, 4, 4), (0, 2, 2)):
            yield Sample([well_conditioned(rng, shape)])


class QR(_Decomposition):
    """A = Q R with Q [..., m, k] orthonormal and R [..., k, n] upper triangular, k = min(m, n)."""

    outputs = (Out("Q"), Out("R"))

    def infer(self, context: Context) -> list[Type | None]:
        shape = matrices(context, square=False)
        if shape is None:
            return [TensorType(context.dtype(), None)] * 2
        k = minimum(shape[-2], shape[-1])
        return [TensorType(context.dtype(), (*shape[:-1], k)), TensorType(context.dtype(), (*shape[:-2], k, shape[-1]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return list(np.linalg.qr(inputs[0]))

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        """(gQ + Q copyltu(R gR^T - gQ^T Q)) R^-T, where copyltu mirrors the lower triangle; for m >= n."""
        q, r = outputs
        size, rows = last_size(F, r), (F.type(q).shape or (0, 0))[-1]
        if rows != size:
            raise GraphError("the gradient of QR needs at least as many rows as columns")
        from_r = None if grads[1] is None else F.MatMul(r, transpose_last(F, grads[1]))
        from_q = None if grads[0] is None else F.Neg(F.MatMul(transpose_last(F, grads[0]), q))
        m = total(F, (from_r, from_q))
        if m is None:
            return [None]
        lower = F.Mul(m, constant(F, np.tril(np.ones((size, size))), m))
        strict = F.Mul(m, constant(F, np.tril(np.ones((size, size)), -1), m))
        mirrored = F.MatMul(q, F.Add(lower, transpose_last(F, strict)))
        whole = total(F, (grads[0], mirrored))
        return [transpose_last(F, F.Solve(r, transpose_last(F, whole)))]


class SVD(_Decomposition):
    """A = U diag(S) Vh with k = min(m, n) singular values, descending."""

    outputs = (Out("U"), Out("S"), Out("Vh"))

    def infer(self, context: Context) -> list[Type | None]:
        shape = matrices(context, square=False)
        if shape is None:
            return [TensorType(context.dtype(), None)] * 3
        *lead, m, n = shape
        k = minimum(m, n)
        return [TensorType(context.dtype(), tuple(dims)) for dims in ((*lead, m, k), (*lead, k), (*lead, k, n))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return list(np.linalg.svd(inputs[0], full_matrices=False))

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        """J. Townsend, "Differentiating the singular value decomposition" (2016)."""
        u, s, vh = outputs
        for_u, for_s, for_vh = grads
        size, v = last_size(F, s), transpose_last(F, vh)
        gap = gaps(F, F.Mul(s, s), size)
        column = F.Unsqueeze(s, F.constant(np.array([-1], np.int64)))
        inverse = columns(F, F.Reciprocal(s))
        terms, outside = [], []
        if for_s is not None:
            terms.append(diagonal(F, for_s, size))
        if for_u is not None:
            ut = transpose_last(F, u)
            product = F.MatMul(ut, for_u)
            terms.append(F.Mul(F.Mul(gap, F.Sub(product, transpose_last(F, product))), columns(F, s)))
            beyond = F.Sub(for_u, F.MatMul(u, product))
            outside.append(F.MatMul(F.Mul(beyond, inverse), vh))
        if for_vh is not None:
            for_v = transpose_last(F, for_vh)
            product = F.MatMul(vh, for_v)
            terms.append(F.Mul(column, F.Mul(gap, F.Sub(product, transpose_last(F, product)))))
            beyond = F.Sub(for_v, F.MatMul(v, product))
            outside.append(F.MatMul(u, transpose_last(F, F.Mul(beyond, inverse))))
        middle = total(F, terms)
        inside = None if middle is None else F.MatMul(u, F.MatMul(middle, vh))
        return [total(F, (inside, *outside))]
