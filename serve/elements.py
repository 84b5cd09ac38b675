"""Elements given one by one (typed contents of gRPC, JSON of REST) to arrays, exactly and range-checked."""

from itertools import chain
from typing import Any

import numpy as np

from headrace.serve.datatypes import Array, Datatype
from headrace.serve.request import Elements

_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int, float}),
    "u": frozenset({int, float}),
    "f": frozenset({int, float}),
    "O": frozenset({str}),
}
_WORDS = {"b": "true and false", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "O": "strings"}


def to_array(elements: Elements, datatype: Datatype, shape: tuple[int, ...], count: int) -> Array:
    """An array of `datatype` and `shape` (`count` elements). ValueError says what does not fit."""
    if elements.source == "json":
        return _from_json(elements.values, datatype, shape, count)
    if elements.source != datatype.field:
        allowed = f"in {datatype.field}" if datatype.field else "raw only"
        raise ValueError(f"{datatype.name} elements are expected {allowed}, got {elements.source or 'no contents'}")
    if len(elements.values) != count:
        raise ValueError(f"{elements.source} has {len(elements.values)} elements, shape {list(shape)} needs {count}")
    if datatype.size == 0:
        return _objects(list(elements.values)).reshape(shape)
    if datatype.dtype.kind in "iu" and datatype.size < 4:  # carried in 32 bits: the value may not fit
        wide = np.fromiter(elements.values, np.int64, count)
        return _narrow(wide, datatype).reshape(shape)
    return np.fromiter(elements.values, datatype.dtype, count).reshape(shape)


def _from_json(data: Any, datatype: Datatype, shape: tuple[int, ...], count: int) -> Array:
    kind = datatype.dtype.kind
    if datatype.field is None:
        raise ValueError(f"{datatype.name} has no JSON form; send binary data")
    flat = _flatten(data, shape)
    if len(flat) != count:
        raise ValueError(f"data has {len(flat)} elements, shape {list(shape)} needs {count}")
    found = set(map(type, flat))
    if not found <= _TYPES[kind]:
        raise ValueError(f"data must hold {_WORDS[kind]} only")
    if kind == "O":
        try:
            return _objects([text.encode("utf-8") for text in flat]).reshape(shape)
        except UnicodeEncodeError:
            raise ValueError("data holds a string that is not valid Unicode") from None
    if kind in "iu" and float in found and not all(float(value).is_integer() for value in flat):
        raise ValueError("data holds a fraction, datatype is " + datatype.name)
    try:
        if kind == "f":
            return _narrow(np.array(flat, np.float64), datatype).reshape(shape)
        whole = [int(value) for value in flat] if float in found else flat
        return np.array(whole, datatype.dtype).reshape(shape)
    except OverflowError:
        raise ValueError(f"data holds a value outside the range of {datatype.name}") from None


def _flatten(data: Any, shape: tuple[int, ...]) -> list[Any]:
    """Flat data as it is; nested data must agree with the shape at every level. Never recursive."""
    if type(data) is not list:
        raise ValueError("data must be an array")
    if not any(type(part) is list for part in data):
        return data
    level = [data]
    for dimension in shape:
        if any(type(part) is not list or len(part) != dimension for part in level):
            raise ValueError(f"nested data does not agree with shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def _narrow(wide: Array, datatype: Datatype) -> Array:
    limits: Any = np.finfo(datatype.dtype) if datatype.dtype.kind == "f" else np.iinfo(datatype.dtype)
    if wide.size and not (wide.min() >= limits.min and wide.max() <= limits.max):
        raise ValueError(f"a value is outside the range of {datatype.name}")
    return wide.astype(datatype.dtype)


def _objects(values: list[Any]) -> Array:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
