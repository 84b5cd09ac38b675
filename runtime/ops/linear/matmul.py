"""MatMul: the matrix product of NumPy, with broadcasting of leading dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.base import MIXED, Accuracy, Context, In, Operator, Sample
from headrace.runtime.ops.common import broadcast_rows, compute, draw, is_float, ordered, unbroadcast
from headrace.runtime.shapes import Shape, broadcast, equal
from headrace.runtime.types import TensorType, Type

MULTIPLIED = dtypes.FLOAT | {"int32", "int64", "uint32", "uint64"}


def matmul_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of a @ b. GraphError where they do not fit."""
    if a is None or b is None:
        return None
    if not a or not b:
        raise GraphError("MatMul takes no scalars")
    inner_a, inner_b = a[-1], b[-2] if len(b) > 1 else b[0]
    if equal(inner_a, inner_b) is False:
        raise GraphError(f"inner dimensions differ: {inner_a} and {inner_b}")
    lead = broadcast(a[:-2], b[:-2])
    return lead + (a[-2:-1] if len(a) > 1 else ()) + (b[-1:] if len(b) > 1 else ())


def matmul_rows(tags: Sequence[int | None], a: Shape | None, b: Shape | None) -> int | None:
    """Rows of a @ b: the batch must not be the dimension that is summed over."""
    if tags[0] is None and tags[1] is None:
        return None
    if MIXED in tags or a is None or b is None or len(a) < 2 or len(b) < 2:
        return MIXED
    rank = max(len(a), len(b))
    if tags[1] is None and tags[0] == len(a) - 2:
        return rank - 2
    if tags[0] is None and tags[1] == len(b) - 1:
        return rank - 1
    lead = [None if tag is None else (tag if tag < len(shape) - 2 else MIXED) for tag, shape in zip(tags, (a, b))]
    axis = broadcast_rows(lead, (a[:-2], b[:-2]))
    return axis if axis in (None, MIXED) else axis + rank - max(len(a), len(b))


def transpose_last(F: Any, x: Any) -> Any:
    """x with its last two dimensions exchanged."""
    rank = F.rank(x)
    return F.Transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


class MatMul(Operator):
    versions = (1, 9, 13)
    inputs = (In("A"), In("B"))
    types = {"T": MULTIPLIED}
    accuracy = Accuracy(16.0)
    prepack = (1,)
    flops = work.product()

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), matmul_shape(context.shape(0), context.shape(1)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(self._product, inputs, inputs[0].dtype)]

    @staticmethod
    def _product(a: Any, b: Any) -> Any:
        if a.ndim > 2 and b.ndim == 2:  # one product over all rows, not one for each matrix
            return np.matmul(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[1])
        return np.matmul(a, b)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        a, b = inputs
        if not is_float(F, a):
            return [None, None]
        g = grads[0]
        rank_a, rank_b = F.rank(a), F.rank(b)
        wide_a, wide_b = a, b
        if rank_b == 1:
            last = F.constant(np.array([-1], np.int64))
            wide_b, g = F.Unsqueeze(b, last), F.Unsqueeze(g, last)
        if rank_a == 1:
            wide_a = F.Unsqueeze(a, F.constant(np.array([0], np.int64)))
            g = F.Unsqueeze(g, F.constant(np.array([-2], np.int64)))
        for_a = self._gradient_a(F, wide_b, g)
        for_b = self._gradient_b(F, wide_a, wide_b, g)
        if rank_a == 1:
            for_a = F.Squeeze(for_a, F.constant(np.array([-2], np.int64)))
        if rank_b == 1:
            for_b = F.Squeeze(for_b, F.constant(np.array([-1], np.int64)))
        return [unbroadcast(F, for_a, a), unbroadcast(F, for_b, b)]

    @staticmethod
    def _gradient_a(F: Any, b: Any, g: Any) -> Any:
        if F.rank(b) == 2 and F.rank(g) == 2:
            return F.Gemm(g, b, transB=1)
        return F.MatMul(g, transpose_last(F, b))

    @staticmethod
    def _gradient_b(F: Any, a: Any, b: Any, g: Any) -> Any:
        shape = F.type(b).shape
        if (
            F.rank(b) == 2
            and F.rank(a) >= 2
            and shape is not None
            and all(isinstance(dim, int) and dim > 0 for dim in shape)
        ):
            if F.rank(a) > 2:  # one product over all rows, not a product for each matrix and a sum
                a = F.Reshape(a, F.constant(np.array([-1, shape[0]], np.int64)))
                g = F.Reshape(g, F.constant(np.array([-1, shape[1]], np.int64)))
            return F.Gemm(a, g, transA=1)
        return F.MatMul(transpose_last(F, a), g)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [matmul_rows(tags, context.shape(0), context.shape(1))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for a, b in (((2, 3), (3, 4)), ((1, 1), (1, 1)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3, 4), (4, 5)), ((5, 2, 3), (5, 3, 2)),
                     ((2, 1, 3, 4), (3, 4, 2)), ((4,), (2, 4, 3)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((17, 33), (33, 19)), ((3, 2, 4), (4,))):  # fmt: skip
            yield Sample([draw(rng, a, "float32"), draw(rng, b, "float32")])
        for dtype in ordered(MULTIPLIED):
            yield Sample([draw(rng, (5, 7), dtype), draw(rng, (7, 3), dtype)])
