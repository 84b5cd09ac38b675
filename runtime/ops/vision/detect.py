"""NonMaxSuppression, RoiAlign, MaxRoiPool: boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import int64, known_shape
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, widen
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})
REAL = frozenset({"float32"})


class NonMaxSuppression(Operator):
    """For each batch entry and class, boxes in falling order of score, without those that overlap a chosen one by more
    than iou_threshold: rows (batch, class, box)."""

    versions = (10, 11)
    inputs = (
        In("boxes", REAL), In("scores", REAL), In("max_output_boxes_per_class", INT64, optional=True),
        In("iou_threshold", REAL, optional=True), In("score_threshold", REAL, optional=True),
    )  # fmt: skip
    outputs = (Out("selected_indices", INT64),)
    attributes = {"center_point_box": Attr("int", 0, (0, 1))}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        boxes, scores = known_shape(context, 0, (3,)), known_shape(context, 1, (3,))
        if boxes is not None and isinstance(boxes[2], int) and boxes[2] != 4:
            raise GraphError(f"boxes have {boxes[2]} numbers; allowed: 4")
        del scores
        return [TensorType("int64", (context.fresh("selected"), 3))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        boxes, scores, limit, overlap, least = (*inputs, None, None, None)[:5]
        limit = 0 if limit is None else int(np.ravel(limit)[0])
        overlap = np.float32(0 if overlap is None else np.ravel(overlap)[0])
        least = None if least is None else np.float32(np.ravel(least)[0])
        if not 0 <= overlap <= 1:
            raise RunError(f"iou_threshold is {overlap}; allowed: 0 to 1")
        found = [
            (batch, kind, box)
            for batch in range(scores.shape[0])
            for kind in range(scores.shape[1])
            for box in suppress(
                corners(boxes[batch], attributes["center_point_box"]), scores[batch, kind], limit, overlap, least
            )
        ]
        return [np.array(found, np.int64).reshape(-1, 3)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        low = draw(rng, (2, 9, 2), "float32", 0, 5)
        boxes = np.concatenate([low, low + draw(rng, (2, 9, 2), "float32", 0.5, 4)], axis=2)
        scores = draw(rng, (2, 3, 9), "float32", 0, 1)
        for limit, overlap, least in ((3, 0.5, 0.1), (9, 0.1, 0.4), (0, 0.5, 0.0), (9, 0.9, 2.0)):
            yield Sample([boxes, scores, int64(limit), np.array([overlap], np.float32), np.array([least], np.float32)])
        yield Sample([boxes, scores, int64(4), np.array([0.4], np.float32)], {"center_point_box": 1})
        yield Sample([boxes, scores])


def corners(boxes: Any, centered: int) -> Any:
    """[n, 4] as (low y, low x, high y, high x), whichever corners were given."""
    if centered:
        half = boxes[:, 2:] / 2
        return np.concatenate([(boxes[:, :2] - half)[:, ::-1], (boxes[:, :2] + half)[:, ::-1]], axis=1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def suppress(boxes: Any, scores: Any, limit: int, overlap: Any, least: Any) -> list[int]:
    """Indices of the boxes kept, best first; equal scores in order of index."""
    order = np.argsort(-scores, kind="stable")
    order = order if least is None else order[scores[order] > least]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order.size and len(kept) < limit:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        common = np.prod(np.maximum(sides, 0), axis=1)
        union = areas[best] + areas[order] - common
        order = order[~((common > 0) & (union > 0) & (common / np.where(union > 0, union, 1) > overlap))]
    return kept


class RoiAlign(Operator):
    """Bilinear samples inside each cell of each region, averaged or the largest: [regions, C, height, width]."""

    versions = (10, 16, 22)
    inputs = (In("X"), In("rois"), In("batch_indices", INT64))
    types = {"T": dtypes.FLOAT}
    attributes = {
        "coordinate_transformation_mode": Attr("string", "half_pixel", ("half_pixel", "output_half_pixel")),
        "mode": Attr("string", "avg", ("avg", "max")),
        "output_height": Attr("int", 1),
        "output_width": Attr("int", 1),
        "sampling_ratio": Attr("int", 0),
        "spatial_scale": Attr("float", 1.0),
    }
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, rois = known_shape(context, 0, (4,)), known_shape(context, 1, (2,))
        height, width = context.attributes["output_height"], context.attributes["output_width"]
        return [TensorType(context.dtype(), None if x is None or rois is None else (rois[0], x[1], height, width))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, rois, batches = widen(inputs[0]), widen(inputs[1]), inputs[2]
        cells = attributes["output_height"], attributes["output_width"]
        y = np.zeros((len(rois), x.shape[1], *cells), x.dtype)
        for place, (roi, batch) in enumerate(zip(rois, batches)):
            y[place] = self._region(x[int(batch)], roi, cells, attributes)
        return [y.astype(inputs[0].dtype)]

    @staticmethod
    def _region(image: Any, roi: Any, cells: tuple[int, int], attributes: Mapping[str, Any]) -> Any:
        aligned = attributes["coordinate_transformation_mode"] == "half_pixel"
        scaled = roi * roi.dtype.type(attributes["spatial_scale"]) - roi.dtype.type(0.5 if aligned else 0)
        start, size = scaled[1::-1], (scaled[2:] - scaled[:2])[::-1]  # (y, x)
        size = size if aligned else np.maximum(size, 1)
        ratio = attributes["sampling_ratio"]
        lines, counts = [], []
        for axis, cell in enumerate(cells):
            count = ratio if ratio > 0 else int(np.ceil(size[axis] / cell))
            step = size[axis] / cell
            lines.append(
                start[axis] + (np.arange(cell)[:, None] * step + (np.arange(count) + 0.5) * step / max(count, 1))
            )
            counts.append(max(count, 1))
        (ya, yb, wya, wyb), (xa, xb, wxa, wxb) = (
            bilinear(line.ravel(), length) for line, length in zip(lines, image.shape[1:])
        )
        corners = [
            image[:, ys[:, None], xs] * (wy[:, None] * wx).astype(image.dtype)
            for ys, wy in ((ya, wya), (yb, wyb)) for xs, wx in ((xa, wxa), (xb, wxb))
        ]  # fmt: skip
        grid = (-1, cells[0], lines[0].shape[1], cells[1], lines[1].shape[1])
        if attributes["mode"] == "max":
            return np.max([corner.reshape(grid) for corner in corners], axis=(0, 3, 5), initial=-np.inf)
        return sum(corners).reshape(grid).sum(axis=(2, 4)) / (counts[0] * counts[1])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (2, 3, 8, 9), "float32", 0, 3)
        rois = np.array([[0, 0, 7, 6], [1.5, 2, 5, 7.5], [3, 3, 4, 4]], np.float32)
        for mode in ("half_pixel", "output_half_pixel"):
            for ratio in (0, 2):
                yield Sample(
                    [x, rois, int64(0, 1, 1)],
                    {
                        "output_height": 3,
                        "output_width": 2,
                        "sampling_ratio": ratio,
                        "spatial_scale": 0.8,
                        "coordinate_transformation_mode": mode,
                    },
                )
        yield Sample(
            [x, rois, int64(0, 1, 1)], {"mode": "max", "output_height": 2, "output_width": 2, "sampling_ratio": 2}
        )

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 16:
            node.attributes["coordinate_transformation_mode"] = "output_half_pixel"


def bilinear(places: Any, length: int) -> tuple[Any, Any, Any, Any]:
    """(lower index, upper index, lower weight, upper weight); more than one element outside weighs nothing."""
    inside = (places >= -1) & (places <= length)
    places = np.clip(places, 0, length - 1)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    part = places - low
    return low, high, np.where(inside, 1 - part, 0), np.where(inside, part, 0)


class MaxRoiPool(Operator):
    """The largest element of each cell of each region (batch, x1, y1, x2, y2)."""

    versions = (1, 22)
    inputs = (In("X"), In("rois"))
    types = {"T": dtypes.FLOAT}
    attributes = {"pooled_shape": Attr("ints", REQUIRED), "spatial_scale": Attr("float", 1.0)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, rois = known_shape(context, 0, (4,)), known_shape(context, 1, (2,))
        return [
            TensorType(
                context.dtype(),
                None if x is None or rois is None else (rois[0], x[1], *context.attributes["pooled_shape"]),
            )
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, rois = inputs
        height, width = attributes["pooled_shape"]
        y = np.zeros((len(rois), x.shape[1], height, width), x.dtype)
        for place, (batch, *box) in enumerate(rois):
            x1, y1, x2, y2 = (int(np.floor(float(edge) * attributes["spatial_scale"] + 0.5)) for edge in box)
            for row, (top, bottom) in enumerate(_cells(y1, y2, height, x.shape[2])):
                for column, (left, right) in enumerate(_cells(x1, x2, width, x.shape[3])):
                    if bottom > top and right > left:
                        y[place, :, row, column] = x[int(batch), :, top:bottom, left:right].max(axis=(1, 2))
        return [y]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        rois = np.array([[0, 0, 0, 6, 5], [1, 2, 1, 4, 4]], np.float32)
        yield Sample([draw(rng, (2, 2, 7, 8), "float32"), rois], {"pooled_shape": (2, 3)})
        yield Sample([draw(rng, (2, 2, 7, 8), "float32"), rois], {"pooled_shape": (3, 3), "spatial_scale": 0.5})


def _cells(first: int, last: int, count: int, length: int) -> Sequence[tuple[int, int]]:
    size = max(last - first + 1, 1) / count
    edges = [(int(np.floor(i * size)) + first, int(np.ceil((i + 1) * size)) + first) for i in range(count)]
    return [(min(max(a, 0), length), min(max(b, 0), length)) for a, b in edges]
