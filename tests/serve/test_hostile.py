"""Malformed requests on both fronts: one clear meaning each, naming the place, and never a trace in another answer."""

from __future__ import annotations

import copy
import gzip
import http.client
import json
import struct
import zlib

import grpc
import numpy as np
import pytest

from headrace.protos import inference_pb2 as pb
from headrace.serve.errors import Meaning
from headrace.serve.grpc_codes import CODES
from headrace.serve.rest_front import STATUS

BAD, MISSING, GONE, OFF = Meaning.BAD_ARGUMENT, Meaning.NOT_FOUND, Meaning.UNAVAILABLE, Meaning.UNSUPPORTED
A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.full((2, 4), 0.5, np.float32)
RAW = A.tobytes()
INFER = "/inference.GRPCInferenceService/ModelInfer"


def healthy():
    tensor = {"datatype": "FP32", "shape": [2, 4], "parameters": {}}
    return {
        "model": "add",
        "version": "",
        "id": "",
        "parameters": {},
        "inputs": [tensor | {"name": "a", "data": A.tobytes()}, tensor | {"name": "b", "data": B.tobytes()}],
        "outputs": [],
    }


def put(**values):
    """A change of the first input."""
    return lambda r: r["inputs"][0].update(values)


def top(**values):
    return lambda r: r.update(values)


def outputs(*names, **parameters):
    return lambda r: r.update(outputs=[{"name": n, "parameters": parameters} for n in names])


def parameter(key, value):
    return lambda r: r["parameters"].update({key: value})


def inputs(change):
    return lambda r: change(r["inputs"])


def bytes_model(data, shape=(1, 2)):
    tensor = {"name": "x", "datatype": "BYTES", "shape": list(shape), "parameters": {}, "data": data}
    return lambda r: r.update(model="bytes", inputs=[tensor])


def element(data):
    return struct.pack("<I", len(data)) + data


