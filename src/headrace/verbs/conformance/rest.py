"""REST: /v2, the binary tensor extension, compression, statuses."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import Any

import numpy as np

from headrace.serve.datatypes import DATATYPES
from headrace.verbs.conformance.check import NotHere, check, expect
from headrace.verbs.conformance.target import Target

LENGTH = "Inference-Header-Content-Length"


def _path(target: Target, verb: str = "") -> str:
    return f"/v2/models/{target.model}{verb}"


@check("rest", "core", "/v2/health/live is 200")
def live(target: Target) -> None:
    status, _, _ = target.http("GET", "/v2/health/live")
    expect(status == 200, f"it is {status}")


@check("rest", "core", "/v2/health/ready is 200 or 400")
def ready(target: Target) -> None:
    status, _, _ = target.http("GET", "/v2/health/ready")
    expect(status in (200, 400), f"it is {status}")


@check("rest", "core", "/v2 has name, version and extensions")
def server(target: Target) -> None:
    found = target.document("GET", "/v2")
    missing = [key for key in ("name", "version", "extensions") if key not in found]
    expect(not missing, f"{', '.join(missing)} missing")


@check("rest", "core", "the metadata of a model are those of gRPC")
def metadata(target: Target) -> None:
    found, wire = target.document("GET", _path(target)), target.metadata(target.model)
    for kind, rows in (("inputs", wire.inputs), ("outputs", wire.outputs)):
        mine = [(row["name"], row["datatype"], list(row["shape"])) for row in found[kind]]
        expect(mine == [(row.name, row.datatype, list(row.shape)) for row in rows], f"{kind} differ")


@check("rest", "core", "a model that is ready answers 200 at /ready, a stranger does not")
def model_ready(target: Target) -> None:
    status, _, _ = target.http("GET", _path(target, "/ready"))
    expect(status == 200, f"it is {status}")
    status, _, _ = target.http("GET", "/v2/models/no-such-model/ready")
    expect(400 <= status < 500, f"a stranger is {status}")


@check("rest", "core", "JSON in, JSON out: the numbers of gRPC")
def infer(target: Target) -> None:
    answer = target.document("POST", _path(target, "/infer"), target.documents())
    _same(target, answer)


@check("rest", "core", "nested data are read as flat ones")
def nested(target: Target) -> None:
    document = target.documents()
    for tensor in document["inputs"]:
        tensor["data"] = np.array(tensor["data"], object).reshape(tensor["shape"]).tolist()
    _same(target, target.document("POST", _path(target, "/infer"), document))


@check("rest", "core", "the id comes back, with the model's name and a version")
def identity(target: Target) -> None:
    answer = target.document("POST", _path(target, "/infer"), target.documents() | {"id": "check 7"})
    expect(answer.get("id") == "check 7", f"the id is {answer.get('id')!r}")
    expect(answer.get("model_name") == target.model, f"the model is {answer.get('model_name')!r}")
    expect(answer.get("model_version"), "the version is missing")


@check("rest", "core", "only the outputs asked for come back")
def requested(target: Target) -> None:
    name = target.metadata(target.model).outputs[-1].name
    answer = target.document("POST", _path(target, "/infer"), target.documents() | {"outputs": [{"name": name}]})
    expect([o["name"] for o in answer["outputs"]] == [name], "others come back")


def _binary(target: Target, **document: Any) -> tuple[bytes, dict[str, str]]:
    """A body with binary tensors, and its headers."""
    request, tensors = target.request(), []
    for row, data in zip(request.inputs, request.raw_input_contents):
        sizes = {"binary_data_size": len(data)}
        tensors.append({"name": row.name, "datatype": row.datatype, "shape": list(row.shape), "parameters": sizes})
    head = json.dumps({"inputs": tensors, **document}).encode()
    return head + b"".join(request.raw_input_contents), {LENGTH: str(len(head))}


def _read(headers: dict[str, str], data: bytes) -> dict[str, Any]:
    """An answer whose outputs are all binary, as a document with data."""
    at = int(headers.get(LENGTH.lower(), len(data)))
    document: dict[str, Any] = json.loads(data[:at])
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        expect(size is not None, f"{output['name']} is not binary")
        output["data"] = np.frombuffer(data[at : at + size], DATATYPES[output["datatype"]].dtype).tolist()
        at += size
    expect(at == len(data), f"{len(data) - at} bytes are left over")
    return document


@check("rest", "extension", "binary tensors in and out")
def binary(target: Target) -> None:
    body, headers = _binary(target, parameters={"binary_data_output": True})
    status, got, data = target.http("POST", _path(target, "/infer"), body, headers)
    expect(status == 200, f"it is {status}")
    expect(LENGTH.lower() in got, f"no {LENGTH}")
    _same(target, _read(got, data))


@check("rest", "extension", "binary tensors in, JSON out")
def binary_in(target: Target) -> None:
    status, _, data = target.http("POST", _path(target, "/infer"), *_binary(target))
    expect(status == 200, f"it is {status}")
    _same(target, json.loads(data))


@check("rest", "extension", "JSON in, binary_data of an output out")
def binary_out(target: Target) -> None:
    outputs = [{"name": o.name, "parameters": {"binary_data": True}} for o in target.metadata(target.model).outputs]
    status, got, data = target.http("POST", _path(target, "/infer"), target.documents() | {"outputs": outputs})
    expect(status == 200, f"it is {status}")
    _same(target, _read(got, data))


@check("rest", "extension", "a raw binary request (header length 0)")
def raw(target: Target) -> None:
    request, facts = target.request(), target.metadata(target.model)
    if len(facts.inputs) != 1 or sum(size < 0 for size in facts.inputs[0].shape) > 2:
        raise NotHere("the model has not one input with at most one free dimension")
    status, got, data = target.http("POST", _path(target, "/infer"), request.raw_input_contents[0], {LENGTH: "0"})
    expect(status == 200, f"it is {status}")
    _read(got, data)


def _coded(name: str, encode: Any, decode: Any) -> None:
    @check("rest", "extension", f"{name} both ways")
    def coded(target: Target) -> None:
        body = encode(json.dumps(target.documents()).encode())
        headers = {"Content-Encoding": name, "Accept-Encoding": name}
        status, got, data = target.http("POST", _path(target, "/infer"), body, headers)
        expect(status == 200, f"it is {status}")
        _same(target, json.loads(decode(data) if got.get("content-encoding") == name else data))


_coded("gzip", gzip.compress, gzip.decompress)
_coded("deflate", zlib.compress, zlib.decompress)


def _status(sentence: str, wanted: int, method: str, path: str, body: Any = None, headers: Any = None) -> None:
    @check("rest", "core", f"{sentence} is {wanted}")
    def status(target: Target) -> None:
        where = path.replace("{m}", target.model)
        found, _, data = target.http(method, where, body(target) if callable(body) else body, headers)
        expect(found == wanted, f"it is {found}")
        if found >= 400 and data:
            expect("error" in json.loads(data), "the body has no error")


def _changed(**changes: Any) -> Any:
    def make(target: Target) -> Any:
        document = target.documents()
        document["inputs"][0] |= changes
        return document

    return make


_status("an unknown model", 404, "POST", "/v2/models/no-such-model/infer", lambda t: t.documents())
_status("an unknown path", 404, "GET", "/v2/no-such-thing")
_status("the wrong method", 405, "GET", "/v2/models/{m}/infer")
_status("a body that is no JSON", 400, "POST", "/v2/models/{m}/infer", b"{")
_status("a key that comes twice", 400, "POST", "/v2/models/{m}/infer", b'{"inputs":[],"inputs":[]}')
_status("JSON of a great depth", 400, "POST", "/v2/models/{m}/infer", b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}")
_status("an unknown input", 400, "POST", "/v2/models/{m}/infer", _changed(name="no_such_input"))
_status("another rank", 400, "POST", "/v2/models/{m}/infer", _changed(shape=[1] * 9))
_status("a negative dimension", 400, "POST", "/v2/models/{m}/infer", _changed(shape=[-1]))
_status("a datatype that is none", 400, "POST", "/v2/models/{m}/infer", _changed(datatype="FLOAT"))
_status("data of another length", 400, "POST", "/v2/models/{m}/infer", _changed(data=[1] * 99991))
_status(f"{LENGTH} beyond the body", 400, "POST", "/v2/models/{m}/infer", b"{}", {LENGTH: "999"})


@check("rest", "core", "bytes after the last binary tensor are 400")
def left_over(target: Target) -> None:
    body, headers = _binary(target)
    status, _, _ = target.http("POST", _path(target, "/infer"), body + b"xx", headers)
    expect(status == 400, f"it is {status}")


@check("rest", "core", "a number that its datatype cannot hold is 400")
def out_of_range(target: Target) -> None:
    model = next((target.echoes[name] for name in ("INT8", "UINT8", "INT16", "INT32") if name in target.echoes), None)
    if model is None:
        raise NotHere("no model echoes small integers")
    document = target.documents(model)
    document["inputs"][0]["data"][0] = 2**40
    status, _, _ = target.http("POST", f"/v2/models/{model}/infer", document)
    expect(status == 400, f"it is {status}")


@check("rest", "extension", "statistics, configuration and index have the protocol's names")
def management(target: Target) -> None:
    found = target.document("GET", _path(target, "/stats"))
    expect(found["model_stats"][0]["name"] == target.model, "statistics of another model")
    expect("max_batch_size" in target.document("GET", _path(target, "/config")), "max_batch_size is missing")
    rows = target.document("POST", "/v2/repository/index", {})
    expect(isinstance(rows, list), "the index is no array")
    expect(target.model in [row["name"] for row in rows], "the index has not the model")


@check("rest", "extension", "trace and log settings can be read")
def settings(target: Target) -> None:
    expect("trace_level" in target.document("GET", "/v2/trace/setting"), "trace_level is missing")
    expect("log_info" in target.document("GET", "/v2/logging"), "log_info is missing")


def _same(target: Target, answer: dict[str, Any]) -> None:
    """The outputs of gRPC, number for number."""
    from headrace.protos import inference_pb2 as pb

    wire: Any = target.call("ModelInfer", target.request())
    assert isinstance(wire, pb.ModelInferResponse)
    raw = {o.name: (o, data) for o, data in zip(wire.outputs, wire.raw_output_contents)}
    for output in answer["outputs"]:
        mine, data = raw[output["name"]]
        expect(
            output["datatype"] == mine.datatype, f"{output['name']} is {output['datatype']}, {mine.datatype} in gRPC"
        )
        expect(list(output["shape"]) == list(mine.shape), f"{output['name']} has another shape")
        want = np.frombuffer(data, DATATYPES[mine.datatype].dtype).tolist()
        flat = np.array(output["data"], object).ravel().tolist()
        close = len(flat) == len(want) and all(a == b or math.isclose(a, b, rel_tol=1e-6) for a, b in zip(flat, want))
        expect(close, f"{output['name']} has other numbers")
