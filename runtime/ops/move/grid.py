"""GridSample and AffineGrid: images read at places given by a grid of coordinates in -1 .. 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import int64, known_shape
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, widen
from headrace.runtime.ops.move._sample import sample, sample_gradient
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.types import TensorType, Type


def located(x: Any, grid: Any, corners: int) -> tuple[list[Any], list[tuple[float, float]]]:
    """For each spatial axis the places of a grid in units of elements, and the borders that reflect."""
    places = []
    for axis, size in enumerate(x.shape[2:]):
        n = grid[..., -1 - axis]
        places.append((n + 1) / 2 * (size - 1) if corners else ((n + 1) * size - 1) / 2)
    return places, [(0.0, size - 1.0) if corners else (-0.5, size - 0.5) for size in x.shape[2:]]


class GridSample(Operator):
    """X [N, C, *sizes] read at grid [N, *out, axes], whose last axis holds x, y, ... (the innermost axis first)."""

    versions = (16, 20, 22)
    inputs = (In("X", "T1"), In("grid", "T2"))
    outputs = (Out("Y", "T1"),)
    types = {"T1": dtypes.FLOAT, "T2": dtypes.FLOAT}
    attributes = {
        "align_corners": Attr("int", 0, (0, 1)),
        "mode": Attr("string", "linear", ("linear", "nearest", "cubic")),
        "padding_mode": Attr("string", "zeros", ("zeros", "border", "reflection")),
    }
    accuracy = Accuracy(64.0)
    twice_differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, grid = known_shape(context, 0, least=3), known_shape(context, 1, least=3)
        if x is None or grid is None:
            return [TensorType(context.dtype())]
        if len(x) != len(grid) or (isinstance(grid[-1], int) and grid[-1] != len(x) - 2):
            raise GraphError(
                f"the grid has shape {list(grid)}; allowed for X of rank {len(x)}: [N, {len(x) - 2} sizes, {len(x) - 2}]"
            )
        return [TensorType(context.dtype(), (x[0], x[1], *grid[1:-1]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, grid = widen(inputs[0]), widen(inputs[1])
        places, borders = located(x, grid, attributes["align_corners"])
        found = sample(x, places, attributes["mode"], attributes["padding_mode"], borders)
        return [np.ascontiguousarray(found).astype(inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return list(F.GridSampleGrad(grads[0], *inputs, outputs=2, **attributes))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, grid = draw(rng, (2, 3, 5, 6), "float32"), draw(rng, (2, 3, 4, 2), "float32", -1.4, 1.4)
        for mode in ("linear", "nearest", "cubic"):
            for padding in ("zeros", "border", "reflection"):
                for corners in (0, 1):
                    yield Sample([x, grid], {"mode": mode, "padding_mode": padding, "align_corners": corners})
        yield Sample([draw(rng, (1, 2, 3, 4, 5), "float32"), draw(rng, (1, 2, 2, 3, 3), "float32", -1.2, 1.2)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if tags[0] is None and tags[1] is None else 0 if tags[0] == tags[1] == 0 else MIXED]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 20:
            mode = node.attributes.get("mode", "bilinear")
            node.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


class GridSampleGrad(Operator):
    """The gradients of GridSample's X and grid, from the gradient dY of its output."""

    domain = "headrace"
    versions = (1,)
    inputs = (In("dY"), In("X"), In("grid"))
    outputs = (Out("dX"), Out("dgrid"))
    types = {"T": dtypes.FLOAT}
    attributes = GridSample.attributes
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [context.type(1), context.type(2)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, x, grid = map(widen, inputs)
        corners = attributes["align_corners"]
        places, borders = located(x, grid, corners)
        dx, slopes = sample_gradient(x, places, attributes["mode"], attributes["padding_mode"], borders, dy)
        steps = [(size - 1) / 2 if corners else size / 2 for size in x.shape[2:]]
        dgrid = np.stack([slope * step for slope, step in zip(slopes, steps)][::-1], -1)
        return [np.ascontiguousarray(dx).astype(inputs[1].dtype), dgrid.astype(inputs[2].dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for case in GridSample().samples(rng):
            x, grid = case.inputs
            dy = draw(rng, (*x.shape[:2], *grid.shape[1:-1]), "float32")
            yield Sample([dy, x, grid], case.attributes, outputs=2)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if all(tag is None for tag in tags) else MIXED] * 2


class AffineGrid(Operator):
    """The grid of an affine map theta [N, axes, axes + 1] for GridSample, over an output of `size`."""

    versions = (20,)
    inputs = (In("theta"), In("size", frozenset({"int64"})))
    outputs = (Out("grid"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"align_corners": Attr("int", 0, (0, 1))}
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        theta, size = known_shape(context, 0, (3,)), context.value(1)
        if isinstance(size, tuple):
            return [TensorType(context.dtype(), (size[0], *size[2:], len(size) - 2))]
        if theta is None or not isinstance(theta[1], int):
            return [TensorType(context.dtype())]
        return [TensorType(context.dtype(), (theta[0], *(context.fresh("grid") for _ in range(theta[1])), theta[1]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        theta, sizes = widen(inputs[0]), sized(inputs[1])[2:]
        lines = []
        for size in sizes:
            if attributes["align_corners"]:
                lines.append(np.linspace(-1, 1, size) if size > 1 else np.zeros(1))
            else:
                lines.append((np.arange(size) * 2 + 1) / max(size, 1) - 1)
        grid = np.meshgrid(*lines, indexing="ij")
        places = np.stack([*grid[::-1], np.ones(sizes)], axis=-1).astype(theta.dtype)  # x, y, ..., 1
        mapped = places.reshape(-1, len(sizes) + 1) @ np.swapaxes(theta, 1, 2)
        return [mapped.reshape(len(theta), *sizes, len(sizes)).astype(inputs[0].dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for corners in (0, 1):
            yield Sample([draw(rng, (2, 2, 3), "float32"), int64(2, 3, 4, 5)], {"align_corners": corners})
            yield Sample([draw(rng, (1, 3, 4), "float32"), int64(1, 3, 2, 3, 4)], {"align_corners": corners})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        known = context.value(1) is not None
        return [
            None if all(tag is None for tag in tags) else 0 if tags[0] == 0 and (tags[1] is None or known) else MIXED
        ]
