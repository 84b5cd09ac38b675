"""QuantizeLinear and DequantizeLinear, per tensor, per axis and in blocks, for every narrow type of ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import axis_of
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, name_of, numpy_dtype
from headrace.runtime.types import TensorType, Type

NARROW_INTEGER = frozenset({"int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"})
LEVELS = NARROW_INTEGER | dtypes.FLOAT8 - {"float8_e8m0fnu"} | {"float4_e2m1fn"}
REALS = frozenset({"float32", "float16", "bfloat16", "int32"})
SCALES = frozenset({"float32", "float16", "bfloat16", "float8_e8m0fnu"})


def spread(values: Any, shape: Sequence[int], axis: int, block: int) -> Any:
    """A scale or zero point over the tensor: one value, one an index of `axis`, or one a block along it."""
    if values is None or (values.size == 1 and values.ndim <= 1 and not block):
        return None if values is None else values.reshape(())
    axis = axis_of(axis, len(shape))
    if block:
        repeated = np.repeat(values, block, axis=axis)
        return repeated[tuple(slice(0, size) if i == axis else slice(None) for i, size in enumerate(shape))]
    if values.ndim != 1 or values.size != shape[axis]:
        raise GraphError(
            f"scale and zero point of shape {list(values.shape)} do not lie along axis {axis} of {list(shape)}"
        )
    return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def integer_range(kind: np.dtype) -> tuple[int, int]:
    """The least and the largest value of an integer type of any width."""
    row = dtypes.of(kind)
    if row.kind == "u":
        return 0, 2**row.bits - 1
    return -(2 ** (row.bits - 1)), 2 ** (row.bits - 1) - 1


def to_float8(values: Any, kind: np.dtype, saturate: bool) -> Any:
    """float32 -> a float of 8 or 4 bits; saturating ones end at the largest finite value, and infinities too."""
    if not saturate and kind.name != "float4_e2m1fn":
        return values.astype(kind)
    info: Any = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
    limit = np.float32(info.max)
    return np.where(np.isnan(values), values, np.clip(values, -limit, limit)).astype(kind)


class QuantizeLinear(Operator):
    """y = saturate(round_half_even(x / y_scale) + y_zero_point). The type is that of the zero point, of
    `output_dtype`, or uint8."""

    versions = (10, 13, 19, 21, 23, 24, 25)
    inputs = (In("x", REALS), In("y_scale", SCALES | {"int32"}), In("y_zero_point", LEVELS, optional=True))
    outputs = (Out("y", LEVELS),)
    types = {}
    attributes = {
        "axis": Attr("int", 1), "saturate": Attr("int", 1), "block_size": Attr("int", 0), "output_dtype": Attr("int", 0),
        "precision": Attr("int", 0),
    }  # fmt: skip
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        wanted = context.attributes["output_dtype"]
        kind = context.dtype(2) if context.has(2) else name_of(wanted) if wanted else "uint8"
        return [TensorType(kind, context.shape(0))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale, zero = (*inputs, None)[:3]
        kind = zero.dtype if zero is not None else numpy_dtype(name_of(attributes["output_dtype"] or 2))
        given = (x.shape, attributes["axis"], attributes["block_size"])
        wide = np.float32 if not attributes["precision"] else numpy_dtype(name_of(attributes["precision"]))
        with np.errstate(all="ignore"):
            levels = (x.astype(wide) / spread(scale.astype(wide), *given)).astype(np.float32)
        if dtypes.of(kind).kind == "f":
            return [to_float8(levels, kind, bool(attributes["saturate"]))]
        low, high = integer_range(kind)
        with np.errstate(invalid="ignore"):
            levels = np.rint(np.where(np.isnan(levels), np.float32(0), levels))
        if zero is not None:
            levels = levels + spread(zero.astype(np.float32), *given)
        return [np.clip(levels, low, high).astype(np.int32).astype(kind)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        scale = np.float32(0.05)
        for kind in ("uint8", "int8", "uint16", "int16"):
            zero = np.asarray(3, kind)
            for shape in ((7,), (2, 3), (0, 3), (), (2, 17, 3)):
                yield Sample([draw(rng, shape, "float32"), np.asarray(scale), zero])
        yield Sample(
            [
                np.array([-1e9, 1e9, 0.025, 0.075, 0.125, -0.025, 0.0], np.float32),
                np.asarray(scale),
                np.asarray(0, "int8"),
            ]
        )
        yield Sample(
            [draw(rng, (2, 3, 4), "float32"), np.array([0.1, 0.2, 0.01], np.float32), np.array([1, 2, 3], "uint8")],
            {"axis": 1},
        )
        yield Sample([draw(rng, (2, 3), "float32"), np.array([0.1, 0.2, 0.01], np.float32)], {"axis": -1})
        yield Sample(
            [draw(rng, (4, 6), "float32"), np.full((4, 3), 0.1, np.float32), np.zeros((4, 3), "int8")],
            {"axis": 1, "block_size": 2},
        )
        yield Sample([draw(rng, (5,), "float32"), np.asarray(scale)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return quantized_rows(tags, context)


def quantized_rows(tags: Sequence[int | None], context: Context) -> list[int | None]:
    """Rows stay rows, unless each index of the batch has a scale of its own."""
    if tags[0] is None and all(tag is None for tag in tags):
        return [None]
    shape, scale = context.shape(0), context.shape(1)
    batch = tags[0]
    if shape is None or scale is None or batch is None or batch == MIXED or any(tag is not None for tag in tags[1:]):
        return [MIXED]
    if len(scale) > 1 and context.attributes["block_size"]:  # one scale a block: along every axis
        return [MIXED if scale[batch] != 1 else batch]
    along = context.attributes["axis"] % max(1, len(shape)) if scale else None
    return [MIXED if along == batch and scale != (1,) else batch]


class DequantizeLinear(Operator):
    """y = (x - x_zero_point) * x_scale, in the type of the scale or of `output_dtype`."""

    versions = (10, 13, 19, 21, 23, 24, 25)
    inputs = (In("x", LEVELS | {"int32"}), In("x_scale", SCALES), In("x_zero_point", LEVELS | {"int32"}, optional=True))
    outputs = (Out("y", frozenset({"float32", "float16", "bfloat16"})),)
    types = {}
    attributes = {"axis": Attr("int", 1), "block_size": Attr("int", 0), "output_dtype": Attr("int", 0)}
    accuracy = Accuracy(1.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        wanted = context.attributes["output_dtype"]
        return [TensorType(name_of(wanted) if wanted else context.dtype(1), context.shape(0))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale, zero = (*inputs, None)[:3]
        kind = numpy_dtype(name_of(attributes["output_dtype"])) if attributes["output_dtype"] else scale.dtype
        given = (x.shape, attributes["axis"], attributes["block_size"])
        if dtypes.of(x).kind == "f":
            centred = x.astype(np.float32)
        else:
            centred = (x.astype(np.int64) - (0 if zero is None else spread(zero.astype(np.int64), *given))).astype(
                np.float32
            )
        return [np.asarray(centred * spread(scale.astype(np.float32), *given)).astype(kind)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8", "uint16", "int16"):
            bounds = np.iinfo(kind)
            for shape in ((7,), (2, 3), (0, 3), (), (2, 17, 3)):
                yield Sample(
                    [
                        rng.integers(bounds.min, bounds.max + 1, shape).astype(kind),
                        np.asarray(0.05, np.float32),
                        np.asarray(3, kind),
                    ]
                )
        yield Sample(
            [
                rng.integers(0, 255, (2, 3, 4)).astype("uint8"),
                np.array([0.1, 0.2, 0.01], np.float32),
                np.array([1, 2, 3], "uint8"),
            ],
            {"axis": 1},
        )
        yield Sample([rng.integers(-9000, 9000, 6).astype("int32"), np.asarray(0.001, np.float32)])
        yield Sample(
            [rng.integers(-128, 127, (4, 6)).astype("int8"), np.full((4, 3), 0.1, np.float32), np.ones((4, 3), "int8")],
            {"axis": 1, "block_size": 2},
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return quantized_rows(tags, context)
