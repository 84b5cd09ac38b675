"""Cast, CastLike, BitCast, Identity: the same elements in another type, or the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import code_of, draw, extremes, is_float, name_of, replacement
from headrace.runtime.shapes import Dim
from headrace.runtime.types import TensorType, Type

SATURATING = dtypes.FLOAT8 - {"float8_e8m0fnu"}


def cast(x: Any, to: str, saturate: bool = True, round_mode: str = "up") -> Any:
    """Convert by the rules of ONNX Cast. Floats to integers truncate; out of range is undefined there, and here what the
    C conversion gives. RunError for text that is no number."""
    source, target = dtypes.of(x), dtypes.of(to)
    if source.name == target.name:
        return x
    if source.kind == "s":
        return _parsed(x, target)
    if target.kind == "s":
        return _printed(x, source)
    wide = x.astype(np.float32) if source.kind == "f" and source.bits < 32 else x
    with np.errstate(all="ignore"):
        if target.bits < 8:
            return _sub_byte(wide, target)
        if to == "float8_e8m0fnu":
            return _power_of_two(wide, saturate, round_mode)
        if to in SATURATING:
            return _float8(wide, target, saturate)
        return wide.astype(target.numpy)


def _float8(x: Any, target: dtypes.DType, saturate: bool) -> Any:
    result = x.astype(np.float32).astype(target.numpy)
    if not saturate:
        return result
    info: Any = ml_dtypes.finfo(target.numpy)  # type: ignore[no-untyped-call]
    limit = np.float32(info.max)
    rounded = result.astype(np.float32)
    over = ~np.isnan(x.astype(np.float32)) & (np.isnan(rounded) | np.isinf(rounded))
    return np.where(over, np.copysign(limit, x.astype(np.float32)), rounded).astype(target.numpy)


def _power_of_two(x: Any, saturate: bool, round_mode: str) -> Any:
    """float8_e8m0: an exponent without sign and mantissa; NaN for NaN, and for negative numbers their magnitude's."""
    size = np.abs(x.astype(np.float32))
    mantissa, exponent = np.frexp(size)  # size = mantissa * 2**exponent, mantissa in [0.5, 1)
    floor = exponent.astype(np.int64) - 1
    up = {"up": mantissa > 0.5, "down": np.zeros_like(mantissa, bool), "nearest": mantissa >= 0.75}[round_mode]
    code = floor + up + 127
    low, high = np.asarray(0), np.asarray(254 if saturate else 255)
    code = np.clip(np.where(size == 0, 0, code), low, high)
    code = np.where(np.isinf(size), high, code)
    return np.where(np.isnan(size), 255, code).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)


def _sub_byte(x: Any, target: dtypes.DType) -> Any:
    """Types of 2 and 4 bits: integers keep their low bits, float4 takes the nearest value it has."""
    if target.kind == "f":
        return x.astype(np.float32).astype(target.numpy)
    whole = np.trunc(x).astype(np.int64) if x.dtype.kind == "f" else x.astype(np.int64)
    low = whole & ((1 << target.bits) - 1)
    if target.kind == "i":
        low = np.where(low >= 1 << (target.bits - 1), low - (1 << target.bits), low)
    return low.astype(np.int8 if target.kind == "i" else np.uint8).astype(target.numpy)


def _parsed(x: Any, target: dtypes.DType) -> Any:
    """Numbers from text; "INF" and "NaN" in any case. Integers are read exactly, or through float if there is a point."""

    def number(text: Any) -> Any:
        text = text.decode() if isinstance(text, bytes) else str(text)
        try:
            return int(text) if target.kind in "iu" else float(text)
        except ValueError:
            pass
        try:
            return int(float(text))
        except (ValueError, OverflowError):
            raise RunError(f"{text[:40]!r} is no number of type {target}") from None

    flat = [number(item) for item in np.asarray(x, object).ravel()]
    if target.kind in "iu":
        bits = [value & ((1 << 64) - 1) for value in flat]
        return np.array(bits, np.uint64).astype(target.numpy).reshape(np.shape(x))
    wide = np.array(flat, np.float64).reshape(np.shape(x))
    return wide != 0 if target.kind == "b" else cast(wide, target.name)


