"""onnxruntime's weights of a few bits, in blocks that have a scale and a zero point each: products with them, rows of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.namespaces import NumpyNamespace
from headrace.runtime.ops.axes import kept_rows
from headrace.runtime.ops.base import REQUIRED, Attr, Context, In, Out, Sample
from headrace.runtime.ops.common import code_of, draw
from headrace.runtime.ops.quant._arithmetic import exact_matmul
from headrace.runtime.ops.spelled import INT32, Spelled, count_up, ints, size, total
from headrace.runtime.types import TensorType, Type


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


def _sizes(attributes: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """K, N, block size and bits of a MatMulNBits."""
    depth, width, block, bits = (attributes[key] for key in ("K", "N", "block_size", "bits"))
    if min(depth, width) < 1 or block < 16 or block & (block - 1):
        raise GraphError(f"K {depth}, N {width}, block_size {block}; allowed: positive, a power of 2 from 16 on")
    return depth, width, block, bits


def block_levels(packed: Any, zeros: Any, attributes: Mapping[str, Any]) -> Any:
    """The weights of a MatMulNBits as integers [N, blocks, block_size], zero points taken off."""
    depth, width, block, bits = _sizes(attributes)
    count, F = -(-depth // block), NumpyNamespace()
    q = unpack(F, packed.reshape(width, -1), bits).reshape(width, count, block).astype(np.int64)
    if zeros is None:
        return q - (1 << (bits - 1))
    return q - unpack(F, zeros.reshape(width, -1), bits)[:, :count, None].astype(np.int64)


def block_product(a: Any, packed: Any, scales: Any, zeros: Any, attributes: Mapping[str, Any]) -> Any:
    """Rows quantized to int8 block by block, exact sums of each block, summed in float32 one after the other."""
    depth, width, block, _ = _sizes(attributes)
    w, scales = block_levels(packed, zeros, attributes), scales.reshape(width, -1)
    count = w.shape[1]
    rows = np.zeros((math.prod(a.shape[:-1]), count * block), np.float32)
    rows[:, :depth] = a.reshape(-1, depth)
    rows = rows.reshape(-1, count, block)
    y = np.zeros((len(rows), width), np.float32)
    with np.errstate(all="ignore"):
        scale = np.abs(rows).max(-1, initial=0.0).astype(np.float32) / np.float32(127)
        scale = np.where(scale == 0, np.float32(1), scale)
        q = np.rint(rows / scale[..., None])
        q = np.clip(np.where(np.isnan(q), np.float32(0), q), -128, 127)
        for i in range(count):
            total = exact_matmul(q[:, i], w[:, i].T).astype(np.float32)
            y = y + total * (scale[:, i, None] * scales[None, :, i])
    return y.reshape(*a.shape[:-1], width)


class MatMulNBits(Spelled):
    """A [..., K] times the transpose of B [N, K], which is stored as uint8 [N, blocks, block_size * bits / 8] with a scale and a
    zero point (the middle where absent) for each block. Constant weights of 4 and 8 bits stay so (`kept`); others become
    floats at import. accuracy_level 4: float32 rows are quantized too, to int8, symmetric, with a scale for each block of a row.
    Source: onnxruntime, com.microsoft.MatMulNBits-1."""

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
    prepack = (1, 2, 3)

    def infer(self, context: Context) -> list[Type | None]:
        depth, width, _, _ = _sizes(context.attributes)
        a = context.type(0)
        if a.shape is None:
            return [a]
        if not a.shape or (isinstance(a.shape[-1], int) and a.shape[-1] != depth):
            raise GraphError(f"A is {a}; allowed: [..., {depth}]")
        return [a.with_shape((*a.shape[:-1], width))]

    @staticmethod
    def kept(kind: str, zeros: str | None, groups: bool, attributes: Mapping[str, Any]) -> bool:
        """Whether the node stays one: products of packed weights, not of floats."""
        return (
            kind in ("float32", "float16", "bfloat16")
            and attributes["bits"] in (4, 8)
            and zeros in (None, "uint8")
            and not groups
        )

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        inputs = (*node.inputs, None, None, None)[:6]
        a, zeros = (value.type.dtype if value is not None and isinstance(value.type, TensorType) else None for value in (inputs[0], inputs[3]))  # fmt: skip
        constant = all(value is None or builder.graph.constant_of(value) is not None for value in inputs[1:4])
        if constant and self.kept(a or "", zeros, inputs[4] is not None, self.complete(node.attributes)):
            return None
        return super().upgrade(node, version, builder)

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        a, packed, scales, zeros, groups, bias = (*inputs, None, None, None)[:6]
        kinds = [None if x is None else dtypes.of(x).name for x in (a, zeros)]
        if attributes["accuracy_level"] != 4 or not self.kept(kinds[0] or "", kinds[1], groups is not None, attributes):
            return super().reference(inputs, attributes, n_outputs)
        y = block_product(a.astype(np.float32), packed, scales.astype(np.float32), zeros, attributes)
        return [(y if bias is None else y + bias.astype(np.float32)).astype(a.dtype)]

    def flops(self, inputs: Sequence[tuple[int, ...] | None], outputs: Sequence[tuple[int, ...] | None]) -> int | None:
        a, y = inputs[0], outputs[0]
        return None if not a or y is None else 2 * math.prod(y) * a[-1]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape(0)
        return kept_rows(tags, None if shape is None else (len(shape) - 1,), 1)

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, packed, scales, zeros, groups, bias = inputs
        depth, width, block, bits = _sizes(attributes)
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
