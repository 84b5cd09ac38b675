"""Element types of tensors, and the rules by which mixed ones are promoted.

    str(headrace.float32) == "headrace.float32";  headrace.float is headrace.float32
    result_type(int64 tensor, float32 tensor) is float32;  int tensor + 1.5 is the default float

Source of the promotion rules: torch's "Type Promotion Attributes". Within a category the wider type wins; a category
(bool < integer < floating < complex) beats a lower one; Python scalars and 0-dim tensors only raise the category.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from headrace.runtime import dtypes as elements


class dtype:
    """One element type. There is one instance of each; compare with `is` or `==`."""

    __slots__ = ("category", "itemsize", "name", "numpy")

    def __init__(self, name: str) -> None:
        row = elements.BY_NAME[name]
        self.name, self.numpy, self.itemsize = name, row.numpy, row.itemsize
        self.category = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}[row.kind]

    @property
    def is_floating_point(self) -> bool:
        return self.category == 2

    @property
    def is_complex(self) -> bool:
        return self.category == 3

    @property
    def is_signed(self) -> bool:
        return self.name != "bool" and not self.name.startswith("uint")

    def to_complex(self) -> dtype:
        return of("complex128" if self.name in ("float64", "complex128") else "complex64")

    def to_real(self) -> dtype:
        return {"complex64": float32, "complex128": float64}.get(self.name, self)

    def __call__(self, value: Any, **_: Any) -> Any:
        """A tensor in this type, as NumPy's types convert when they are called."""
        return value.to(self)

    def __repr__(self) -> str:
        return f"headrace.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (of, (self.name,))


_NAMES = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
]
_BY_NAME = {name: dtype(name) for name in _NAMES}
_BY_NUMPY = {entry.numpy: entry for entry in _BY_NAME.values()}

float32, float64, float16, bfloat16 = (_BY_NAME[n] for n in ("float32", "float64", "float16", "bfloat16"))
int8, int16, int32, int64 = (_BY_NAME[n] for n in ("int8", "int16", "int32", "int64"))
uint8, uint16, uint32, uint64 = (_BY_NAME[n] for n in ("uint8", "uint16", "uint32", "uint64"))
bool_ = _BY_NAME["bool"]
complex64, complex128 = _BY_NAME["complex64"], _BY_NAME["complex128"]
float8_e4m3fn, float8_e5m2 = _BY_NAME["float8_e4m3fn"], _BY_NAME["float8_e5m2"]
_PYTHON = {bool: bool_, int: int64}

_default = float32


def of(value: object) -> dtype:
    """The dtype of a dtype, a NumPy dtype, a name, or a Python type (float: the default one)."""
    if type(value) is dtype:
        return value
    if isinstance(value, np.dtype):
        try:
            return _BY_NUMPY[value]
        except KeyError:
            raise TypeError(f"tensors of NumPy's {value} are not supported; allowed: {', '.join(_NAMES)}") from None
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    if value is float:
        return _default
    if value is complex:
        return _default.to_complex()
    if value in _PYTHON:
        return _PYTHON[value]
    return of(np.dtype(value))  # type: ignore[call-overload]


def get_default_dtype() -> dtype:
    """The dtype of floating-point tensors made from Python numbers."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Set the dtype of floating-point tensors made from Python numbers. TypeError unless floating-point."""
    global _default
    if not (type(d) is dtype and d.is_floating_point):
        raise TypeError(f"only floating-point types are supported as the default type, not {d}")
    _default = d


@cache
def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest type that holds both."""
    if type1 is type2:
        return type1
    if type1.category != type2.category:
        high, low = (type1, type2) if type1.category > type2.category else (type2, type1)
        if high.is_complex and low.name == "float64":
            return complex128
        return high
    if {type1.name, type2.name} == {"float16", "bfloat16"}:
        return float32
    if type1.is_floating_point:
        return type1 if type1.itemsize > type2.itemsize else type2
    if type1.category == 1 and uint64 in (type1, type2):
        raise RuntimeError(f"promotion of {type1} and {type2} is not defined")
    return of(np.promote_types(type1.numpy, type2.numpy))


def scalar_dtype(value: object) -> dtype:
    """The dtype of a Python or NumPy number as torch sees it."""
    if isinstance(value, bool | np.bool_):
        return bool_
    if (
        isinstance(value, int | np.integer) or getattr(value, "expr", None) is not None
    ):  # a symbolic size is a whole number
        return int64
    if isinstance(value, complex | np.complexfloating) and not isinstance(value, float):
        return _default.to_complex()
    return _default


def result_of(dimensioned: dtype | None, zero: dtype | None, wrapped: dtype | None) -> dtype:
    """Promotion over three ranks of operands: tensors with dimensions, 0-dim tensors, Python scalars."""

    def combine(higher: dtype | None, lower: dtype | None) -> dtype | None:
        if higher is None or lower is None:
            return lower if higher is None else higher
        if higher.category >= lower.category:
            return higher
        if higher.is_floating_point and lower.is_complex:
            return higher.to_complex()
        return lower

    found = combine(combine(dimensioned, zero), wrapped)
    if found is None:
        raise ValueError("result_type needs at least one operand")
    return found


def result_type(*operands: Any) -> dtype:
    """The dtype of an arithmetic operation on tensors and Python scalars."""
    ranks: list[dtype | None] = [None, None, None]
    for value in operands:
        data = getattr(value, "_data", None)
        if data is None:
            rank, found = 2, scalar_dtype(value)
        else:
            rank, found = (0 if data.ndim else 1), _BY_NUMPY[data.dtype]
        old = ranks[rank]
        ranks[rank] = found if old is None else promote_types(old, found)
    return result_of(*ranks)


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether the conversion is allowed in an in-place operation: no lower category."""
    return not (from_.category > to.category) and not (to.name == "bool" and from_.name != "bool")


class finfo:
    """Limits of a floating-point dtype: eps, max, min, tiny, smallest_normal, resolution, bits."""

    def __init__(self, type: dtype | None = None) -> None:
        import ml_dtypes

        self.dtype = (type or _default).name
        if not (type or _default).category >= 2:
            raise TypeError(f"finfo takes floating-point types, not {type}; use iinfo")
        info: Any = ml_dtypes.finfo((type or _default).to_real().numpy)  # type: ignore[no-untyped-call]
        self.bits, self.eps, self.max, self.min = info.bits, float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.tiny)
        self.resolution = float(info.resolution)


class iinfo:
    """Limits of an integer dtype: min, max, bits."""

    def __init__(self, type: dtype) -> None:
        if type.category != 1:
            raise TypeError(f"iinfo takes integer types, not {type}; use finfo")
        info = np.iinfo(type.numpy)
        self.dtype, self.bits, self.min, self.max = type.name, info.bits, int(info.min), int(info.max)


# Names of torch that would hide built-ins of this module.
_ALIASES = {
    "bool": bool_, "float": float32, "double": float64, "half": float16, "long": int64, "int": int32, "short": int16,
    "char": int8, "cfloat": complex64, "cdouble": complex128,
}  # fmt: skip


def __getattr__(name: str) -> dtype:
    try:
        return _ALIASES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


__all__ = [
    *_NAMES, *_ALIASES, "dtype", "finfo", "iinfo", "promote_types", "result_type", "can_cast", "get_default_dtype",
    "set_default_dtype",
]  # fmt: skip