# name -> (change, meaning, a word of the text)
BOTH = {
    "unknown input": (put(name="c"), BAD, "'c'"),
    "input name in capitals": (put(name="A"), BAD, "'A'"),
    "input name with a zero byte": (put(name="a\0"), BAD, "'a"),
    "input name with a space": (put(name="a "), BAD, "'a '"),
    "empty input name": (put(name=""), BAD, "''"),
    "very long input name": (put(name="a" * 5000), BAD, "…"),
    "duplicate input": (inputs(lambda i: i.append(copy.deepcopy(i[0]))), BAD, "'a'"),
    "duplicate instead of the other": (put(name="b"), BAD, "'b'"),
    "missing input": (inputs(lambda i: i.pop()), BAD, "'b' is missing"),
    "no input": (inputs(lambda i: i.clear()), BAD, "missing"),
    "surplus input": (inputs(lambda i: i.append(i[0] | {"name": "c"})), BAD, "'c'"),
    "many inputs": (inputs(lambda i: i.extend(i[0] | {"name": str(k), "data": b""} for k in range(300))), BAD, "'0'"),
    "wrong datatype": (put(datatype="FP64"), BAD, "'a': datatype"),
    "datatype of the same size": (put(datatype="INT32"), BAD, "'a': datatype"),
    "unknown datatype": (put(datatype="FP8"), BAD, "'a': datatype"),
    "datatype in small letters": (put(datatype="fp32"), BAD, "'a': datatype"),
    "datatype with a zero byte": (put(datatype="FP32\0"), BAD, "'a': datatype"),
    "empty datatype": (put(datatype=""), BAD, "'a': datatype"),
    "rank too low": (put(shape=[8]), BAD, "'a': rank"),
    "rank zero": (put(shape=[]), BAD, "'a': rank"),
    "rank too high": (put(shape=[2, 4, 1]), BAD, "'a': rank"),
    "rank 33": (put(shape=[1] * 33), BAD, "'a': rank"),
    "rank 10000": (put(shape=[1] * 10000), BAD, "'a': rank"),
    "wrong fixed dimension": (put(shape=[4, 2]), BAD, "'a': dimension 1"),
    "negative dimension": (put(shape=[-2, 4]), BAD, "'a': dimension 0"),
    "two negative dimensions": (put(shape=[-2, -4]), BAD, "'a': dimension 0"),
    "unknown size": (put(shape=[-1, 4]), BAD, "'a': dimension 0"),
    "smallest dimension": (put(shape=[-(2**63), 4]), BAD, "'a': dimension 0"),
    "largest dimension": (put(shape=[2**63 - 1, 4]), BAD, "'a'"),
    "product wraps to the size": (put(shape=[2**62 + 2, 4]), BAD, "'a'"),
    "product wraps in 32 bits": (put(shape=[2**30 + 2, 4]), BAD, "'a'"),
    "dimension wraps in 32 bits": (put(shape=[2**32 + 2, 4]), BAD, "'a'"),
    "huge batch": (put(shape=[10**12, 4]), BAD, "'a'"),
    "batch zero": (lambda r: [t.update(shape=[0, 4], data=b"") for t in r["inputs"]], BAD, "0 rows"),
    "batch over the maximum": (
        lambda r: [t.update(shape=[257, 4], data=bytes(257 * 16)) for t in r["inputs"]],
        BAD,
        "allowed are 1 to 256",
    ),
    "rows that differ": (put(shape=[1, 4], data=RAW[:16]), BAD, "'b'"),
    "one byte short": (put(data=RAW[:-1]), BAD, "'a': 31 bytes"),
    "one byte long": (put(data=RAW + b"\0"), BAD, "'a': 33 bytes"),
    "one element short": (put(data=RAW[:-4]), BAD, "'a': 28 bytes"),
    "no bytes": (put(data=b""), BAD, "'a': 0 bytes"),
    "unknown output": (outputs("product"), BAD, "'product'"),
    "output that is an input": (outputs("a"), BAD, "'a'"),
    "output with a zero byte": (outputs("sum\0"), BAD, "'sum"),
    "empty output name": (outputs(""), BAD, "''"),
    "duplicate output": (outputs("sum", "sum"), BAD, "'sum'"),
    "one known, one unknown output": (outputs("sum", "x"), BAD, "'x'"),
    "classification of zero": (outputs("sum", classification=0), BAD, "classification"),
    "negative classification": (outputs("sum", classification=-5), BAD, "classification"),
    "classification as text": (outputs("sum", classification="3"), BAD, "classification"),
    "unknown model": (top(model="nope"), MISSING, "'nope'"),
    "model with a slash": (top(model="a/b"), BAD, "model name"),
    "model is a path": (top(model="../add"), BAD, "model name"),
    "model is dots": (top(model=".."), BAD, "model name"),
    "model with a zero byte": (top(model="add\0"), BAD, "model name"),
    "model with a space": (top(model="add "), BAD, "model name"),
    "model name of 129": (top(model="a" * 129), BAD, "model name"),
    "model that failed to load": (top(model="bad"), GONE, "'bad'"),
    "model whose golden data is off": (top(model="wrong"), GONE, "bound 0.001"),
    "unknown version": (top(version="2"), MISSING, "'2'"),
    "unknown label": (top(version="stable"), MISSING, "'stable'"),
    "version zero": (top(version="0"), BAD, "version"),
    "version with a leading zero": (top(version="01"), BAD, "version"),
    "version with a sign": (top(version="+1"), BAD, "version"),
    "negative version": (top(version="-1"), BAD, "version"),
    "version with a space": (top(version="1 "), BAD, "version"),
    "version with a fraction": (top(version="1.0"), BAD, "version"),
    "version with a zero byte": (top(version="1\0"), BAD, "version"),
    "version that wraps": (top(version=str(2**64 + 1)), BAD, "version"),
    "version in other digits": (top(version="١"), BAD, "version"),
    "long id": (top(id="i" * 1025), BAD, "id"),
    "negative priority": (parameter("priority", -1), BAD, "'priority'"),
    "priority as text": (parameter("priority", "1"), BAD, "'priority'"),
    "priority true": (parameter("priority", True), BAD, "'priority'"),
    "negative timeout": (parameter("timeout", -1), BAD, "'timeout'"),
    "timeout as a fraction": (parameter("timeout", 1.5), BAD, "'timeout'"),
    "sequence_start as a number": (parameter("sequence_start", 1), BAD, "'sequence_start'"),
    "negative sequence_id": (parameter("sequence_id", -1), BAD, "'sequence_id'"),
    "reserved triton_": (parameter("triton_x", 1), BAD, "'triton_x'"),
    "reserved headrace_": (parameter("headrace_x", 1), BAD, "'headrace_x'"),
    "long parameter name": (parameter("k" * 257, 1), BAD, "parameter name"),
    "long parameter": (parameter("k", "v" * (64 * 1024 + 1)), BAD, "'k'"),
    "many parameters": (lambda r: r["parameters"].update({f"k{i}": 1 for i in range(257)}), BAD, "257"),
    "shared memory input": (put(parameters={"shared_memory_region": "r"}), OFF, "'a': shared memory"),
    "shared memory output": (outputs("sum", shared_memory_region="r"), OFF, "'sum': shared memory"),
    "BYTES length over the end": (bytes_model(element(b"abc") + struct.pack("<I", 9) + b"abc"), BAD, "'x'"),
    "BYTES length of 4 GiB": (bytes_model(element(b"abc") + b"\xff\xff\xff\xff"), BAD, "'x'"),
    "BYTES cut in a length": (bytes_model(element(b"abcdef") + b"\x01"), BAD, "'x'"),
    "BYTES surplus": (bytes_model(element(b"a") * 3), BAD, "'x'"),
    "BYTES missing": (bytes_model(element(b"a")), BAD, "'x'"),
    "BYTES empty data": (bytes_model(b""), BAD, "'x'"),
    "BYTES huge count": (bytes_model(element(b"a"), (1, 2**40)), BAD, "'x'"),
}


