"""Checkpoints: trees of dicts, lists, tuples, scalars and arrays in one safetensors file.

The tree stands as JSON in the file's metadata, each array under the name of its place ("model.fc.weight"), so that the
state of a model is a safetensors file as other tools read it too. Data only: loading runs nothing.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import atomic, dtypes
from headrace.runtime.errors import HeadraceError, LoadError
from headrace.serializer import strict_json, weights

HEADER_LIMIT = 32 << 20
DEPTH_LIMIT = 30
_KEY = "headrace.tree"


def save(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write a tree of dict, list, tuple, None, bool, int, float, str, bytes, NumPy arrays and scalars. Dict keys are
    texts or integers. Raises HeadraceError naming the place of anything else; the file is replaced whole or not at all.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_write(tree, (), arrays), separators=(",", ":"), ensure_ascii=False)
    atomic.replace(path, weights.encode(arrays, {_KEY: text}, header_limit=HEADER_LIMIT))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a checkpoint, or any safetensors file as a dict of arrays. Arrays are the caller's own (writable) copies.
    Raises LoadError naming the file."""
    data = _map(Path(path))
    arrays, metadata = weights.decode(data, str(path), header_limit=HEADER_LIMIT)
    if _KEY not in metadata:
        return {name: array.copy() for name, array in arrays.items()}
    tree = strict_json.read(metadata[_KEY].encode(), f"{path}, tree", HEADER_LIMIT, depth_limit=4 * DEPTH_LIMIT)
    return _read(tree, arrays, str(path))


def _write(tree: Any, place: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """The JSON form: scalars as they are, everything else as an object with one key that says what it is."""
    where = ".".join(place) or "the top"
    if len(place) > DEPTH_LIMIT:
        raise HeadraceError(f"a checkpoint may be nested {DEPTH_LIMIT} deep; {where[:200]} is deeper")
    match tree:
        case None | bool() | str():
            return tree
        case float():  # before np.generic: np.float64 is a float too
            if isinstance(tree, np.generic):
                return _write_array(np.asarray(tree), "scalar", place, arrays)
            return {"float": tree.hex()}
        case int():
            return tree if abs(tree) < 1 << 53 else {"int": str(tree)}
        case bytes():
            return {"bytes": tree.hex()}
        case dict():
            for key in tree:
                if isinstance(key, bool) or not isinstance(key, str | int):
                    raise HeadraceError(
                        f"a checkpoint's dict has the key {key!r} at {where}; allowed are texts and integers"
                    )
            return {"dict": [[key, _write(value, (*place, str(key)), arrays)] for key, value in tree.items()]}
        case list() | tuple():
            kind = "list" if isinstance(tree, list) else "tuple"
            return {kind: [_write(value, (*place, str(index)), arrays) for index, value in enumerate(tree)]}
        case np.ndarray():
            return _write_array(tree, "array", place, arrays)
        case np.generic():
            return _write_array(np.asarray(tree), "scalar", place, arrays)
    raise HeadraceError(
        f"a checkpoint cannot hold the {type(tree).__name__} at {where}; allowed: dict, list, tuple, numbers, texts, arrays"
    )


def _write_array(array: np.ndarray, kind: str, place: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    dtype = dtypes.of(array)
    if dtype.kind == "s":
        return {"strings": [list(array.shape), [str(text) for text in array.reshape(-1)]]}
    name = ".".join(place) or "array"
    while name in arrays:  # {"a.b": x, "a": {"b": y}}
        name += "'"
    arrays[name] = array
    return {kind: [name, dtype.name, list(array.shape)]}


def _read(tree: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    if tree is None or isinstance(tree, bool | str | int):
        return tree
    try:
        ((kind, value),) = tree.items()
        match kind:
            case "float":
                return float.fromhex(value)
            case "int":
                return int(value)
            case "bytes":
                return bytes.fromhex(value)
            case "dict":
                return {key: _read(item, arrays, where) for key, item in value}
            case "list":
                return [_read(item, arrays, where) for item in value]
            case "tuple":
                return tuple([_read(item, arrays, where) for item in value])
            case "array" | "scalar":
                name, dtype, shape = value
                array = weights.logical(arrays[name], dtypes.BY_NAME[dtype], tuple(shape), f"{where}, {name!r}")
                return array.copy() if kind == "array" else array[()]
            case "strings":
                shape, texts = value
                array = np.empty(len(texts), object)
                array[:] = texts
                return array.reshape(shape)
    except LoadError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise LoadError(f"{where}: the tree is damaged: {error}") from None
    raise LoadError(f"{where}: the tree has an unknown part {kind!r}")


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return (
                memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE))
                if size
                else memoryview(b"")
            )
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from None
