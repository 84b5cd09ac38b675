"""Gemm: alpha * A' @ B' + beta * C."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops import work
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Sample
from headrace.runtime.ops.common import (
    broadcast_rows,
    compute,
    draw,
    is_float,
    ordered,
    replacement,
    scalar,
    unbroadcast,
)
from headrace.runtime.ops.linear.matmul import MULTIPLIED, matmul_rows, matmul_shape
from headrace.runtime.shapes import broadcast
from headrace.runtime.types import TensorType, Type


class Gemm(Operator):
    """A is [M, K] (transA: [K, M]), B is [K, N] (transB: [N, K]), C broadcasts to [M, N]."""

    versions = (1, 6, 7, 9, 11, 13)
    inputs = (In("A"), In("B"), In("C", optional=True))
    types = {"T": MULTIPLIED}
    attributes = {
        "alpha": Attr("float", 1.0),
        "beta": Attr("float", 1.0),
        "transA": Attr("int", 0),
        "transB": Attr("int", 0),
    }
    accuracy = Accuracy(16.0)
    prepack = (1,)
    flops = work.product()

    def infer(self, context: Context) -> list[Type | None]:
        shapes = []
        for index, transposed in ((0, context.attributes["transA"]), (1, context.attributes["transB"])):
            shape = context.shape(index)
            if shape is not None and len(shape) != 2:
                raise GraphError(f"input {index} must be a matrix, not {context.type(index)}")
            shapes.append(shape[::-1] if shape is not None and transposed else shape)
        result = matmul_shape(*shapes)
        if result is not None and context.has(2):
            added = context.shape(2)
            if added is not None and (len(added) > 2 or len(broadcast(result, added)) != 2):
                raise GraphError(f"C {context.type(2)} does not broadcast to {result}")
        return [TensorType(context.dtype(), result)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(self._product, inputs, inputs[0].dtype, **attributes)]

    @staticmethod
    def _product(a: Any, b: Any, c: Any = None, *, alpha: float, beta: float, transA: int, transB: int) -> Any:
        result = (a.T if transA else a) @ (b.T if transB else b)
        if alpha != 1.0:
            result = (
                result * np.asarray(alpha).astype(result.dtype)
                if result.dtype.kind == "f"
                else np.trunc(result * alpha)
            )
        if c is not None and beta != 0.0:
            result = result + (c if beta == 1.0 else np.asarray(c * beta).astype(c.dtype))
        return result

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        a, b = inputs[:2]
        c = inputs[2] if len(inputs) > 2 else None
        if not is_float(F, a):
            return [None] * len(inputs)
        g, alpha = grads[0], attributes["alpha"]
        trans_a, trans_b = bool(attributes["transA"]), bool(attributes["transB"])
        if trans_a:
            for_a = F.Gemm(b, g, alpha=alpha, transA=int(trans_b), transB=1)
        else:
            for_a = F.Gemm(g, b, alpha=alpha, transB=int(not trans_b))
        if trans_b:
            for_b = F.Gemm(g, a, alpha=alpha, transA=1, transB=int(trans_a))
        else:
            for_b = F.Gemm(a, g, alpha=alpha, transA=int(not trans_a))
        for_c = None
        if c is not None:
            scaled = g if attributes["beta"] == 1.0 else F.Mul(g, scalar(F, attributes["beta"], g))
            for_c = unbroadcast(F, scaled, c)
        return [for_a, for_b, for_c][: len(inputs)]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shapes, turned = [], []
        for index, transposed in ((0, context.attributes["transA"]), (1, context.attributes["transB"])):
            shape, tag = context.shape(index), tags[index]
            shapes.append(shape[::-1] if shape is not None and transposed else shape)
            turned.append(1 - tag if transposed and tag not in (None, MIXED) else tag)
        tag = matmul_rows(turned, *shapes)
        if not context.has(2):
            return [tag]
        return [broadcast_rows([tag, tags[2]], [matmul_shape(*shapes), context.shape(2)])]

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        if "broadcast" not in node.attributes:
            return None
        attributes = {key: value for key, value in node.attributes.items() if key != "broadcast"}
        return replacement(builder, node, node.inputs, attributes)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        def case(
            m: int, k: int, n: int, c: tuple[int, ...] | None, dtype: str = "float32", **attributes: Any
        ) -> Sample:
            a = (k, m) if attributes.get("transA") else (m, k)
            b = (n, k) if attributes.get("transB") else (k, n)
            last = [] if c is None else [draw(rng, c, dtype)]
            return Sample([draw(rng, a, dtype), draw(rng, b, dtype), *last], attributes)

        yield case(2, 3, 4, (4,))
        yield case(2, 3, 4, (2, 1), transA=1)
        yield case(2, 3, 4, (), transB=1, alpha=0.5, beta=2.0)
        yield case(2, 3, 4, (2, 4), transA=1, transB=1, beta=0.25)
        yield case(2, 3, 4, None, transB=1)
        yield case(1, 1, 1, (1, 1))
        yield case(17, 65, 9, (9,), transB=1)
        yield case(0, 3, 2, (2,))
        yield case(2, 0, 3, (3,))
        for dtype in ordered(MULTIPLIED):
            yield case(3, 5, 4, (4,), dtype)