# ---- the fronts ----


def choice(value):
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return pb.InferParameter(**{kinds[type(value)]: value})


def message(request):
    out = pb.ModelInferRequest(model_name=request["model"], model_version=request["version"], id=request["id"])
    for key, value in request["parameters"].items():
        out.parameters[key].CopyFrom(choice(value))
    for tensor in request["inputs"]:
        one = out.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        for key, value in tensor["parameters"].items():
            one.parameters[key].CopyFrom(choice(value))
        if "shared_memory_region" not in tensor["parameters"]:
            out.raw_input_contents.append(tensor["data"])
    for output in request["outputs"]:
        one = out.outputs.add(name=output["name"])
        for key, value in output["parameters"].items():
            one.parameters[key].CopyFrom(choice(value))
    return out


def document(request):
    """The REST body with binary tensors: (JSON bytes, binary bytes)."""
    tensors, tail = [], b""
    for tensor in request["inputs"]:
        one = {key: tensor[key] for key in ("name", "datatype", "shape")} | {"parameters": dict(tensor["parameters"])}
        if "shared_memory_region" not in one["parameters"]:
            one["parameters"]["binary_data_size"] = len(tensor["data"])
            tail += tensor["data"]
        tensors.append(one)
    whole = {"id": request["id"], "parameters": request["parameters"] | {"binary_data_output": True}, "inputs": tensors}
    if request["outputs"]:
        whole["outputs"] = request["outputs"]
    return json.dumps(whole).encode(), tail


class Rest:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def post(self, path, body, headers=None):
        self.connection.request("POST", path, body, headers or {})
        answer = self.connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def infer(self, request):
        head, tail = document(request)
        path = f"/v2/models/{quoted(request['model'])}"
        if request["version"]:
            path += f"/versions/{quoted(request['version'])}"
        return self.post(path + "/infer", head + tail, {"Inference-Header-Content-Length": str(len(head))})


def quoted(text):
    return "".join(f"%{byte:02x}" for byte in text.encode())


@pytest.fixture(scope="module")
def rest(server):
    opened = Rest(server.http_port)
    yield opened
    opened.connection.close()


@pytest.fixture
def unharmed(channel, rest):
    """The healthy request gives the same bytes on both fronts afterwards."""
    yield
    data = channel.unary_unary(INFER)(message(healthy()).SerializeToString(), timeout=20)
    answer = pb.ModelInferResponse.FromString(data)
    assert list(answer.raw_output_contents) == [(A + B).tobytes(), (A - B).tobytes()]
    status, body, headers = rest.infer(healthy())
    assert status == 200
    assert body[int(headers["Inference-Header-Content-Length"]) :] == (A + B).tobytes() + (A - B).tobytes()


def refused(call, data):
    with pytest.raises(grpc.RpcError) as caught:
        call(data, timeout=20)
    check_text(caught.value.details())
    return caught.value.code(), caught.value.details()


def check_text(text):
    """No traceback, path, address or unescaped client bytes in any text."""
    assert text and text.isprintable() and len(text) < 1000
    assert not any(word in text for word in ("Traceback", "File ", "/tmp", "site-packages", "0x", "object at", ".py"))


