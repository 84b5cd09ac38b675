"""Batches between processes: a JSON tree of the structure, and the arrays' bytes after it. Nothing is pickled."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.tensors import Tensor, wrap

_HEAD = struct.Struct("<QQ")  # bytes of the JSON text, number of arrays
LIMIT = 1 << 40


def send(sock: socket.socket, value: Any) -> None:
    """Send one value. TypeError, naming the type, for what is no tensor, array, number, text, None, dict, list or tuple."""
    arrays: list[np.ndarray] = []
    tree = _tree(value, arrays)
    text = json.dumps(tree).encode()
    sock.sendall(_HEAD.pack(len(text), len(arrays)) + text)
    for array in arrays:
        if array.nbytes:
            sock.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(sock: socket.socket) -> Any:
    """Receive one value. EOFError where the other side has gone."""
    size, count = _HEAD.unpack(_exactly(sock, _HEAD.size))
    tree = json.loads(bytes(_exactly(sock, size)))
    arrays = []
    for spec in tree["arrays"][:count]:
        array = np.empty(spec["shape"], scalar_types.of(spec["dtype"]).numpy)
        if array.nbytes:
            _into(sock, array.reshape(-1).view(np.uint8).data)
        arrays.append(array)
    return _value(tree["value"], arrays)


def _exactly(sock: socket.socket, size: int) -> bytearray:
    if size > LIMIT:
        raise ValueError(f"a message of {size} bytes is too long")
    buffer = bytearray(size)
    _into(sock, memoryview(buffer))
    return buffer


def _into(sock: socket.socket, view: memoryview) -> None:
    place = 0
    while place < len(view):
        got = sock.recv_into(view[place:])
        if got == 0:
            raise EOFError("the other process has ended")
        place += got


def _tree(value: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    specs: list[dict[str, Any]] = []

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray):
            array = value.detach().numpy() if isinstance(value, Tensor) else value
            specs.append({"shape": array.shape, "dtype": scalar_types.of(array.dtype).name})
            arrays.append(array)
            return {"tensor" if isinstance(value, Tensor) else "array": len(arrays) - 1}
        if value is None or isinstance(value, bool | int | float | str):
            return {"plain": value}
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, Mapping):
            return {"dict": [[walk(key), walk(item)] for key, item in value.items()]}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"named": type(value).__name__, "fields": value._fields, "items": [walk(item) for item in value]}
        if isinstance(value, tuple | list):
            return {"tuple" if isinstance(value, tuple) else "list": [walk(item) for item in value]}
        raise TypeError(
            f"a worker can answer tensors, arrays, numbers, text, None, dicts, lists and tuples; found {type(value).__name__}"
        )

    return {"value": walk(value), "arrays": specs}


def _value(tree: dict[str, Any], arrays: list[np.ndarray]) -> Any:
    kind = next(iter(tree))
    match kind:
        case "tensor":
            return wrap(arrays[tree[kind]])
        case "array":
            return arrays[tree[kind]]
        case "plain":
            return tree[kind]
        case "bytes":
            return bytes.fromhex(tree[kind])
        case "dict":
            return {_value(key, arrays): _value(item, arrays) for key, item in tree[kind]}
        case "named":
            from collections import namedtuple

            return namedtuple(tree["named"], tree["fields"])(*(_value(item, arrays) for item in tree["items"]))
        case _:
            items = [_value(item, arrays) for item in tree[kind]]
            return tuple(items) if kind == "tuple" else items
