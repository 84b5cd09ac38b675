"""`golden.safetensors`: recorded inputs and outputs.

Array names are `CASE/inputs/NAME` and `CASE/outputs/NAME`. Strings are two arrays, `CASE/inputs.offsets/NAME` (int64,
one more than there are strings) and `CASE/inputs.bytes/NAME` (UTF-8, one after the other); their shape stands in the
file's metadata under `CASE/inputs/NAME`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import HeadraceError, LoadError
from headrace.runtime.graph import Graph
from headrace.runtime.interface import Golden
from headrace.runtime.types import TensorType
from headrace.serializer import weights

NAME = "golden.safetensors"
_SIDES = ("inputs", "outputs")


def encode(golden: Golden) -> list[memoryview]:
    """The file as buffers. Raises HeadraceError for values that are no arrays, naming them."""
    if len(golden.inputs) != len(golden.outputs):
        raise HeadraceError(f"golden data has {len(golden.inputs)} inputs, but {len(golden.outputs)} outputs")
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, str] = {}
    for side, cases in zip(_SIDES, (golden.inputs, golden.outputs)):
        for index, case in enumerate(cases):
            for name, value in case.items():
                _put(arrays, shapes, f"{index}/{side}", name, value)
    return weights.encode(arrays, shapes)


def _put(arrays: dict[str, np.ndarray], shapes: dict[str, str], place: str, name: str, value: object) -> None:
    if not isinstance(value, np.ndarray | np.generic):
        raise HeadraceError(f"golden data {place}/{name}: {type(value).__name__} cannot be stored; allowed are arrays")
    array = np.asarray(value)
    if dtypes.of(array).kind != "s":
        arrays[f"{place}/{name}"] = array
        shapes[f"{place}/{name}"] = _typed(array)
        return
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1)]
    arrays[f"{place}.offsets/{name}"] = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    arrays[f"{place}.bytes/{name}"] = np.frombuffer(b"".join(texts), np.uint8)
    shapes[f"{place}/{name}"] = _typed(array)


def _typed(array: np.ndarray) -> str:
    return json.dumps([dtypes.of(array).name, *array.shape], separators=(",", ":"))


def decode(data: memoryview, cases: int, rtol: float, atol: float) -> Golden:
    """Read the file. Raises LoadError."""
    stored, types = weights.decode(data, NAME)
    golden = Golden([{} for _ in range(cases)], [{} for _ in range(cases)], rtol, atol)
    used: set[str] = set()
    for key, text in types.items():
        index, side, name = _key(key, cases)
        dtype, shape = _read_typed(text, key)
        place = f"{index}/{side}"
        if dtype.kind == "s":
            parts = (f"{place}.offsets/{name}", f"{place}.bytes/{name}")
            array = _strings(stored.get(parts[0]), stored.get(parts[1]), shape, key)
            used.update(parts)
        elif key in stored:
            array = weights.logical(stored[key], dtype, shape, f"{NAME}, {key!r}")
            used.add(key)
        else:
            raise LoadError(f"{NAME}: the array {key!r} is missing")
        getattr(golden, side)[index][name] = array
    for key in sorted(set(stored) - used):
        raise LoadError(f"{NAME}: the array {key!r} belongs to nothing")
    return golden


def _key(key: str, cases: int) -> tuple[int, str, str]:
    index, _, rest = key.partition("/")
    side, _, name = rest.partition("/")
    if side not in _SIDES or not index.isdecimal() or len(index) > 6 or not int(index) < cases:
        raise LoadError(
            f"{NAME}: the name {key[:80]!r} is not CASE/inputs/NAME or CASE/outputs/NAME with CASE below {cases}"
        )
    return int(index), side, name


def _read_typed(text: str, key: str) -> tuple[dtypes.DType, tuple[int, ...]]:
    try:
        name, *shape = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        name, shape = None, []
    if (
        not isinstance(name, str)
        or name not in dtypes.BY_NAME
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(shape) > weights.MAX_RANK
    ):
        raise LoadError(f"{NAME}: the type of {key[:80]!r} is not an element type and a shape")
    return dtypes.BY_NAME[name], tuple(shape)


def _strings(offsets: np.ndarray | None, data: np.ndarray | None, shape: tuple[int, ...], key: str) -> np.ndarray:
    count = math.prod(shape)
    if (
        offsets is None
        or data is None
        or offsets.dtype != np.int64
        or data.dtype != np.uint8
        or offsets.shape != (count + 1,)
        or data.ndim != 1
    ):
        raise LoadError(f"{NAME}: the strings {key!r} need int64 offsets [{count + 1}] and uint8 bytes")
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != data.size or any(a > b for a, b in itertools.pairwise(bounds)):
        raise LoadError(f"{NAME}: the offsets of the strings {key!r} must rise from 0 to {data.size}")
    raw, array = data.tobytes(), np.empty(count, object)
    try:
        array[:] = [raw[a:b].decode() for a, b in itertools.pairwise(bounds)]
    except UnicodeDecodeError:
        raise LoadError(f"{NAME}: a string of {key!r} is not UTF-8") from None
    return array.reshape(shape)


def check(golden: Golden, graph: Graph) -> None:
    """Golden data must fit the interface: every input given, no unknown name, the right element types."""
    known = {
        "inputs": {value.name: value.type for value in graph.inputs},
        "outputs": {value.name: value.type for value in graph.outputs},
    }
    for index, (inputs, outputs) in enumerate(zip(golden.inputs, golden.outputs)):
        missing = sorted(set(known["inputs"]) - set(inputs))
        if missing:
            raise LoadError(f"{NAME}: case {index} has no input {missing[0]!r}")
        _check_side(known["inputs"], inputs, f"case {index}, input")
        _check_side(known["outputs"], outputs, f"case {index}, output")


def _check_side(known: Mapping[str, object], arrays: Mapping[str, np.ndarray], where: str) -> None:
    for name, array in arrays.items():
        type = known.get(name)
        if not isinstance(type, TensorType) or dtypes.of(array).name != type.dtype:
            raise LoadError(f"{NAME}: {where} {name!r} is {dtypes.of(array)}, but the interface says {type}")
