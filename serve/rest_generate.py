"""The generate extension of REST: one JSON object asks, by input name, and one for each answer tells, by output name.

A value is a scalar or a list; leading axes that it lacks are 1. `{"b64": "..."}` is one element of any bytes.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.serve.datatypes import Buffer, encode_bytes
from headrace.serve.errors import bad_argument, quoted
from headrace.serve.request import Elements, InferRequest, InferResponse, InputTensor, OutputTensor, Parameter
from headrace.serve.rest_codec import MAX_DEPTH, json_data, parse_json

BASE64 = "b64"


def read(model: str, version: str, body: Buffer, inputs: Sequence[Mapping[str, Any]]) -> InferRequest:
    """A request; `inputs` are those of ModelMetadata. What is no input is a parameter."""
    document = parse_json(body)
    if type(document) is not dict:
        raise bad_argument("the body must be a JSON object")
    request_id, given = document.pop("id", ""), document.pop("parameters", {})
    if not isinstance(request_id, str) or type(given) is not dict:
        raise bad_argument("id must be a string, parameters an object")
    tensors = [_tensor(port, document.pop(port["name"])) for port in inputs if port["name"] in document]
    parameters: dict[str, Parameter] = {}
    for key, value in {**given, **document}.items():
        if not isinstance(value, (bool, int, float, str)):
            raise bad_argument(f"{quoted(key)} is no input of the model, and no parameter: a boolean, number or string")
        parameters[key] = value
    return InferRequest(model, version, tensors, request_id, parameters, front="http")


def shown(response: InferResponse) -> dict[str, Any]:
    """One answer as an object."""
    head: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        head["id"] = response.id
    return head | {output.name: _value(_data(output)) for output in response.outputs}


def joined(responses: Iterable[InferResponse]) -> dict[str, Any]:
    """All answers as one object: of each output, the elements of every part one after the other."""
    head: dict[str, Any] = {}
    parts: dict[str, list[Any]] = {}
    for response in responses:
        head = head or {
            key: value for key, value in shown(response).items() if key in ("model_name", "model_version", "id")
        }
        for output in response.outputs:
            parts.setdefault(output.name, []).extend(_data(output))
    return head | {name: _value(data) for name, data in parts.items()}


def _tensor(port: Mapping[str, Any], value: Any) -> InputTensor:
    name, rank = port["name"], len(port["shape"])
    if type(value) is dict:
        text = value.get(BASE64)
        if port["datatype"] != "BYTES" or len(value) != 1 or not isinstance(text, str):
            raise bad_argument(f'input {quoted(name)}: an object is {{"{BASE64}": text}}, for BYTES only')
        try:
            data = encode_bytes([base64.b64decode(text, validate=True)])
        except (binascii.Error, ValueError):
            raise bad_argument(f"input {quoted(name)}: {BASE64} is not base64") from None
        return InputTensor(name, "BYTES", (1,) * rank, data)
    shape: list[int] = []
    inner = value
    while type(inner) is list and len(shape) < MAX_DEPTH:
        shape.append(len(inner))
        inner = inner[0] if inner else None
    shape = [1] * (rank - len(shape)) + shape
    return InputTensor(name, port["datatype"], tuple(shape), Elements("json", _nested(value, len(shape))))


def _nested(value: Any, rank: int) -> Any:
    """The value as lists of `rank` levels, whose outer ones have one element."""
    depth, inner = 0, value
    while type(inner) is list:
        depth, inner = depth + 1, inner[0] if inner else None
    for _ in range(rank - depth):
        value = [value]
    return value


def _data(output: OutputTensor) -> list[Any]:
    if output.datatype != "BYTES":
        return json_data(output)
    found: list[Any] = []
    for element in output.array.reshape(-1).tolist():
        data = element.encode() if isinstance(element, str) else bytes(element)
        try:
            found.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            found.append({BASE64: base64.b64encode(data).decode("ascii")})
    return found


def _value(data: list[Any]) -> Any:
    return data[0] if len(data) == 1 else data


__all__ = ["joined", "read", "shown"]
