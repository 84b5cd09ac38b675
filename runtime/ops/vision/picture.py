"""Pictures: encoded images, one a row, to pixels of one size: what a model of images is given by a client."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError, InputError, RunError
from headrace.runtime.ops.axes import known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.vision.image import FORMATS, PIXEL_LIMIT
from headrace.runtime.types import TensorType, Type


class Pictures(Operator):
    """uint8 [rows, height, width, channels] of encoded images [rows]: decoded, cut to the middle square where `crop` says so,
    and resized (bilinear, antialiased; the pixels are those of the package pillow).

    `width` 0: each as wide as its proportions ask at this height, rounded down, at least `min_width`; rows that are narrower
    than the widest are filled with zeros on the right. The size that an image's header promises is looked at before a pixel
    is decoded; `max_pixels` (0: 64 Mi) bounds it.
    """

    domain = "headrace"
    inputs = (In("X", frozenset({"string"})),)
    outputs = (Out("Y", frozenset({"uint8"})),)
    attributes = {
        "height": Attr("int", REQUIRED),
        "width": Attr("int", 0),
        "min_width": Attr("int", 1),
        "crop": Attr("string", "none", ("none", "square")),
        "pixel_format": Attr("string", "RGB", ("RGB", "BGR", "Grayscale")),
        "max_pixels": Attr("int", 0),
    }
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, ranks=(1,))
        given = context.attributes
        if not (
            1 <= given["height"] <= 1 << 14 and 0 <= given["width"] <= 1 << 14 and 1 <= given["min_width"] <= 1 << 14
        ):
            raise GraphError("height, width (0: by proportion) and min_width are 1 to 16384")
        channels = 1 if given["pixel_format"] == "Grayscale" else 3
        rows = context.fresh("rows") if shape is None else shape[0]
        return [TensorType("uint8", (rows, given["height"], given["width"] or context.fresh("width"), channels))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        pictures = [_decoded(element, row, attributes) for row, element in enumerate(inputs[0].reshape(-1).tolist())]
        channels = 1 if attributes["pixel_format"] == "Grayscale" else 3
        width = attributes["width"] or max((one.shape[1] for one in pictures), default=attributes["min_width"])
        out = np.zeros((len(pictures), attributes["height"], width, channels), np.uint8)
        for row, one in enumerate(pictures):
            out[row, :, : one.shape[1]] = one
        return [out]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        images = np.array([plain(rng, 5, 4), plain(rng, 3, 7), plain(rng, 8, 8)], object)
        yield Sample([images], {"height": 4, "width": 6})
        yield Sample([images], {"height": 3, "min_width": 5, "pixel_format": "BGR"})
        yield Sample([images[:1]], {"height": 2, "width": 2, "crop": "square", "pixel_format": "Grayscale"})
        yield Sample([images[:0]], {"height": 2, "width": 2})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """Of pictures as wide as they like, one changes the width of all."""
        return [tags[0] if tags[0] in (0, None) and context.attributes["width"] else MIXED]


def plain(rng: np.random.Generator, width: int, height: int) -> str:
    """A picture in the plainest of formats, which is text."""
    pixels = " ".join(map(str, rng.integers(0, 256, width * height * 3)))
    return f"P3 {width} {height} 255 {pixels}\n"


def _decoded(element: Any, row: int, attributes: Mapping[str, Any]) -> Any:
    """The pixels [height, width, channels] of one image; InputError where it cannot be read or is too large."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise RunError("Pictures needs the package pillow: pip install headrace[image]") from None
    data = element.encode("utf-8") if isinstance(element, str) else bytes(element)
    most = attributes["max_pixels"] or PIXEL_LIMIT
    unreadable = InputError(
        f"picture {row} cannot be decoded: {len(data)} bytes; allowed are whole files of {', '.join(FORMATS)}"
    )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InputError(f"picture {row} has too many pixels; allowed are {most}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise unreadable from None
    with image:
        if image.width * image.height > most:
            raise InputError(f"picture {row} has {image.width} x {image.height} pixels; allowed are {most}")
        try:
            pixels = image.convert("L" if attributes["pixel_format"] == "Grayscale" else "RGB")
        except (OSError, ValueError, SyntaxError):
            raise unreadable from None
    if attributes["crop"] == "square":
        side = min(pixels.size)
        left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
        pixels = pixels.crop((left, top, left + side, top + side))
    height = attributes["height"]
    width = attributes["width"] or max(attributes["min_width"], int(height * pixels.width / pixels.height))
    if width * height > most:
        raise InputError(f"picture {row} is {width} wide at the height {height}; allowed are {most} pixels")
    found = np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR))
    found = found[:, :, None] if found.ndim == 2 else found
    return found[:, :, ::-1] if attributes["pixel_format"] == "BGR" else found
