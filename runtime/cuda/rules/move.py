"""Operators that move items without computing."""

from __future__ import annotations

import math

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.cuda.kernels import elementwise, move
from headrace.runtime.cuda.kernels._launch import broadcast_steps, contiguous_steps
from headrace.runtime.cuda.rules.base import Bound, NoKernel, Rule, Site, Work
from headrace.runtime.ops.move._resample import coordinates, weights
from headrace.runtime.ops.move.pad import numpy_fill, pad_widths
from headrace.runtime.ops.move.resize import plan
from headrace.runtime.ops.move.slice import slices

SIZES = (1, 2, 4, 8)  # bytes of an item


def _item(site: Site, index: int = 0) -> int:
    """Bytes of one item of an input."""
    size = dtypes.BY_NAME[site.dtype(index)].itemsize
    if size not in SIZES:
        raise NoKernel(f"items of {size} bytes")
    return size


def _transpose(site: Site) -> Work:
    item, shape = _item(site), site.shape()
    order = tuple(site.attributes["perm"] or reversed(range(len(shape))))

    def emit(at: Bound) -> None:
        move.transpose(at.device, item, at.inputs[0], at.outputs[0], shape, order)

    return Work("transpose", emit)


def _expand(site: Site) -> Work:
    item, shape, out = _item(site), site.shape(), site.out_shape()

    def emit(at: Bound) -> None:
        move.copy(at.device, item, at.inputs[0], at.outputs[0], out, broadcast_steps(shape, len(out)))

    return Work("expand", emit)


def _slice(site: Site) -> Work:
    item, shape, counts = _item(site), site.shape(), site.out_shape()
    given = slices(shape, [site.fixed(i) if site.has(i) else None for i in range(1, 5)])
    starts, _, steps = zip(*(one.indices(size) for one, size in zip(given, shape)), strict=True)

    def emit(at: Bound) -> None:
        move.slice_(at.device, item, at.inputs[0], at.outputs[0], shape, starts, counts, steps)

    return Work("slice", emit)


def _concat(site: Site) -> Work:
    item, shapes = _item(site), [site.shape(i) for i in range(len(site.node.inputs))]
    axis = site.attributes["axis"] % len(shapes[0])

    def emit(at: Bound) -> None:
        move.concat(at.device, item, list(zip(at.inputs, shapes)), at.outputs[0], axis)

    return Work("concat", emit)


def _split(site: Site) -> Work:
    item, shape = _item(site), site.shape()
    axis = site.attributes["axis"] % len(shape)
    site.need(all(value is not None for value in site.node.outputs), "an output that nobody reads")
    sizes = [site.out_shape(i)[axis] for i in range(len(site.node.outputs))]

    def emit(at: Bound) -> None:
        move.split(at.device, item, at.inputs[0], shape, list(zip(at.outputs, sizes)), axis)

    return Work("split", emit)


def _pad(site: Site) -> Work:
    """A constant around the data: the whole result is filled, then the data goes into its place. Negative pads crop."""
    site.need(site.attributes["mode"] == "constant", f"the mode {site.attributes['mode']}")
    item, shape, out = _item(site), site.shape(), site.out_shape()
    widths = pad_widths(len(shape), site.fixed(1), site.fixed(3) if site.has(3) else None)
    dtype = dtypes.BY_NAME[site.dtype()].numpy
    value = np.reshape(site.fixed(2), (1,)) if site.has(2) else np.asarray(numpy_fill(dtype), dtype).reshape(1)
    fill = site.derived("fill", [site.fixed(2) if site.has(2) else site.fixed(1)], lambda: value)
    kept = [size - max(0, -before) - max(0, -after) for size, (before, after) in zip(shape, widths)]
    site.need(min(kept, default=1) > 0, "nothing of the data is left")
    source, target = contiguous_steps(shape), contiguous_steps(out)
    x_at = item * sum(max(0, -before) * step for (before, _), step in zip(widths, source))
    y_at = item * sum(max(0, before) * step for (before, _), step in zip(widths, target))

    def emit(at: Bound) -> None:
        move.copy(at.device, item, at.constant(fill), at.outputs[0], out, [0] * len(out))
        move.copy(at.device, item, at.inputs[0] + x_at, at.outputs[0] + y_at, kept, source, target)

    return Work("pad", emit)


def _gather(site: Site) -> Work:
    item, shape = _item(site), site.shape()
    axis = site.attributes["axis"] % len(shape)
    outer, size, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    count, narrow, fixed = site.size(1), site.dtype(1) == "int32", site.constant(1)
    known = fixed is not None and bool(np.all((fixed >= -size) & (fixed < size)))

    def emit(at: Bound) -> None:
        indices = at.inputs[1]
        if narrow:
            elementwise.cast(at.device, indices, at.scratch, count, "int32", "int64")
            indices = at.scratch
        status = 0 if known else at.status
        move.gather(at.device, item, at.inputs[0], indices, at.outputs[0], outer, size, count, inner, status)

    failure = "" if known else f"an index lies outside axis {axis} of size {size}"
    return Work("gather", emit, scratch=8 * count if narrow else 0, failure=failure)


def _resize(site: Site) -> Work:
    """Nearest neighbour where every item is repeated a whole number of times: a copy that stands still."""
    site.need(site.attributes["mode"] == "nearest", f"the mode {site.attributes['mode']}")
    item, shape = _item(site), site.shape()
    roi, scales, sizes = (site.fixed(i) if site.has(i) and site.size(i) else None for i in (1, 2, 3))
    times = [1] * len(shape)
    for axis, count, scale, region in plan(shape, roi, scales, sizes, site.attributes):
        mode = site.attributes["coordinate_transformation_mode"]
        place, outside = coordinates(mode, shape[axis], count, scale, region)
        found = weights(place, shape[axis], scale, site.attributes)[0][:, 0]
        times[axis] = count // shape[axis]
        repeated = np.repeat(np.arange(shape[axis]), times[axis])
        site.need(np.array_equal(found, repeated) and not outside.any(), "items that are not repeated evenly")
    walked = [size for pair in zip(shape, times) for size in pair]
    walk = [step for own in contiguous_steps(shape) for step in (own, 0)]

    def emit(at: Bound) -> None:
        move.copy(at.device, item, at.inputs[0], at.outputs[0], walked, walk)

    return Work("repeat", emit)


RULES: dict[str, Rule] = {
    "Transpose": _transpose, "Expand": _expand, "Slice": _slice, "Concat": _concat, "Split": _split, "Pad": _pad,
    "Gather": _gather, "Resize": _resize,
}  # fmt: skip