@pytest.mark.parametrize("name", BOTH)
def test_both_fronts(name, channel, rest, unharmed):
    change, meaning, word = BOTH[name]
    request = copy.deepcopy(healthy())
    change(request)
    code, text = refused(channel.unary_unary(INFER), message(request).SerializeToString())
    assert code.value[0] == CODES[meaning], text
    assert word in text
    status, body, _ = rest.infer(request)
    assert status == STATUS[meaning], body
    told = json.loads(body)["error"]
    check_text(told)
    assert word in told


# ---- what only gRPC can say ----


def typed(**fields):
    def change(m):
        del m.raw_input_contents[:]
        for tensor in m.inputs:
            tensor.contents.fp32_contents.extend([1.0] * 8)
        m.inputs[0].contents.Clear()
        for key, values in fields.items():
            getattr(m.inputs[0].contents, key).extend(values)

    return change


def narrow(model, datatype, field, values):
    def change(m):
        m.Clear()
        m.model_name = model
        one = m.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
        getattr(one.contents, field).extend(values)

    return change


def no_value(m):
    m.parameters["k"].SetInParent()


GRPC = {
    "surplus raw entry": (lambda m: m.raw_input_contents.append(b"x"), "entry 2"),
    "missing raw entry": (lambda m: m.raw_input_contents.pop(), "'b'"),
    "no raw entry and no contents": (lambda m: m.ClearField("raw_input_contents"), "'a'"),
    "raw and typed": (lambda m: m.inputs[0].contents.fp32_contents.append(1), "'a'"),
    "typed field of another datatype": (typed(int_contents=[1] * 8), "'a'"),
    "two typed fields": (typed(fp32_contents=[1] * 8, int_contents=[1]), "'a'"),
    "typed too few": (typed(fp32_contents=[1] * 7), "'a': fp32_contents has 7"),
    "typed too many": (typed(fp32_contents=[1] * 9), "'a': fp32_contents has 9"),
    "typed none": (typed(), "'a'"),
    "INT8 over the range": (narrow("int8", "INT8", "int_contents", [1, 128]), "'x'"),
    "INT8 under the range": (narrow("int8", "INT8", "int_contents", [-129, 1]), "'x'"),
    "UINT8 over the range": (narrow("uint8", "UINT8", "uint_contents", [256, 1]), "'x'"),
    "INT16 over the range": (narrow("int16", "INT16", "int_contents", [32768]), "'x'"),
    "UINT16 over the range": (narrow("uint16", "UINT16", "uint_contents", [65536]), "'x'"),
    "FP16 typed": (narrow("fp16", "FP16", "fp32_contents", [1.0]), "'x'"),
    "BF16 typed": (narrow("bf16", "BF16", "fp32_contents", [1.0]), "'x'"),
    "parameter without a value": (no_value, "'k'"),
}


@pytest.mark.parametrize("name", GRPC)
def test_grpc(name, channel, unharmed):
    change, word = GRPC[name]
    one = message(healthy())
    change(one)
    code, text = refused(channel.unary_unary(INFER), one.SerializeToString())
    assert code == grpc.StatusCode.INVALID_ARGUMENT and word in text


def big(tail):
    """A message long enough to be scanned, with `tail` after a healthy part."""
    request = healthy()
    for tensor in request["inputs"]:
        tensor.update(shape=[256, 4], data=bytes(256 * 16))
    return message(request).SerializeToString() + b"\x3a\x80\x80\x01" + bytes(16384) + tail


