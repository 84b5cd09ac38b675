"""Resize in all its modes, its gradient ResizeGrad, and the old Upsample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import attribute_to_input, axes_of, fresh_shape, int64, kept_rows
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, widen
from headrace.runtime.ops.move._resample import apply_axis, apply_axis_transposed, coordinates, weights
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.shapes import Dim
from headrace.runtime.types import TensorType, Type

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)
RESIZE = {
    "antialias": Attr("int", 0, (0, 1)),
    "axes": Attr("ints"),
    "coordinate_transformation_mode": Attr("string", "half_pixel", COORDINATES),
    "cubic_coeff_a": Attr("float", -0.75),
    "exclude_outside": Attr("int", 0, (0, 1)),
    "extrapolation_value": Attr("float", 0.0),
    "keep_aspect_ratio_policy": Attr("string", "stretch", ("stretch", "not_larger", "not_smaller")),
    "mode": Attr("string", "nearest", ("nearest", "linear", "cubic")),
    "nearest_mode": Attr("string", "round_prefer_floor", ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
}
FLOATS = frozenset({"float32", "float64", "float16"})
INT64 = frozenset({"int64"})


def given(array: Any) -> Any:
    """An input that counts: present and not empty."""
    return None if array is None or np.size(array) == 0 else array


def plan(
    shape: Sequence[int], roi: Any, scales: Any, sizes: Any, attributes: Mapping[str, Any]
) -> list[tuple[int, int, float, tuple[float, float]]]:
    """(axis, output size, scale, roi) of each resized axis. RunError where inputs do not fit."""
    rank = len(shape)
    axes = axes_of(range(rank) if attributes["axes"] is None else attributes["axes"], rank)
    scales, sizes, roi = given(scales), given(sizes), given(roi)
    if (scales is None) == (sizes is None):
        raise RunError("Resize needs either scales or sizes")
    if len(scales if sizes is None else sizes) != len(axes):
        raise RunError(f"scales or sizes have {len(scales if sizes is None else sizes)} elements; allowed: {len(axes)}")
    if sizes is not None:
        wanted = [int(size) for size in sizes]
        factors = [size / shape[axis] for size, axis in zip(wanted, axes)]
        policy = attributes["keep_aspect_ratio_policy"]
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = [factor] * len(axes)
            wanted = [int(np.floor(factor * shape[axis] + 0.5)) for axis in axes]
    else:
        factors = [float(scale) for scale in scales]
        wanted = [int(np.floor(shape[axis] * factor)) for axis, factor in zip(axes, factors)]
    if any(factor <= 0 for factor in factors):
        raise RunError(f"scales are {factors}; allowed: more than 0")
    regions = [(0.0, 1.0)] * len(axes)
    if roi is not None:
        regions = [(float(start), float(end)) for start, end in zip(roi[: len(axes)], roi[len(axes) :])]
    return list(zip(axes, wanted, factors, regions))


class Resize(Operator):
    """Resamples axes to `sizes`, or by `scales`."""

    versions = (10, 11, 13, 18, 19)
    inputs = (
        In("X", "T1"),
        In("roi", FLOATS, optional=True),
        In("scales", frozenset({"float32"}), optional=True),
        In("sizes", INT64, optional=True),
    )
    outputs = (Out("Y", "T1"),)
    types = {"T1": dtypes.NUMERIC | {"bool"}}
    attributes = RESIZE
    accuracy = Accuracy(64.0)
    twice_differentiable = True

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is None:
            return [TensorType(context.dtype())]
        axes = axes_of(
            range(len(shape)) if context.attributes["axes"] is None else context.attributes["axes"], len(shape)
        )
        sizes: list[Dim] = list(shape)
        wanted, scales = context.value(3) if context.has(3) else None, context.constant(2)
        for place, axis in enumerate(axes):
            if isinstance(wanted, tuple) and wanted and context.attributes["keep_aspect_ratio_policy"] == "stretch":
                if len(wanted) != len(axes):
                    raise GraphError(f"sizes has {len(wanted)} elements; allowed: {len(axes)}")
                sizes[axis] = wanted[place]
            elif scales is not None and scales.size == len(axes):
                sizes[axis] = scaled(shape[axis], float(scales[place]), context)
            else:
                sizes[axis] = context.fresh("resized")
        if isinstance(wanted, tuple) and wanted and all(isinstance(size, int) for size in (*shape, *wanted)):
            for axis, size, _, _ in plan(shape, None, None, wanted, context.attributes):  # type: ignore[arg-type]
                sizes[axis] = size
        return [TensorType(context.dtype(), tuple(sizes))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, roi, scales, sizes = (*inputs, None, None, None)[:4]
        steps = plan(x.shape, roi, scales, sizes, attributes)
        sized([next((size for axis, size, _, _ in steps if axis == place), old) for place, old in enumerate(x.shape)])
        y = widen(x) if x.dtype.kind not in "iub" or attributes["mode"] == "nearest" else x.astype(np.float32)
        for axis, count, scale, region in steps:
            place, outside = coordinates(
                attributes["coordinate_transformation_mode"], x.shape[axis], count, scale, region
            )
            if count == x.shape[axis] and scale == 1 and not outside.any() and np.array_equal(place, np.arange(count)):
                continue
            y = apply_axis(y, axis, *weights(place, x.shape[axis], scale, attributes))
            if outside.any():
                y = np.where(
                    outside.reshape([-1 if p == axis else 1 for p in range(x.ndim)]),
                    y.dtype.type(attributes["extrapolation_value"]),
                    y,
                )
        if x.dtype.kind in "iu" and y.dtype.kind == "f":
            limits = np.iinfo(x.dtype)
            y = np.clip(np.rint(y) if attributes["mode"] == "cubic" else np.trunc(y), limits.min, limits.max)
        return [y.astype(x.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        passed = {key: value for key, value in attributes.items() if value is not None}
        return [F.ResizeGrad(grads[0], F.Shape(inputs[0]), *inputs[1:], **passed)] + [None] * (len(inputs) - 1)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (1, 2, 5, 4), "float32")
        up, down, sizes = np.array([1, 1, 2, 3], np.float32), np.array([1, 1, 0.6, 0.5], np.float32), int64(1, 2, 7, 3)
        for mode in ("nearest", "linear", "cubic"):
            for coordinate in COORDINATES[:5]:
                for scale in (up, down):
                    yield Sample([x, None, scale], {"mode": mode, "coordinate_transformation_mode": coordinate})
            yield Sample([x, None, None, sizes], {"mode": mode})
        for nearest in RESIZE["nearest_mode"].choices:
            yield Sample([x, None, None, sizes], {"mode": "nearest", "nearest_mode": nearest})
        yield Sample([x, None, down], {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5})
        yield Sample([x, None, down], {"mode": "linear", "antialias": 1})
        yield Sample(
            [x, None, None, int64(7, 3)], {"mode": "linear", "axes": (2, 3), "keep_aspect_ratio_policy": "not_larger"}
        )
        roi = np.array([0, 0, 0.4, 0.6, 1, 1, 0.6, 1.2], np.float32)
        yield Sample(
            [x, roi, None, int64(1, 2, 3, 3)],
            {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0},
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        before, after = context.shape(), self.infer(context)[0]
        if before is None or not isinstance(after, TensorType) or after.shape is None:
            return kept_rows(tags[:1], None)
        return kept_rows(tags[:1], [axis for axis, size in enumerate(before) if after.shape[axis] != size])

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version >= 13:
            return
        if version == 10:
            node.inputs = [node.inputs[0], None, node.inputs[1]]
            node.attributes |= legacy_attributes(builder.graph.constant_of(node.inputs[2]))


def legacy_attributes(scales: Any) -> dict[str, Any]:
    """How Upsample and Resize of operator set 10 find their elements: the grid starts at 0, halves are cut off."""
    shrinks = scales is not None and bool(np.any(scales < 1))
    return {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if shrinks else "floor"}


def scaled(size: Dim, scale: float, context: Context) -> Dim:
    """floor(size * scale), exact where the scale is a small fraction."""
    if isinstance(size, int):
        return int(np.floor(size * scale))
    from fractions import Fraction  # with decimal: too much for each load of another graph

    ratio = Fraction(scale)
    return size * ratio.numerator // ratio.denominator if ratio.denominator <= 1024 else context.fresh("resized")


class ResizeGrad(Operator):
    """The gradient of Resize: dY and the shape of X, then the inputs roi, scales, sizes of the Resize -> dX."""

    domain = "headrace"
    inputs = (In("dY"), In("shape", INT64), *Resize.inputs[1:])
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = RESIZE
    accuracy = Accuracy(64.0)

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(1), context.type(0).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "resized"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, shape, roi, scales, sizes = (*inputs, None, None, None)[:5]
        target = sized(shape)
        dx = widen(dy)
        for axis, count, scale, region in plan(target, roi, scales, sizes, attributes):
            place, outside = coordinates(
                attributes["coordinate_transformation_mode"], target[axis], count, scale, region
            )
            indices, factors = weights(place, target[axis], scale, attributes)
            factors = np.where(outside[:, None], 0, factors)
            dx = apply_axis_transposed(dx, axis, target[axis], indices, factors)
        return [np.ascontiguousarray(dx).astype(dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        passed = {key: value for key, value in attributes.items() if value is not None} | {"extrapolation_value": 0.0}
        return [F.Resize(grads[0], *inputs[2:], **passed)] + [None] * (len(inputs) - 1)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for mode in ("nearest", "linear", "cubic"):
            yield Sample(
                [draw(rng, (1, 2, 10, 12), "float32"), int64(1, 2, 5, 4), None, np.array([1, 1, 2, 3], np.float32)],
                {"mode": mode},
            )
            yield Sample(
                [draw(rng, (1, 2, 7, 3), "float32"), int64(1, 2, 5, 4), None, None, int64(1, 2, 7, 3)], {"mode": mode}
            )


class Upsample(Operator):
    """The operator that Resize replaced: scales as input, the grid starting at 0."""

    versions = (1, 7, 9, 10)
    inputs = (In("X"), In("scales", frozenset({"float32"})))
    types = {"T": dtypes.NUMERIC | {"bool"}}
    attributes = {"mode": Attr("string", "nearest", ("nearest", "linear", "bilinear"))}
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, scales = context.shape(), context.constant(1)
        if shape is None or scales is None:
            return [TensorType(context.dtype(), None if shape is None else fresh_shape(context, len(shape), "resized"))]
        return [
            TensorType(
                context.dtype(), tuple(scaled(size, float(scale), context) for size, scale in zip(shape, scales))
            )
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        full = {"mode": attributes["mode"].replace("bilinear", "linear"), **legacy_attributes(inputs[1])}
        resize = Resize()
        return resize.reference([inputs[0], None, inputs[1]], resize.complete(full))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for mode in ("nearest", "linear"):
            yield Sample([draw(rng, (1, 1, 2, 3), "float32"), np.array([1, 1, 2, 3], np.float32)], {"mode": mode})

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 7:
            scales = (1.0, 1.0, float(node.attributes.pop("height_scale")), float(node.attributes.pop("width_scale")))
            node.attributes["scales"] = scales
        attribute_to_input(node, builder, "scales", 1, np.float32)
        scales = builder.graph.constant_of(node.inputs[1])
        attributes = {
            "mode": node.attributes.get("mode", "nearest").replace("bilinear", "linear"),
            **legacy_attributes(scales),
        }
        return builder.node("Resize", [node.inputs[0], None, node.inputs[1]], attributes)
