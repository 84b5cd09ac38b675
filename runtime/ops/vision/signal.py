"""DFT, STFT, the window functions and MelWeightMatrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import axis_of, integers, kept_rows, known_shape
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, name_of, numpy_dtype, widen
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.shapes import Dim
from headrace.runtime.types import TensorType, Type

INDEX = frozenset({"int32", "int64"})


def as_complex(x: Any) -> Any:
    """[..., 1] or [..., 2] (real and imaginary parts) as complex numbers."""
    return x[..., 0] + (0 if x.shape[-1] == 1 else 1j * x[..., 1])


def as_pairs(z: Any, dtype: Any) -> Any:
    return np.stack([z.real, z.imag], axis=-1).astype(dtype)


def _one(array: Any) -> int | None:
    return None if array is None else int(np.ravel(array)[0])


class DFT(Operator):
    """The discrete Fourier transform along one axis of [..., 1 or 2]; with onesided only the first half of the
    frequencies (inverse: a real signal from them)."""

    versions = (17, 20)
    inputs = (In("input", "T1"), In("dft_length", "T2", optional=True), In("axis", frozenset({"int64"}), optional=True))
    outputs = (Out("output", "T1"),)
    types = {"T1": dtypes.FLOAT, "T2": INDEX}
    attributes = {"inverse": Attr("int", 0, (0, 1)), "onesided": Attr("int", 0, (0, 1))}
    accuracy = Accuracy(256.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, least=2)
        axis = integers(context, 2) if context.has(2) else (-2,)
        if shape is None:
            return [TensorType(context.dtype())]
        inverse, onesided = context.attributes["inverse"], context.attributes["onesided"]
        last = 1 if inverse and onesided else 2
        if axis is None:
            return [TensorType(context.dtype(), (*(context.fresh("dft") for _ in shape[:-1]), last))]
        place = axis_of(axis[0], len(shape))
        if place == len(shape) - 1:
            raise GraphError("the axis of DFT is the last one, which holds real and imaginary parts")
        given = context.value(1) if context.has(1) else None
        length: Dim | None = given[0] if isinstance(given, tuple) else given
        if length is None and context.has(1):
            length = context.fresh("dft")
        if length is None:
            length = (shape[place] - 1) * 2 if inverse and onesided else shape[place]
        size = length // 2 + 1 if onesided and not inverse else length
        return [TensorType(context.dtype(), (*shape[:place], size, *shape[place + 1 : -1], last))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, length, axis = (*inputs, None, None)[:3]
        place = axis_of(-2 if axis is None else _one(axis) or 0, x.ndim)
        signal, count = as_complex(widen(x)), _one(length)
        if count is not None and count < 1:
            raise RunError(f"dft_length is {count}; allowed: 1 and more")
        if attributes["inverse"] and attributes["onesided"]:
            real = np.fft.irfft(signal, n=count, axis=place)
            return [real[..., None].astype(x.dtype)]
        if attributes["inverse"]:
            return [as_pairs(np.fft.ifft(signal, n=count, axis=place), x.dtype)]
        spectrum = np.fft.fft(signal, n=count, axis=place)
        if attributes["onesided"]:
            spectrum = np.take(spectrum, range(spectrum.shape[place] // 2 + 1), axis=place)
        return [as_pairs(spectrum, x.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for last in (1, 2):
            yield Sample([draw(rng, (2, 8, 3, last), "float32"), None, np.array(1, np.int64)])
            yield Sample([draw(rng, (2, 8, 3, last), "float32"), np.array(6, np.int64), np.array(1, np.int64)])
        yield Sample([draw(rng, (2, 8, 1), "float32")], {"onesided": 1})
        yield Sample([draw(rng, (2, 8, 2), "float32")], {"inverse": 1})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        rank, axis = context.type(0).rank, integers(context, 2) if context.has(2) else (-2,)
        blocked = None if rank is None or axis is None else (axis_of(axis[0], rank), rank - 1)
        return kept_rows([*tags[:1], *(tag for i, tag in enumerate(tags[1:], 1) if context.has(i))], blocked)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 20:
            axis = int(node.attributes.pop("axis", 1))
            node.inputs += [None] * (2 - len(node.inputs))
            node.inputs.append(builder.constant(np.array(axis, np.int64), "axis"))


class STFT(Operator):
    """The Fourier transform of frames of a signal [batch, length, 1 or 2], each multiplied by a window."""

    versions = (17,)
    inputs = (
        In("signal", "T1"),
        In("frame_step", "T2"),
        In("window", "T1", optional=True),
        In("frame_length", "T2", optional=True),
    )
    outputs = (Out("output", "T1"),)
    types = {"T1": dtypes.FLOAT, "T2": INDEX}
    attributes = {"onesided": Attr("int", 1, (0, 1))}
    accuracy = Accuracy(256.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, ranks=(3,))
        if shape is None:
            return [TensorType(context.dtype())]
        step, length = integers(context, 1), integers(context, 3) if context.has(3) else None
        size: Dim | None = length[0] if length else None
        if size is None and context.has(2) and context.shape(2) and not context.has(3):
            size = context.shape(2)[0]  # type: ignore[index]
        if size is None:
            return [TensorType(context.dtype(), (shape[0], context.fresh("frames"), context.fresh("bins"), 2))]
        frames = (shape[1] - size) // step[0] + 1 if step and step[0] > 0 else context.fresh("frames")
        return [
            TensorType(
                context.dtype(), (shape[0], frames, size // 2 + 1 if context.attributes["onesided"] else size, 2)
            )
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        signal, step, window, length = (*inputs, None, None)[:4]
        size = _one(length) or (window.shape[0] if window is not None else signal.shape[1])
        hop = _one(step) or 0
        if hop < 1 or size > signal.shape[1]:
            raise RunError(f"frames of {size} every {hop} do not fit a signal of {signal.shape[1]}")
        frames = np.lib.stride_tricks.sliding_window_view(as_complex(widen(signal)), size, axis=1)[:, ::hop]
        frames = frames if window is None else frames * widen(window)
        spectrum = np.fft.fft(frames, axis=-1)
        spectrum = spectrum[..., : size // 2 + 1] if attributes["onesided"] else spectrum
        return [as_pairs(spectrum, signal.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        signal = draw(rng, (2, 32, 1), "float32")
        yield Sample([signal, np.array(4, np.int64), draw(rng, (8,), "float32", 0, 1)])
        yield Sample([signal, np.array(4, np.int64), None, np.array(8, np.int64)], {"onesided": 0})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return kept_rows([tag for i, tag in enumerate(tags) if context.has(i)], (1, 2))


class _WindowFunction(Operator):
    """a0 - a1 cos(2 pi n / N) + a2 cos(4 pi n / N), N = size (periodic) or size - 1."""

    versions = (17,)
    inputs = (In("size", INDEX),)
    outputs = (Out("output", dtypes.NUMERIC),)
    attributes = {"output_datatype": Attr("int", 1), "periodic": Attr("int", 1, (0, 1))}
    accuracy = Accuracy(16.0)
    differentiable = False
    terms: tuple[float, float, float] = (0.5, 0.5, 0.0)

    def infer(self, context: Context) -> list[Type | None]:
        size = context.value(0)
        size = size[0] if isinstance(size, tuple) else size
        return [
            TensorType(
                name_of(context.attributes["output_datatype"]), (context.fresh("window") if size is None else size,)
            )
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        (size,) = sized([_one(inputs[0]) or 0])
        steps = size if attributes["periodic"] else max(size - 1, 1)
        angle = np.arange(size) * (2 * np.pi / max(steps, 1))
        a, b, c = self.terms
        return [
            (a - b * np.cos(angle) + c * np.cos(2 * angle)).astype(numpy_dtype(name_of(attributes["output_datatype"])))
        ]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for periodic in (0, 1):
            yield Sample([np.array(10, np.int64)], {"periodic": periodic})


class HannWindow(_WindowFunction):
    """0.5 - 0.5 cos."""


class HammingWindow(_WindowFunction):
    """25/46 - 21/46 cos."""

    terms = (25 / 46, 21 / 46, 0.0)


class BlackmanWindow(_WindowFunction):
    """0.42 - 0.5 cos + 0.08 cos of twice the angle."""

    terms = (0.42, 0.5, 0.08)


class MelWeightMatrix(Operator):
    """Triangular filters [dft_length / 2 + 1, num_mel_bins] that map a spectrum to the mel scale."""

    versions = (17,)
    inputs = (
        In("num_mel_bins", INDEX), In("dft_length", INDEX), In("sample_rate", INDEX),
        In("lower_edge_hertz", dtypes.FLOAT), In("upper_edge_hertz", dtypes.FLOAT),
    )  # fmt: skip
    outputs = (Out("output", dtypes.NUMERIC),)
    attributes = {"output_datatype": Attr("int", 1)}
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        bins, length = integers(context, 0), integers(context, 1)
        rows = length[0] // 2 + 1 if length else context.fresh("bins")
        return [
            TensorType(
                name_of(context.attributes["output_datatype"]), (rows, bins[0] if bins else context.fresh("mel"))
            )
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        bins, length, rate = (_one(item) or 0 for item in inputs[:3])
        low, high = (2595 * np.log10(1 + float(np.ravel(edge)[0]) / 700) for edge in inputs[3:])
        rows, columns = sized((length // 2 + 1, bins))
        mels = np.arange(bins + 2) * ((high - low) / (bins + 2)) + low
        edges = ((length + 1) * (700 * (10 ** (mels / 2595) - 1)) // rate).astype(int)
        if edges.size and (edges.min() < 0 or edges.max() >= rows + 1):
            raise RunError("the edges in hertz lie outside of the spectrum")
        weights = np.zeros((rows, columns))
        for column, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:])):
            if centre == left:
                weights[centre, column] = 1
            else:
                weights[left : centre + 1, column] = np.arange(centre - left + 1) / (centre - left)
            if right > centre:
                weights[centre:right, column] = np.arange(right - centre, 0, -1) / (right - centre)
        return [weights.astype(numpy_dtype(name_of(attributes["output_datatype"])))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(
            [
                np.array(8, np.int64),
                np.array(16, np.int64),
                np.array(8192, np.int64),
                np.array(0, np.float32),
                np.array(4096, np.float32),
            ]
        )
