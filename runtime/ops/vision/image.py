"""ImageDecoder: bytes of an image file to pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime.errors import RunError
from headrace.runtime.ops.axes import known_shape
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.types import TensorType, Type

UINT8 = frozenset({"uint8"})
FORMATS = ("BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PIXEL_LIMIT = 1 << 26  # of one image: a small file can promise a very large one


class ImageDecoder(Operator):
    """uint8 [height, width, 3] (RGB, BGR) or [height, width, 1] (Grayscale). Needs the package pillow."""

    versions = (20,)
    inputs = (In("encoded_stream", UINT8),)
    outputs = (Out("image", UINT8),)
    attributes = {"pixel_format": Attr("string", "RGB", ("RGB", "BGR", "Grayscale"))}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        known_shape(context, ranks=(1,))
        channels = 1 if context.attributes["pixel_format"] == "Grayscale" else 3
        return [TensorType("uint8", (context.fresh("height"), context.fresh("width"), channels))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        pixels = decode(inputs[0].tobytes(), "L" if attributes["pixel_format"] == "Grayscale" else "RGB")
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return [np.ascontiguousarray(pixels[:, :, ::-1] if attributes["pixel_format"] == "BGR" else pixels)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        header = b"P6 3 2 255 "  # a picture in the plainest of formats
        encoded = np.frombuffer(header + rng.integers(0, 256, 18, np.uint8).tobytes(), np.uint8)
        for pixel_format in ("RGB", "BGR", "Grayscale"):
            yield Sample([encoded], {"pixel_format": pixel_format})


def decode(data: bytes, mode: str) -> Any:
    """The pixels of an image in one of FORMATS. RunError where it cannot be read, or is too large."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise RunError("ImageDecoder needs the package pillow: pip install headrace[image]") from None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise RunError(f"the image has {image.width} x {image.height} pixels; allowed are {PIXEL_LIMIT}")
            return np.array(image.convert(mode))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise RunError(f"the image cannot be decoded: {error}") from None