WIRE = {
    "not protobuf": b"\xff\xff\xff\xff",
    "cut message": message(healthy()).SerializeToString()[:-3],
    "invalid UTF-8": b"\x0a\x02\xff\xfe",
    "nested groups": b"\x0b" * 4000,
    "field number zero": b"\x00\x01",
    "large: surplus raw entry": big(b""),
    "large: length over the end": big(b"\x3a\xff\xff\x7f"),
    "large: length of 2^63": big(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "large: endless number": big(b"\xff" * 20),
    "large: group": big(b"\x0b"),
    "large: nested groups": b"\x0b" * 100_000,
    "large: many empty inputs": b"\x2a\x00" * 100_000,
    "large: many empty outputs": b"\x32\x00" * 100_000,
    "large: many empty parameters": b"\x22\x00" * 100_000,
    "large: many raw entries": b"\x3a\x00" * 100_000,
    "large: many unknown fields": b"\xf8\x07\x00" * 100_000,
    "large: long model name": b"\x0a" + b"\xc0\x84\x3d" + b"a" * 1_000_000,
    "large: many parameters of an input": b"\x2a\xc0\x9a\x0c" + b"\x22\x00" * 100_000,
    "large: many dimensions": b"\x2a\xc0\x9a\x0c" + b"\x18\x01" * 100_000,
    "large: many strings": b"\x2a\xc4\xb5\x18" + b"\x2a\xc0\xb5\x18" + b"\x42\x00" * 200_000,
    "large: many packed numbers": b"\x2a\xc8\xb5\x18" + b"\x2a\xc4\xb5\x18" + b"\x2a\xc0\xb5\x18" + bytes(400_000),
}


@pytest.mark.parametrize("name", WIRE)
def test_wire(name, channel, unharmed):
    code, _ = refused(channel.unary_unary(INFER), WIRE[name])
    allowed = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert code in allowed or (code is grpc.StatusCode.NOT_FOUND and "many" in name)


def test_message_over_the_limit(channel, server, unharmed):
    code, _ = refused(channel.unary_unary(INFER), bytes(1024 * 1024 + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "RepositoryModelLoad", "LogSettings", "ServerLive"])
def test_other_methods_refuse_what_is_no_message(method, channel, unharmed):
    code, _ = refused(channel.unary_unary(f"/inference.GRPCInferenceService/{method}"), b"\xff\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT


# ---- what only REST can say ----

J = {"name": "a", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
K = J | {"name": "b"}


def body(*tensors, **rest):
    return json.dumps({"inputs": list(tensors), **rest}).encode()


def single(model, datatype, data, shape=None):
    return model, body({"name": "x", "shape": shape or [1, len(data)], "datatype": datatype, "data": data})


JSON = {
    "empty body": b"",
    "not JSON": b"{",
    "not an object": b"[]",
    "text after the JSON": body(J, K) + b"x",
    "not UTF-8": b'{"inputs":"\xff"}',
    "no inputs": b"{}",
    "inputs is null": b'{"inputs":null}',
    "inputs is an object": b'{"inputs":{}}',
    "an input is a number": b'{"inputs":[1]}',
    "no name": body({k: v for k, v in J.items() if k != "name"}, K),
    "name is a number": body(J | {"name": 1}, K),
    "no shape": body({k: v for k, v in J.items() if k != "shape"}, K),
    "shape is a number": body(J | {"shape": 4}, K),
    "shape with a fraction": body(J | {"shape": [1, 4.5]}, K),
    "shape with text": body(J | {"shape": [1, "4"]}, K),
    "shape with true": body(J | {"shape": [True, 4]}, K),
    "shape over 64 bits": body(J | {"shape": [2**64 + 1, 4]}, K),
    "no datatype": body({k: v for k, v in J.items() if k != "datatype"}, K),
    "no data": body({k: v for k, v in J.items() if k != "data"}, K),
    "data is text": body(J | {"data": "1234"}, K),
    "data is null": body(J | {"data": None}, K),
    "data too short": body(J | {"data": [1, 2, 3]}, K),
    "data too long": body(J | {"data": [1, 2, 3, 4, 5]}, K),
    "nested data too short": body(J | {"data": [[1, 2, 3]]}, K),
    "ragged data": body(J | {"shape": [2, 2], "data": [[1, 2], [3]]}, K),
    "half nested data": body(J | {"data": [1, [2], 3, 4]}, K),
    "nested too deep": body(J | {"data": [[[1, 2, 3, 4]]]}, K),
    "text in data": body(J | {"data": [1, 2, 3, "4"]}, K),
    "true in numbers": body(J | {"data": [1, 2, 3, True]}, K),
    "null in data": body(J | {"data": [1, 2, 3, None]}, K),
    "NaN": body(J, K).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, NaN]"),
    "Infinity": body(J, K).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, Infinity]"),
    "over the range of FP32": body(J, K).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, 1e39]"),
    "over every range": body(J, K).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, 1e999]"),
    "number of 5000 digits": body(J, K).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, " + b"9" * 5000 + b"]"),
    "duplicate key": body(J, K).replace(b'"name": "a"', b'"name": "b", "name": "a"'),
    "depth 65": b'{"x":' + b"[" * 64 + b"]" * 64 + b',"inputs":[]}',
    "depth 100000": b"[" * 100_000,
    "deep data": body(J, K).replace(b"[1, 2, 3, 4]", b"[" * 5000 + b"1" + b"]" * 5000),
    "id is a number": body(J, K, id=5),
    "parameters is an array": body(J, K, parameters=[]),
    "a parameter is null": body(J, K, parameters={"k": None}),
    "a parameter is an object": body(J, K, parameters={"k": {}}),
    "outputs is an object": body(J, K, outputs={}),
    "binary_data is text": body(J, K, outputs=[{"name": "sum", "parameters": {"binary_data": "yes"}}]),
    "binary_data_output is a number": body(J, K, parameters={"binary_data_output": 1}),
    "data and binary size": body(J | {"parameters": {"binary_data_size": 16}}, K),
    "binary size without bytes": body(
        {k: v for k, v in J.items() if k != "data"} | {"parameters": {"binary_data_size": 16}}, K
    ),
    "INT8 over the range": single("int8", "INT8", [128]),
    "INT8 under the range": single("int8", "INT8", [-129]),
    "UINT8 negative": single("uint8", "UINT8", [-1]),
    "INT32 over the range": single("int32", "INT32", [2**31]),
    "INT64 over the range": single("int64", "INT64", [2**63]),
    "UINT64 over the range": single("uint64", "UINT64", [2**64]),
    "fraction for INT32": single("int32", "INT32", [1.5]),
    "BOOL as a number": single("bool", "BOOL", [1]),
    "FP16 in JSON": single("fp16", "FP16", [1.0]),
    "BF16 in JSON": single("bf16", "BF16", [1.0]),
    "BYTES as a number": single("bytes", "BYTES", [1]),
    "BYTES half a surrogate": single("bytes", "BYTES", ["\ud800"]),
}