def _printed(x: Any, source: dtypes.DType) -> Any:
    """The shortest text that reads back as the same number; "1" and "0" for truth values."""
    if source.kind == "b":
        items = ["1" if item else "0" for item in x.ravel()]
    elif source.kind == "f":
        wide = x if source.bits >= 32 else x.astype(np.float32)
        items = [_float_text(item) for item in wide.ravel()]
    else:
        items = [str(int(item)) for item in x.ravel()]
    result = np.empty(x.size, object)
    result[:] = items
    return result.reshape(x.shape)


def _float_text(value: Any) -> str:
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else ("INF" if value > 0 else "-INF")
    text = (
        np.format_float_positional(value, trim="-")
        if 1e-4 <= abs(value) < 1e16 or value == 0
        else np.format_float_scientific(value, trim="-")
    )
    return str(text)


class _Conversion(Operator):
    """What Cast and CastLike share."""

    accuracy = Accuracy.exact()
    types = {"T1": dtypes.ANY, "T2": dtypes.ANY}

    def target(self, context: Context) -> str:
        raise NotImplementedError

    def infer(self, context: Context) -> list[Type | None]:
        if context.dtype(0).startswith("complex") or self.target(context).startswith("complex"):
            raise GraphError("complex numbers cannot be cast")
        return [TensorType(self.target(context), context.shape(0))]

    def values(self, context: Context) -> list[Any] | None:
        whole = {"int32", "int64", "uint32", "uint64"}
        known = context.value(0)
        return [known] if known is not None and self.target(context) in whole and context.dtype(0) in whole else None

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if not is_float(F, inputs[0]) or not is_float(F, outputs[0]):
            return [None] * len(inputs)
        source = F.dtype(inputs[0])
        back = grads[0] if F.dtype(grads[0]) == source else F.Cast(grads[0], to=code_of(source))
        return [back, None][: len(inputs)]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0]]


_SATURATE = {"saturate": Attr("int", 1, (0, 1)), "round_mode": Attr("string", "up", ("up", "down", "nearest"))}


