"""onnxruntime's products of integers: QGemm, DynamicQuantizeMatMul, MatMulIntegerToFloat, and weights of a few bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import REQUIRED, Attr, Context, In, Out, Sample
from headrace.runtime.ops.common import code_of, draw
from headrace.runtime.ops.microsoft.levels import flat, quantize
from headrace.runtime.ops.quant.integer import levels, number, scale
from headrace.runtime.ops.spelled import EITHER8, FLOAT32, INT32, Spelled, count_up, ints, size, times, total
from headrace.runtime.types import TensorType, Type


class QGemm(Spelled):
    """(alpha * a_scale * b_scale) * (A' @ B' + C), as levels of y_scale where it is given: headrace.QGemm.
    Source: onnxruntime, com.microsoft.QGemm-1."""

    inputs = (
        In("A", EITHER8), In("a_scale", FLOAT32), In("a_zero_point", EITHER8), In("B", EITHER8), In("b_scale", FLOAT32), In("b_zero_point", EITHER8),
        In("C", INT32, optional=True), In("y_scale", FLOAT32, optional=True), In("y_zero_point", EITHER8, optional=True),
    )  # fmt: skip
    outputs = (Out("Y", EITHER8 | FLOAT32),)
    types = {}
    attributes = {"alpha": Attr("float", 1.0), "transA": Attr("int", 0, (0, 1)), "transB": Attr("int", 0, (0, 1))}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = inputs
        a = F.Transpose(a, perm=(1, 0)) if attributes["transA"] else a
        b = F.Transpose(b, perm=(1, 0)) if attributes["transB"] else b
        a_scale, a_zero, y_scale, y_zero = flat(F, a_scale, a_zero, y_scale, y_zero)
        a_scale = times(F, a_scale, attributes["alpha"])
        if c is None or F.rank(c) == 1:
            return F.QGemm(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, c)
        y = F.Cast(F.Add(F.MatMulInteger(a, b, a_zero, b_zero), c), to=1)  # a bias for each row
        y = F.Mul(y, F.Mul(a_scale, b_scale))
        return y if y_scale is None else quantize(F, y, y_scale, y_zero, F.dtype(y_zero))

    def _unranked(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(8) if context.has(8) else "float32")]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8"):
            a = [levels(rng, (4, 6), kind), scale(0.05), number(3, kind)]
            b = [levels(rng, (6, 3), "int8"), scale(0.01), number(0, "int8")]
            c, y = rng.integers(-500, 500, 3).astype(np.int32), [scale(0.2), number(2, kind)]
            columns = [b[0].T.copy(), np.array([0.01, 0.02, 0.03], np.float32), np.zeros(3, np.int8)]
            yield Sample([*a, *b, c, *y])
            yield Sample([*a, *columns, c, *y], {"transB": 1})
            yield Sample([*a, *b, None, *y], {"alpha": 0.5})
            yield Sample([*a, *b, c])
            yield Sample(
                [a[0].T.copy(), *a[1:], *b, rng.integers(-500, 500, (4, 3)).astype(np.int32), *y], {"transA": 1}
            )


class MatMulIntegerToFloat(Spelled):
    """MatMulInteger(A, B) * (a_scale * b_scale) + bias: the operator of this name of headrace. Source: onnxruntime,
    com.microsoft.MatMulIntegerToFloat-1."""

    inputs = (
        In("A", EITHER8), In("B", EITHER8), In("a_scale", FLOAT32), In("b_scale", FLOAT32), In("a_zero_point", EITHER8, optional=True),
        In("b_zero_point", EITHER8, optional=True), In("bias", FLOAT32, optional=True),
    )  # fmt: skip
    outputs = (Out("Y", FLOAT32),)
    types = {}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return scaled_product(F, *inputs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8"):
            a, b, bias = levels(rng, (2, 4, 6), kind), levels(rng, (6, 3), "int8"), draw(rng, (3,), "float32")
            columns = np.array([0.01, 0.02, 0.03], np.float32)
            yield Sample([a, b, scale(0.05), scale(0.01), number(3, kind), number(2, "int8"), bias])
            yield Sample([a, b, scale(0.05), columns, number(3, kind)])


def scaled_product(F: Any, a: Any, b: Any, a_scale: Any, b_scale: Any, a_zero: Any, b_zero: Any, bias: Any) -> Any:
    """Exact products of levels, as float32; `b_scale` is one number or one a column."""
    a_scale, a_zero = flat(F, a_scale, a_zero)
    return F.MatMulIntegerToFloat(a, b, a_scale, b_scale, a_zero, b_zero, bias)


class DynamicQuantizeMatMul(Spelled):
    """A, quantized by DynamicQuantizeLinear, times 8-bit B, and a bias. Source: onnxruntime,
    com.microsoft.DynamicQuantizeMatMul-1."""

    inputs = (In("A", FLOAT32), In("B", EITHER8), In("b_scale", FLOAT32), In("b_zero_point", EITHER8, optional=True), In("bias", FLOAT32, optional=True))  # fmt: skip
    outputs = (Out("Y", FLOAT32),)
    types = {}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, b, b_scale, b_zero, bias = inputs
        q, a_scale, a_zero = F.DynamicQuantizeLinear(a, outputs=3)
        return scaled_product(F, q, b, a_scale, b_scale, a_zero, b_zero, bias)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a, bias, columns = (
            draw(rng, (2, 4, 6), "float32"),
            draw(rng, (3,), "float32"),
            np.array([0.01, 0.02, 0.03], np.float32),
        )
        for kind in ("int8", "uint8"):
            b = levels(rng, (6, 3), kind)
            yield Sample([a, b, scale(0.01), number(2, kind), bias])
            yield Sample([a, b, columns, np.full(3, 5, kind)])
            yield Sample([a, b, scale(0.01)])


def unpack(F: Any, x: Any, bits: int) -> Any:
    """uint8 [..., n], `bits` a number and the lowest first, as uint8 [..., n * 8 / bits]."""
    if bits not in (2, 4, 8):
        raise GraphError(f"bits is {bits}; allowed: 2, 4, 8")
    if bits == 8:
        return x
    mask = F.constant(np.array((1 << bits) - 1, np.uint8))
    parts = [F.BitwiseAnd(F.BitShift(x, F.constant(np.array(start, np.uint8)), direction="RIGHT") if start else x, mask) for start in range(0, 8, bits)]  # fmt: skip
    rank = F.rank(x)
    together = F.Concat(*(F.Unsqueeze(part, ints(F, rank)) for part in parts), axis=rank)
    return F.Reshape(together, ints(F, *[0] * (rank - 1), -1))


def first(F: Any, x: Any, count: Any, axis: int) -> Any:
    """The first `count` (an int64 tensor of one element) along an axis."""
    return F.Slice(x, ints(F, 0), count, ints(F, axis))


class MatMulNBits(Spelled):
    """A [..., K] times the transpose of B [N, K], which is stored as uint8 [N, blocks, block_size * bits / 8] with a scale and a
    zero point (the middle where absent) for each block. Source: onnxruntime, com.microsoft.MatMulNBits-1."""

    inputs = (
        In("A"), In("B", frozenset({"uint8"})), In("scales"), In("zero_points", frozenset({"uint8"}) | dtypes.FLOAT, optional=True),
        In("g_idx", INT32, optional=True), In("bias", optional=True),
    )  # fmt: skip
    outputs = (Out("Y"),)
    types = {"T": dtypes.FLOAT}
    attributes = {
        "K": Attr("int", REQUIRED), "N": Attr("int", REQUIRED), "block_size": Attr("int", REQUIRED), "bits": Attr("int", 4),
        "accuracy_level": Attr("int", 0), "weight_prepacked": Attr("int", 0, (0,)),
    }  # fmt: skip

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, packed, scales, zeros, groups, bias = inputs
        depth, width, block, bits = (attributes[key] for key in ("K", "N", "block_size", "bits"))
        if min(depth, width) < 1 or block < 16 or block & (block - 1):
            raise GraphError(f"K {depth}, N {width}, block_size {block}; allowed: positive, a power of 2 from 16 on")
        count = -(-depth // block)
        q = F.Reshape(unpack(F, F.Reshape(packed, ints(F, width, -1)), bits), ints(F, width, count, block))
        scales = F.Reshape(scales, ints(F, width, count))
        middle = F.constant(np.full((width, count), 1 << (bits - 1), np.uint8))
        if zeros is None:
            zeros = middle
        elif F.dtype(zeros) == "uint8":
            zeros = first(F, unpack(F, F.Reshape(zeros, ints(F, width, -1)), bits), ints(F, count), 1)
        kind = code_of(F.dtype(a))
        zeros = F.Reshape(F.Cast(zeros, to=kind), ints(F, width, count))
        if groups is None:
            spread = [F.Unsqueeze(item, ints(F, 2)) for item in (zeros, scales)]
            w = F.Mul(F.Sub(F.Cast(q, to=kind), spread[0]), spread[1])
            w = first(F, F.Reshape(w, ints(F, width, count * block)), ints(F, depth), 1)
        else:
            groups = first(F, groups, ints(F, depth), 0)
            q = first(F, F.Reshape(q, ints(F, width, count * block)), ints(F, depth), 1)
            w = F.Mul(F.Sub(F.Cast(q, to=kind), F.Gather(zeros, groups, axis=1)), F.Gather(scales, groups, axis=1))
        return total(F, [F.MatMul(a, F.Transpose(w, perm=(1, 0))), bias])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for bits, depth, block in ((4, 32, 16), (4, 40, 16), (8, 32, 32), (2, 64, 32)):
            width, count = 3, -(-depth // block)
            packed = rng.integers(0, 256, (width, count, block * bits // 8)).astype(np.uint8)
            scales = rng.uniform(0.01, 0.1, (width, count)).astype(np.float32)
            zeros = rng.integers(0, 256, (width, -(-count * bits // 8))).astype(np.uint8)
            a, bias = draw(rng, (2, 5, depth), "float32"), draw(rng, (width,), "float32")
            given = {"K": depth, "N": width, "block_size": block, "bits": bits}
            yield Sample([a, packed, scales], given)
            yield Sample([a, packed, scales, zeros, None, bias], given)
        floats = rng.uniform(0, 15, (3, 2)).astype(np.float32)
        packed, scales = rng.integers(0, 256, (3, 2, 8)).astype(np.uint8), np.full((3, 2), 0.05, np.float32)
        yield Sample([draw(rng, (4, 32), "float32"), packed, scales, floats], {"K": 32, "N": 3, "block_size": 16})
        groups = (np.arange(32) % 2).astype(np.int32)
        yield Sample([draw(rng, (4, 32), "float32"), packed, scales, None, groups], {"K": 32, "N": 3, "block_size": 16})


class GatherBlockQuantized(Spelled):
    """Gather of data that is stored in blocks along `quantize_axis`, each with a scale and a zero point; uint8 data hold `bits`
    a number. Source: onnxruntime, com.microsoft.GatherBlockQuantized-1."""

    inputs = (
        In("data", "D"),
        In("indices", frozenset({"int32", "int64"})),
        In("scales"),
        In("zero_points", "D", optional=True),
    )
    outputs = (Out("output"),)
    types = {"D": frozenset({"int4", "uint4", "uint8"}), "T": dtypes.FLOAT}
    attributes = {
        "bits": Attr("int", 4, (2, 4, 8)), "block_size": Attr("int", 128), "gather_axis": Attr("int", 0), "quantize_axis": Attr("int", 1),
    }  # fmt: skip

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        data, indices, scales, zeros = inputs
        rank, block = F.rank(data), attributes["block_size"]
        axis, along = attributes["gather_axis"] % rank, attributes["quantize_axis"] % rank
        if axis == along or block < 16 or block & (block - 1):
            raise GraphError("the gather axis is not the quantized one, and block_size is a power of 2 from 16 on")
        q, scales, zeros = (None if x is None else F.Gather(x, indices, axis=axis) for x in (data, scales, zeros))
        along += F.rank(indices) - 1 if along > axis else 0
        if F.dtype(data) == "uint8":
            if along != F.rank(q) - 1:
                raise GraphError("uint8 data are quantized along the last axis")
            q = unpack(F, q, attributes["bits"])
            if zeros is None:
                middle = F.constant(np.array(1 << (attributes["bits"] - 1), np.uint8))
                zeros = F.Expand(middle, F.Shape(scales))
            else:
                zeros = first(F, unpack(F, zeros, attributes["bits"]), size(F, scales, along), along)
        wide = code_of(F.dtype(scales))
        spread = [None if x is None else self._spread(F, F.Cast(x, to=wide), q, along, block) for x in (zeros, scales)]
        y = F.Cast(q, to=wide)
        return F.Mul(y if spread[0] is None else F.Sub(y, spread[0]), spread[1])

    @staticmethod
    def _spread(F: Any, x: Any, like: Any, axis: int, block: int) -> Any:
        """One value a block -> one value an element."""
        places = F.Div(count_up(F, size(F, like, axis)), F.constant(np.array(block, np.int64)))
        return F.Gather(x, places, axis=axis)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        import ml_dtypes

        indices = np.array([[0, 4], [2, 1]], np.int64)
        scales = rng.uniform(0.01, 0.1, (5, 2)).astype(np.float32)
        for kind, low in ((ml_dtypes.int4, -8), (ml_dtypes.uint4, 0)):
            data = rng.integers(low, low + 16, (5, 32)).astype(kind)
            zeros = rng.integers(low, low + 16, (5, 2)).astype(kind)
            yield Sample([data, indices, scales, zeros], {"block_size": 16})
            yield Sample([data, indices[0].astype(np.int32), scales], {"block_size": 16})
        packed = rng.integers(0, 256, (5, 16)).astype(np.uint8)
        yield Sample([packed, indices, scales], {"block_size": 16})
        yield Sample([packed, indices, scales, rng.integers(0, 256, (5, 1)).astype(np.uint8)], {"block_size": 16})
        wide = rng.integers(0, 256, (5, 32)).astype(np.uint8)
        yield Sample([wide, indices, scales], {"block_size": 16, "bits": 8})
