"""Types from their text: what `str(type)` prints, read back. `read_type("float32[n, 2*n + 1]")`."""

from __future__ import annotations

from functools import lru_cache

from headrace.runtime.dtypes import BY_NAME
from headrace.runtime.shapes import Dim, parse, symbol
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type

_DEPTH_LIMIT = 16
_RANK_LIMIT = 32
_TEXT_LIMIT = 1 << 16
_MAX_DIM = (1 << 63) - 1


@lru_cache(maxsize=4096)
def read_type(text: str) -> Type:
    """Raises ValueError saying what is wrong with the text."""
    if len(text) > _TEXT_LIMIT:
        raise ValueError(f"a type's text has {len(text)} characters; allowed are {_TEXT_LIMIT}")
    return _read(text, 0)


def _read(text: str, depth: int) -> Type:
    if depth > _DEPTH_LIMIT:
        raise ValueError(f"a type is nested more than {_DEPTH_LIMIT} deep")
    if text.endswith(")"):
        head, _, inner = text[:-1].partition("(")
        if head == "seq":
            return SequenceType(_read(inner, depth + 1))
        if head == "optional":
            return OptionalType(_read(inner, depth + 1))
        key, comma, value = inner.partition(", ")
        if head == "map" and comma and key in BY_NAME and BY_NAME[key].kind in "ius":
            return MapType(key, _read(value, depth + 1))
    dtype, bracket, shape = text.partition("[")
    if dtype not in BY_NAME or not bracket or not shape.endswith("]"):
        raise ValueError(f"not a type: {text[:80]!r}")
    if shape == "...]":
        return TensorType(dtype, None)
    dims = tuple(_dim(part) for part in _split(shape[:-1]))
    if len(dims) > _RANK_LIMIT:
        raise ValueError(f"rank {len(dims)} is more than {_RANK_LIMIT}")
    return TensorType(dtype, dims)


def _split(text: str) -> list[str]:
    """The parts between the commas that stand outside parentheses."""
    if not text:
        return []
    if "(" not in text:
        return [part.strip() for part in text.split(",")]
    parts, start, open_parentheses = [], 0, 0
    for index, character in enumerate(text):
        if character == "," and open_parentheses == 0:
            parts.append(text[start:index])
            start = index + 1
        open_parentheses += (character == "(") - (character == ")")
    return [part.strip() for part in [*parts, text[start:]]]


@lru_cache(maxsize=4096)
def _dim(text: str) -> Dim:
    if text.isascii() and text.isdigit() and len(text) < 20:
        dim: Dim = int(text)
    elif text.isascii() and text.isidentifier() and text not in ("None", "True", "False"):
        dim = symbol(text)
    else:
        try:
            dim = parse(text)
        except ZeroDivisionError as error:
            raise ValueError(str(error)) from None
    if isinstance(dim, int) and not 0 <= dim <= _MAX_DIM:
        raise ValueError(f"a dimension is {dim}; allowed: 0 to 2**63 - 1")
    return dim
