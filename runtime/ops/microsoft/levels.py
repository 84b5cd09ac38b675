"""onnxruntime's operators on 8-bit levels: each is its float operator between DequantizeLinear and QuantizeLinear, which the
passes turn into integer kernels and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.infer import check_inputs
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.quant.integer import levels, number, scale
from headrace.runtime.ops.spelled import EITHER8, FLOAT32, Spelled
from headrace.runtime.types import TensorType, Type

ONE = (In("X"), In("X_scale", FLOAT32), In("X_zero_point", optional=True), In("Y_scale", FLOAT32), In("Y_zero_point", optional=True))  # fmt: skip
KINDS = ("uint8", "int8")


class _Levels(Spelled):
    """One tensor in, one out, in the type of the input."""

    inputs, outputs = ONE, (Out("Y"),)
    types = {"T": EITHER8}
    accuracy = Accuracy.exact()

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, x_scale, x_zero, y_scale, y_zero = inputs
        y = self.real(F, F.DequantizeLinear(x, *flat(F, x_scale, x_zero)), attributes)
        return quantize(F, y, y_scale, y_zero, F.dtype(x))

    def real(self, F: Any, x: Any, attributes: Mapping[str, Any]) -> Any:
        """The operator on float32."""
        raise NotImplementedError

    def cases(self) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        yield from (((2, 3, 5), {}), ((256,), {}))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in KINDS:
            for shape, given in self.cases():
                middle = 128 if kind == "uint8" else 0
                x = [levels(rng, shape, kind), scale(0.04), number(middle + 3, kind)]
                yield Sample([*x, scale(0.011), number(middle - 9, kind)], given)


def flat(F: Any, *values: Any) -> list[Any]:
    """Scales and zero points, which files give as one element of any rank, as scalars."""
    return [value if value is None or F.rank(value) == 0 else F.Squeeze(value) for value in values]


def quantize(F: Any, y: Any, y_scale: Any, y_zero: Any, kind: str) -> Any:
    """To levels of `kind`; a zero point that is absent is 0."""
    zero = F.constant(np.zeros((), kind)) if y_zero is None else y_zero
    return F.QuantizeLinear(y, *flat(F, y_scale, zero))


class QLinearSigmoid(_Levels):
    """Source: onnxruntime, com.microsoft.QLinearSigmoid-1."""

    def real(self, F: Any, x: Any, attributes: Mapping[str, Any]) -> Any:
        return F.Sigmoid(x)


class QLinearLeakyRelu(_Levels):
    """Source: onnxruntime, com.microsoft.QLinearLeakyRelu-1."""

    attributes = {"alpha": Attr("float", 0.01)}

    def real(self, F: Any, x: Any, attributes: Mapping[str, Any]) -> Any:
        return F.LeakyRelu(x, alpha=attributes["alpha"])

    def cases(self) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        yield from (((2, 3, 5), {}), ((256,), {"alpha": 0.3}))


class QLinearSoftmax(_Levels):
    """`opset` 12 and older: softmax over all axes from `axis` on, together. Source: onnxruntime,
    com.microsoft.QLinearSoftmax-1."""

    inputs = (*ONE[:4], In("Y_zero_point"))
    attributes = {"axis": Attr("int", -1), "opset": Attr("int", 13)}

    def real(self, F: Any, x: Any, attributes: Mapping[str, Any]) -> Any:
        axis, rank = attributes["axis"] % max(1, F.rank(x)), F.rank(x)
        if attributes["opset"] >= 13 or axis == rank - 1:
            return F.Softmax(x, axis=axis)
        return F.Reshape(F.Softmax(F.Flatten(x, axis=axis), axis=-1), F.Shape(x))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in KINDS:
            for given in ({"opset": 13}, {"opset": 13, "axis": 1}, {"opset": 12, "axis": 1}):
                x = [levels(rng, (2, 3, 7), kind), scale(0.04), number(3, kind)]
                yield Sample([*x, scale(1 / 256), number(0 if kind == "uint8" else -128, kind)], given)


class QLinearGlobalAveragePool(_Levels):
    """Source: onnxruntime, com.microsoft.QLinearGlobalAveragePool-1."""

    attributes = {"channels_last": Attr("int", 0, (0, 1))}

    def real(self, F: Any, x: Any, attributes: Mapping[str, Any]) -> Any:
        return with_channels_first(F, x, attributes["channels_last"], F.GlobalAveragePool)

    def cases(self) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        yield from (((2, 3, 5, 7), {}), ((1, 8, 4, 4), {}), ((2, 5, 7, 3), {"channels_last": 1}))


class QLinearAveragePool(_Levels):
    """Source: onnxruntime, com.microsoft.QLinearAveragePool-1."""

    attributes = {
        "auto_pad": Attr("string", "NOTSET"), "ceil_mode": Attr("int", 0, (0, 1)), "channels_last": Attr("int", 0, (0, 1)),
        "count_include_pad": Attr("int", 0, (0, 1)), "kernel_shape": Attr("ints", ()), "pads": Attr("ints"), "strides": Attr("ints"),
    }  # fmt: skip

    def real(self, F: Any, x: Any, attributes: Mapping[str, Any]) -> Any:
        given = {key: attributes[key] for key in self.attributes if key != "channels_last"}
        return with_channels_first(F, x, attributes["channels_last"], lambda y: F.AveragePool(y, **given))

    def cases(self) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        yield (2, 3, 6, 7), {"kernel_shape": (2, 3)}
        yield (1, 4, 6, 6), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2)}
        yield (1, 4, 6, 6), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "count_include_pad": 1}
        yield (1, 6, 5, 2), {"kernel_shape": (2, 2), "channels_last": 1}


def with_channels_first(F: Any, x: Any, last: int, function: Any) -> Any:
    """function over [N, C, ...], for x that may be [N, ..., C]."""
    if not last:
        return function(x)
    rank = F.rank(x)
    y = function(F.Transpose(x, perm=(0, rank - 1, *range(1, rank - 1))))
    return F.Transpose(y, perm=(0, *range(2, rank), 1))


class QLinearAdd(Spelled):
    """A + B of levels: headrace.QAdd. Source: onnxruntime, com.microsoft.QLinearAdd-1."""

    inputs = (
        In("A"), In("A_scale", FLOAT32), In("A_zero_point", optional=True), In("B"), In("B_scale", FLOAT32), In("B_zero_point", optional=True),
        In("C_scale", FLOAT32), In("C_zero_point", optional=True),
    )  # fmt: skip
    outputs = (Out("C"),)
    types = {"T": EITHER8}
    accuracy = Accuracy.exact()

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero = inputs
        none = F.constant(np.zeros((), F.dtype(a)))
        zeros = [none if zero is None else zero for zero in (a_zero, b_zero, c_zero)]
        (a_scale, b_scale, c_scale), zeros = flat(F, a_scale, b_scale, c_scale), flat(F, *zeros)
        return F.QAdd(a, a_scale, zeros[0], b, b_scale, zeros[1], c_scale, zeros[2])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in KINDS:
            for a, b in (((2, 3, 5), (2, 3, 5)), ((2, 17), (1,)), ((4, 1), (4, 6))):
                given = [scale(0.05), number(3, kind), levels(rng, b, kind), scale(0.02), number(7, kind), scale(0.06)]
                yield Sample([levels(rng, a, kind), *given, number(4, kind)])


class QLinearMul(QLinearAdd):
    """A * B of levels. Source: onnxruntime, com.microsoft.QLinearMul-1."""

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero = inputs
        left = F.DequantizeLinear(a, *flat(F, a_scale, a_zero))
        right = F.DequantizeLinear(b, *flat(F, b_scale, b_zero))
        return quantize(F, F.Mul(left, right), c_scale, c_zero, F.dtype(a))


class QLinearConcat(Spelled):
    """Tensors of levels, brought to one scale, behind each other: the inputs are tensor, scale, zero point for each.
    Source: onnxruntime, com.microsoft.QLinearConcat-1."""

    inputs = (In("Y_scale", FLOAT32), In("Y_zero_point"), In("inputs", EITHER8 | FLOAT32, variadic=True))
    outputs = (Out("Y"),)
    types = {"T": EITHER8}
    attributes = {"axis": Attr("int", 0)}
    accuracy = Accuracy.exact()

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        y_scale, y_zero, *given = inputs
        if not given or len(given) % 3:
            raise GraphError(f"{len(given)} tensors, scales and zero points; allowed: three for each tensor")
        parts = [F.DequantizeLinear(x, *flat(F, s, z)) for x, s, z in zip(given[::3], given[1::3], given[2::3])]
        return quantize(F, F.Concat(*parts, axis=attributes["axis"]), y_scale, y_zero, F.dtype(y_zero))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in KINDS:
            parts = [
                item
                for width in (2, 3)
                for item in (levels(rng, (2, width), kind), scale(0.02 * width), number(width, kind))
            ]
            yield Sample([scale(0.05), number(4, kind), *parts], {"axis": 1})
            yield Sample(
                [scale(0.02), number(1, kind), levels(rng, (4,), kind), scale(0.02), number(1, kind)], {"axis": 0}
            )


class QuantizeLinear(Spelled):
    """The standard operator. Source: onnxruntime, com.microsoft.QuantizeLinear-1."""

    inputs = (In("x"), In("y_scale"), In("y_zero_point", "T2", optional=True))
    outputs = (Out("y", "T2"),)
    types = {
        "T": frozenset({"float32", "float16"}),
        "T2": frozenset({"int8", "uint8", "int16", "uint16", "int4", "uint4"}),
    }
    attributes = {"axis": Attr("int", 1)}
    accuracy = Accuracy.exact()

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return F.QuantizeLinear(*inputs, axis=attributes["axis"])

    def _unranked(self, context: Context) -> list[Type | None]:
        return [TensorType(check_inputs(self, context.inputs).get("T2", "uint8"))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in ("uint8", "int8", "uint16", "int16"):
            yield Sample([draw(rng, (2, 7), "float32"), scale(0.05), number(3, kind)])
        yield Sample(
            [draw(rng, (2, 3), "float32"), np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 3], "uint8")],
            {"axis": 1},
        )
        yield Sample([draw(rng, (2, 3), "float32"), scale(0.05)])


class DequantizeLinear(Spelled):
    """The standard operator. Source: onnxruntime, com.microsoft.DequantizeLinear-1."""

    inputs = (In("x"), In("x_scale", "T2"), In("x_zero_point", optional=True))
    outputs = (Out("y", "T2"),)
    types = {
        "T": frozenset({"int8", "uint8", "int16", "uint16", "int32", "int4", "uint4"}),
        "T2": frozenset({"float32", "float16"}),
    }
    attributes = {"axis": Attr("int", 1)}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        return F.DequantizeLinear(*inputs, axis=attributes["axis"])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for kind in KINDS:
            yield Sample([levels(rng, (2, 7), kind), scale(0.05), number(3, kind)])
        yield Sample([rng.integers(-9000, 9000, 6).astype(np.int32), scale(0.001)])
        yield Sample(
            [levels(rng, (2, 3), "uint8"), np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 3], "uint8")],
            {"axis": 1},
        )
