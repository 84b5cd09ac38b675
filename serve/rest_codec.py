"""Inference bodies of REST: JSON, optionally followed by raw tensors (the binary tensor extension), and back."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.serve.datatypes import DATATYPES, Buffer, to_wire
from headrace.serve.errors import bad_argument, quoted
from headrace.serve.request import (
    NO_PARAMETERS,
    Elements,
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
    RequestedOutput,
)

MAX_DEPTH = 64
MAX_TENSORS = 1024
LENGTH_HEADER = b"inference-header-content-length"

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]')


class Wishes:
    """Which outputs the client wants as binary data."""

    def __init__(self, default: bool, explicit: Mapping[str, bool]) -> None:
        self._default = default
        self._explicit = explicit

    def binary(self, name: str) -> bool:
        return self._explicit.get(name, self._default)


def parse_json(data: Buffer) -> Any:
    """JSON with what the protocol rules out refused: duplicate keys, NaN and Infinity, depth over 64."""
    data = bytes(data)
    _check_depth(data)
    try:
        return json.loads(data, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        detail = f" at byte {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise bad_argument(f"the body is not valid JSON{detail}") from None


def read_infer(model: str, version: str, body: Buffer, json_length: int | None) -> tuple[InferRequest, Wishes]:
    """A request from a body; `json_length` bytes of it are JSON (None: all), the rest binary tensors in order."""
    size = len(body) if json_length is None else json_length
    if size > len(body):
        raise bad_argument(f"Inference-Header-Content-Length is {size}, the body has {len(body)} bytes")
    view = memoryview(body)
    document = _mapping(parse_json(view[:size]), "the body")
    binary = _Binary(view[size:])
    inputs = [_input(item, binary) for item in _items(document, "inputs", required=True)]
    binary.finish()
    parameters = dict(_parameters(document, "request"))
    default = parameters.pop("binary_data_output", False)
    outputs, explicit = [], {}
    for item in _items(document, "outputs"):
        name, own = _text(item, "name", "output"), dict(_parameters(item, "output"))
        if "binary_data" in own:
            explicit[name] = _flag(own.pop("binary_data"), f"output {quoted(name)}: parameter 'binary_data'")
        outputs.append(RequestedOutput(name, own))
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise bad_argument("id must be a string")
    request = InferRequest(model, version, inputs, request_id, parameters, outputs, front="http")
    return request, Wishes(_flag(default, "parameter 'binary_data_output'"), explicit)


def read_raw(model: str, version: str, body: Buffer, config: Mapping[str, Any]) -> tuple[InferRequest, Wishes]:
    """The raw binary request: the body is the one input, its shape follows from the length. `config` is ModelConfig."""
    if len(config["input"]) != 1:
        raise bad_argument(f"a raw binary request needs a model with one input, this one has {len(config['input'])}")
    spec = config["input"][0]
    datatype = next(d for d in DATATYPES.values() if d.config == spec["data_type"])
    shape = [1, *spec["dims"]] if config["max_batch_size"] else list(spec["dims"])
    open_axes = [axis for axis, size in enumerate(shape) if size < 0]
    if len(open_axes) > 1:
        raise bad_argument("a raw binary request needs an input with at most one variable dimension")
    if open_axes:
        unit = math.prod(size for size in shape if size >= 0) * datatype.size
        shape[open_axes[0]] = 1 if datatype.size == 0 else len(body) // unit if unit else 0
    tensor = InputTensor(spec["name"], datatype.name, tuple(shape), memoryview(body))
    return InferRequest(model, version, [tensor], front="http"), Wishes(True, {})


def write_infer(response: InferResponse, wishes: Wishes) -> tuple[list[Buffer], int | None]:
    """Body pieces and the length of their JSON, None when there is no binary data."""
    tail: list[Buffer] = []
    outputs = []
    for output in response.outputs:
        item: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.array.shape),
        }
        if output.placed:
            item["parameters"] = dict(output.placed)
        elif wishes.binary(output.name):
            data = to_wire(output.array)
            item["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            item["data"] = json_data(output)
        outputs.append(item)
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    document["outputs"] = outputs
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("utf-8")
    return [head, *tail], len(head) if tail else None


def json_data(output: OutputTensor) -> list[Any]:
    advice = f"output {quoted(output.name)}: {{}}; ask for it with binary_data"
    datatype = DATATYPES[output.datatype]
    flat = output.array.reshape(-1).tolist()
    if datatype.field is None:
        raise bad_argument(advice.format(f"{datatype.name} has no JSON form"))
    if datatype.name == "BYTES":
        try:
            return [item if isinstance(item, str) else bytes(item).decode("utf-8") for item in flat]
        except UnicodeDecodeError:
            raise bad_argument(advice.format("an element is not UTF-8")) from None
    if datatype.dtype.kind == "f" and not all(map(math.isfinite, flat)):
        raise bad_argument(advice.format("NaN and infinity have no JSON form"))
    return flat


class _Binary:
    """The bytes after the JSON, handed out in order and consumed exactly."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, size: Any, where: str) -> memoryview:
        if type(size) is not int or size < 0:
            raise bad_argument(f"{where}: binary_data_size must be a whole number from 0")
        left = len(self._data) - self._at
        if size > left:
            raise bad_argument(f"{where}: binary_data_size is {size}, {left} bytes are left in the body")
        self._at += size
        return self._data[self._at - size : self._at]

    def finish(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise bad_argument(f"{left} bytes of the body belong to no input")


def _input(item: Mapping[str, Any], binary: _Binary) -> InputTensor:
    name = _text(item, "name", "input")
    where = f"input {quoted(name)}"
    datatype = _text(item, "datatype", where)
    shape = item.get("shape")
    if type(shape) is not list or not all(type(size) is int for size in shape):
        raise bad_argument(f"{where}: shape must be an array of whole numbers")
    parameters = dict(_parameters(item, where))
    data: Buffer | Elements
    if "binary_data_size" in parameters:
        if "data" in item:
            raise bad_argument(f"{where}: data and binary_data_size exclude each other")
        data = binary.take(parameters.pop("binary_data_size"), where)
    elif "data" in item:
        data = Elements("json", item["data"])
    elif "shared_memory_region" in parameters:
        data = b""
    else:
        raise bad_argument(f"{where}: neither data nor binary_data_size is given")
    return InputTensor(name, datatype, tuple(shape), data, parameters)


def _items(document: Mapping[str, Any], key: str, required: bool = False) -> Iterator[Mapping[str, Any]]:
    items = document.get(key, None if required else [])
    if items is None:
        raise bad_argument(f"the body has no {key}: an array of objects with name, shape, datatype and data")
    if type(items) is not list:
        raise bad_argument(f"{key} must be an array")
    if len(items) > MAX_TENSORS:
        raise bad_argument(f"{key} has {len(items)} entries, allowed are {MAX_TENSORS}")
    for index, item in enumerate(items):
        yield _mapping(item, f"{key}[{index}]")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise bad_argument(f"{where} must be an object")
    return value


def _text(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise bad_argument(f"{where}: {key} must be a string")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise bad_argument(f"{where} must be true or false")
    return value


def _parameters(item: Mapping[str, Any], where: str) -> Parameters:
    if "parameters" not in item:
        return NO_PARAMETERS
    parameters = _mapping(item["parameters"], f"{where}: parameters")
    for key, value in parameters.items():
        if not isinstance(value, (bool, int, float, str)):
            raise bad_argument(f"{where}: parameter {quoted(key)} must be a boolean, number or string")
    return parameters


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("duplicate key")
    return out


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _check_depth(data: bytes) -> None:
    """Refuse before the parser recurses."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKENS.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise bad_argument(f"the JSON is nested deeper than {MAX_DEPTH}")
        elif first in b"]}":
            depth -= 1