@pytest.mark.parametrize("name", JSON)
def test_json(name, rest, unharmed):
    case = JSON[name]
    model, data = case if isinstance(case, tuple) else ("add", case)
    status, answer, _ = rest.post(f"/v2/models/{model}/infer", data)
    assert status == 400, answer
    check_text(json.loads(answer)["error"])


HEAD, TAIL = document(healthy())
BINARY = {
    "length is text": (HEAD + TAIL, {"Inference-Header-Content-Length": "x"}, 400),
    "length is negative": (HEAD + TAIL, {"Inference-Header-Content-Length": "-1"}, 400),
    "length over the body": (HEAD + TAIL, {"Inference-Header-Content-Length": "100000"}, 400),
    "length of 30 digits": (HEAD + TAIL, {"Inference-Header-Content-Length": "1" * 30}, 400),
    "length cuts the JSON": (HEAD + TAIL, {"Inference-Header-Content-Length": str(len(HEAD) - 1)}, 400),
    "length takes data": (HEAD + TAIL, {"Inference-Header-Content-Length": str(len(HEAD) + 1)}, 400),
    "no length": (HEAD + TAIL, {}, 400),
    "bytes over": (HEAD + TAIL + b"x", {"Inference-Header-Content-Length": str(len(HEAD))}, 400),
    "bytes missing": (HEAD + TAIL[:-1], {"Inference-Header-Content-Length": str(len(HEAD))}, 400),
    "raw request of two inputs": (TAIL, {"Inference-Header-Content-Length": "0"}, 400),
    "unknown coding": (HEAD + TAIL, {"Content-Encoding": "br"}, 400),
    "not gzip": (HEAD + TAIL, {"Content-Encoding": "gzip"}, 400),
    "cut gzip": (gzip.compress(body(J, K))[:-9], {"Content-Encoding": "gzip"}, 400),
    "gzip and more": (gzip.compress(body(J, K)) + b"x", {"Content-Encoding": "gzip"}, 400),
    "inflates over the limit": (gzip.compress(bytes(50_000_000)), {"Content-Encoding": "gzip"}, 413),
    "deflate over the limit": (zlib.compress(bytes(50_000_000)), {"Content-Encoding": "deflate"}, 413),
    "body over the limit": (bytes(1024 * 1024 + 1), {}, 413),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary(name, server, unharmed):
    data, headers, wanted = BINARY[name]
    status, answer, _ = Rest(server.http_port).post("/v2/models/add/infer", data, headers)
    assert status == wanted, answer
    check_text(json.loads(answer)["error"])


def test_the_suite_is_large_enough():
    assert len(BOTH) + len(GRPC) + len(WIRE) >= 60 and len(BOTH) + len(JSON) + len(BINARY) >= 60