class Cast(_Conversion):
    """`to` is the ONNX code of the element type."""

    versions = (1, 6, 9, 13, 19, 21, 23, 24, 25, 28)
    inputs = (In("input", "T1"),)
    outputs = (Out("output", "T2"),)
    attributes = {"to": Attr("int", REQUIRED), **_SATURATE}

    def target(self, context: Context) -> str:
        return name_of(context.attributes["to"])

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [cast(inputs[0], name_of(attributes["to"]), bool(attributes["saturate"]), attributes["round_mode"])]

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        """Version 1 names the type by text: "FLOAT"."""
        to = node.attributes.get("to")
        if not isinstance(to, str | bytes):
            return None
        name = (to.decode() if isinstance(to, bytes) else to).lower()
        name = {"float": "float32", "double": "float64"}.get(name, name)
        if name not in dtypes.BY_NAME:
            raise GraphError(f"Cast to {to!r}: no such element type")
        return replacement(builder, node, node.inputs, {"to": code_of(name)})

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        plain = ("float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "bool")
        for source in plain:
            for target in plain:
                low = -3 if target[0] != "u" else 0
                yield Sample([draw(rng, (3, 4), source, low, 3)], {"to": code_of(target)})
        for shape in ((), (0, 2), (17,)):
            yield Sample([draw(rng, shape, "float32")], {"to": code_of("int64")})
        for target in (
            "float16",
            "bfloat16",
            "float64",
            "float8_e4m3fn",
            "float8_e5m2",
            "float8_e4m3fnuz",
            "float8_e5m2fnuz",
            "bool",
        ):
            yield Sample([extremes("float32")], {"to": code_of(target)})
            yield Sample([extremes("float32")], {"to": code_of(target), "saturate": 0})
        for target in ("int8", "uint8", "int16", "int32", "uint64", "float32", "float16"):
            yield Sample([extremes("int64")], {"to": code_of(target)})
        for target in ("int4", "uint4", "float4_e2m1fn"):
            yield Sample([draw(rng, (3, 4), "float32", 0, 6)], {"to": code_of(target)})
        yield Sample([np.array(["1", "-2.5", "1e3"], object)], {"to": code_of("float32")})
        yield Sample([np.array(["12", "-7"], object)], {"to": code_of("int64")})
        yield Sample([draw(rng, (4,), "int32")], {"to": code_of("string")})


class CastLike(_Conversion):
    """Cast to the element type of the second input."""

    versions = (15, 19, 21, 23, 24, 25)
    inputs = (In("input", "T1"), In("target_type", "T2"))
    outputs = (Out("output", "T2"),)
    attributes = dict(_SATURATE)

    def target(self, context: Context) -> str:
        return context.dtype(1)

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [cast(inputs[0], dtypes.of(inputs[1]).name, bool(attributes["saturate"]), attributes["round_mode"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for source, target in (
            ("float32", "float64"),
            ("float32", "int32"),
            ("int64", "float16"),
            ("bool", "float32"),
            ("float32", "bfloat16"),
        ):
            yield Sample([draw(rng, (3, 4), source), draw(rng, (1,), target)])
        yield Sample([draw(rng, (0, 2), "float32"), draw(rng, (), "int64")])


class BitCast(Operator):
    """The same bits read as another type of the same width."""

    versions = (26,)
    inputs = (In("input", "T1"),)
    outputs = (Out("output", "T2"),)
    types = {"T1": dtypes.ANY - {"string"}, "T2": dtypes.ANY - {"string"}}
    attributes = {"to": Attr("int", REQUIRED)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        target = name_of(context.attributes["to"])
        if dtypes.of(target).bits != dtypes.of(context.dtype()).bits:
            raise GraphError(f"{context.dtype()} and {target} differ in width")
        return [TensorType(target, context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        target, x = dtypes.of(name_of(attributes["to"])), inputs[0]
        if target.bits < 8:
            return [_rebit(x, target)]
        return [np.ascontiguousarray(x).reshape(x.shape).view(target.numpy)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for source, target in (
            ("float32", "int32"),
            ("int64", "float64"),
            ("uint8", "int8"),
            ("float16", "bfloat16"),
            ("uint16", "float16"),
        ):
            yield Sample([draw(rng, (3, 4), source, 0, 9)], {"to": code_of(target)})
        yield Sample([extremes("float32")], {"to": code_of("uint32")})
        yield Sample([draw(rng, (), "float32")], {"to": code_of("int32")})


def _rebit(x: Any, target: dtypes.DType) -> Any:
    """Types of less than a byte hold one element a byte, with the value in the low bits."""
    low = np.ascontiguousarray(x).reshape(x.shape).view(np.uint8) & ((1 << target.bits) - 1)
    if target.kind == "i":
        signed = low.astype(np.int16)
        signed = np.where(signed >= 1 << (target.bits - 1), signed - (1 << target.bits), signed)
        return signed.astype(np.int8).astype(target.numpy)
    return low.astype(target.numpy) if target.kind == "u" else low.view(target.numpy)


class Identity(Operator):
    """The input, of whatever type."""

    versions = (1, 13, 14, 16, 19, 21, 23, 24, 25)
    inputs = (In("input", dtypes.ANY),)
    outputs = (Out("output", dtypes.ANY),)
    types = {}
    view = True
    in_place = (0,)
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        return [context.inputs[0]]

    def values(self, context: Context) -> list[tuple[Dim, ...] | Dim | None] | None:
        return [context.value(0)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [inputs[0]]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [grads[0] if is_float(F, inputs[0]) else None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [tags[0]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 3)):
            yield Sample([draw(rng, shape, "float32")])
        for dtype in ("float64", "float16", "bfloat16", "int8", "uint8", "int64", "bool", "string"):
            yield Sample([draw(rng, (2, 3), dtype)])
