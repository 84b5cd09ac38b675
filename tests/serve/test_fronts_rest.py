"""REST as a client without a library sees it, beside both gRPC fronts."""

import gzip
import json
import struct
import zlib

import numpy as np
import pytest
from serve_call import get

from headrace.serve.datatypes import encode_bytes


def test_rest_health_bodies(server):
    assert get(server, "/v2/health/live")[:2] == (200, b'{"live":true}')
    assert get(server, "/v2/health/ready")[0] == 400
    assert get(server, "/v2/models/add/ready")[:2] == (200, b'{"name":"add","ready":true}')
    assert get(server, "/v2/models/bad/ready")[0] == 400
    assert "add" in json.loads(get(server, "/v2/models")[1])["models"]


def test_rest_paths_and_methods(server):
    assert get(server, "/v2/nope")[0] == 404
    assert get(server, "/")[0] == 404
    status, _, headers = get(server, "/v2/models/add/infer")
    assert status == 405 and headers["Allow"] == "POST"
    assert get(server, "/v2/repository/index", "POST", b'{"ready":true}')[0] == 200
    assert get(server, "/v2/repository/index", "POST", b'{"ready":1}')[0] == 400
    assert get(server, "/v2/models/add/versions/1?x=y")[0] == 200
    assert get(server, "/v2/systemsharedmemory/status")[1] == b"[]"
    assert get(server, "/v2/systemsharedmemory/region/r/register", "POST", b"{}")[0] == 501
    assert get(server, "/v2/logging")[0] == 200


def tensor(name="x", data=(1, 2), datatype="FP32", **more):
    return {"name": name, "shape": [1, len(data)], "datatype": datatype, "data": list(data)} | more


def test_rest_json_in_and_out(server):
    document = {"id": "k", "inputs": [tensor(data=[1, 2.5])], "outputs": [{"name": "y"}]}
    status, data, headers = get(server, "/v2/models/fp32/infer", "POST", json.dumps(document))
    answer = json.loads(data)
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert answer["id"] == "k" and answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]}
    ]
    document = {"inputs": [tensor(data=["a", "ä"], datatype="BYTES")]}
    assert json.loads(get(server, "/v2/models/bytes/infer", "POST", json.dumps(document))[1])["outputs"][0]["data"] == [
        "a",
        "ä",
    ]
    document = {"inputs": [tensor(data=[True, False], datatype="BOOL")]}
    assert json.loads(get(server, "/v2/models/bool/infer", "POST", json.dumps(document))[1])["outputs"][0]["data"] == [
        True,
        False,
    ]


def test_rest_mixed_json_and_binary(server):
    a = tensor("a", (1, 2, 3, 4))
    b = {"name": "b", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}]
    head = json.dumps({"inputs": [a, b], "outputs": outputs}).encode()
    body = head + np.ones(4, np.float32).tobytes()
    status, data, headers = get(
        server, "/v2/models/add/infer", "POST", body, {"inference-header-content-length": str(len(head))}
    )
    length = int(headers["Inference-Header-Content-Length"])
    answer = json.loads(data[:length])
    assert status == 200 and headers["Content-Type"] == "application/octet-stream"
    assert np.frombuffer(data[length:], np.float32).tolist() == [2, 3, 4, 5]
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 16} and answer["outputs"][1]["data"] == [
        0,
        1,
        2,
        3,
    ]


def test_rest_empty_binary_output(server):
    """A binary tensor without bytes still says its size."""
    item = {"name": "x", "shape": [1, 0], "datatype": "FP32", "parameters": {"binary_data_size": 0}}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, data, answer = get(server, "/v2/models/fp32/infer", "POST", head, headers)
    length = int(answer.get("Inference-Header-Content-Length") or len(data))
    (output,) = json.loads(data[:length])["outputs"]
    assert status == 200 and length == len(data)
    assert output["parameters"] == {"binary_data_size": 0} and output["shape"] == [1, 0]


def test_rest_raw_request(server):
    headers = {"Inference-Header-Content-Length": "0"}
    status, data, answer = get(server, "/v2/models/int32/infer", "POST", struct.pack("<3i", 1, 2, 3), headers)
    assert status == 200
    assert data[int(answer["Inference-Header-Content-Length"]) :] == struct.pack("<3i", 1, 2, 3)
    assert get(server, "/v2/models/int32/infer", "POST", b"12345", headers)[0] == 400


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1]])
def test_rest_json_never_carries_nan(server, values):
    item = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [item]}).encode()
    body = head + np.array(values, np.float32).tobytes()
    status, data, _ = get(
        server, "/v2/models/fp32/infer", "POST", body, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert status == 400 and "binary_data" in json.loads(data)["error"]


def test_rest_json_never_carries_what_it_cannot(server):
    item = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    head = json.dumps({"inputs": [item]}).encode()
    body = head + encode_bytes([b"\xff"])
    status, data, _ = get(
        server, "/v2/models/bytes/infer", "POST", body, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert status == 400 and "UTF-8" in json.loads(data)["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_rest_compression(server, coding):

    squeeze = gzip.compress if coding == "gzip" else zlib.compress
    body = squeeze(json.dumps({"inputs": [tensor(data=[0.5] * 400, shape=[1, 400])]}).encode())
    headers = {"Content-Encoding": coding, "Accept-Encoding": coding}
    status, data, answer = get(server, "/v2/models/fp32/infer", "POST", body, headers)
    assert status == 200 and answer["Content-Encoding"] == coding
    plain = gzip.decompress(data) if coding == "gzip" else zlib.decompress(data)
    assert json.loads(plain)["outputs"][0]["data"] == [0.5] * 400
    assert "Content-Encoding" not in get(server, "/v2", headers=headers)[2]  # inferences only
    status, data, answer = get(server, "/v2/models/fp32/infer", "POST", *binary(coding, squeeze))
    plain = gzip.decompress(data) if coding == "gzip" else zlib.decompress(data)
    length = int(answer["Inference-Header-Content-Length"])  # of the JSON before it was compressed
    assert status == 200 and json.loads(plain[:length])["outputs"] and plain[length:] == bytes(4000)
    small = json.dumps({"inputs": [tensor(data=[0.5] * 4)]})  # not worth it
    assert "Content-Encoding" not in get(server, "/v2/models/fp32/infer", "POST", small, {"Accept-Encoding": coding})[2]


def binary(coding, squeeze):
    item = {"name": "x", "shape": [1, 1000], "datatype": "FP32", "parameters": {"binary_data_size": 4000}}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Encoding": coding, "Accept-Encoding": coding}
    return squeeze(head + bytes(4000)), headers


def test_a_body_of_another_protocol_is_told_what_is_missing(server):
    status, body, _ = get(server, "/v2/models/add/infer", "POST", b'{"instances": [[1]]}')
    assert (
        status == 400
        and "the body has no inputs: an array of objects with name, shape, datatype and data" in body.decode()
    )
