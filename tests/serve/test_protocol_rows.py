"""Facts of the protocol that no other test pins, and the list of all of them (docs/protocol-facts.md): every row has a test."""

import ast
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import grpc
import ml_dtypes
import numpy as np
import pytest
import serve_call
import serve_fake
from serve_start import FRONTS, need

from headrace.cli.serve import command as serve_command
from headrace.protos import health_pb2 as health
from headrace.protos import inference_pb2 as pb
from headrace.serve import Client, classify
from headrace.serve.config import Drain, Listen, Log, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.server import Server

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "protocol-facts.md"
ONE = np.arange(4, dtype=np.float32).reshape(1, 4)


def rows():
    """(fact, tests) of every row of the tables: tests as `file::function`, or `file::function[case]`."""
    found = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 2 and cells[0] not in ("fact", "---"):
            found.append((cells[0], re.findall(r"`([^`]+)`", cells[1])))
    return found


def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("fact", "tests"), rows(), ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_every_fact_has_a_test(fact, tests):
    assert tests, f"no test: {fact}"
    for test in tests:
        file, name, case = re.fullmatch(r"([\w/]+)::(\w+)(?:\[(.+)\])?", test).groups()
        path = HERE / f"{file}.py"
        assert path.is_file() and name in functions(path), test
        assert case is None or f'"{case}"' in path.read_text(), test


def test_the_list_is_whole():
    """A row for each call, each datatype, each meaning of an error."""
    text = TABLE.read_text(encoding="utf-8")
    assert len(rows()) > 110
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        assert f"| {method.name}" in text, method.name
    for datatype in serve_fake.DTYPES:
        assert re.search(rf"\b{datatype}\b", text), datatype
    for meaning in Meaning:
        assert f"| {meaning.value}:" in text, meaning


# ---- identity and ports ----


def test_default_ports():
    listen = Listen()
    assert (listen.http_port, listen.grpc_port, listen.metrics_port, listen.host) == (8000, 8001, 8002, "127.0.0.1")


def test_arguments_of_kserve(tmp_path):
    """The runtime's command line, for one package at the top of the folder; `--allow-http=false` closes a port."""
    from serve_packages import package

    package(tmp_path / "model.hr", 2.0)
    command = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        f"--model-store={tmp_path}",
        "--model-name=digits",
        "--json",
    ]
    command += ["--http-port=0", "--grpc-port=0", "--metrics-port=0", "--allow-grpc=true", "--allow-http=false"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            text += process.stdout.readline()
        ports = json.loads(text)
        assert ports["http"] == -1 and ports["metrics"] > 0
        with Client(f"127.0.0.1:{ports['grpc']}") as client:
            x = np.ones((1, 2), np.float32)
            assert client.infer("digits", version=1, x=x)["y"].tolist() == [[2.0, 2.0]]
    finally:
        process.terminate()  # once: a second one would not wait for the drain
        assert process.wait(30) == 0


def test_the_runtime_of_kserve_names_what_exists(server):
    """Its arguments are options of the command, its probes are paths of the server."""
    text = (HERE.parents[1] / "deploy/kserve.yaml").read_text()
    options = {name for option in serve_command.params for name in option.opts}
    named = set(re.findall(r"(--[a-z-]+)=", text))
    assert named and named <= options
    for path, status in (("/v2/health/live", 200), ("/v2/health/ready", 400)):  # a start-up model of this server failed
        assert path in text and serve_call.rest(server, "GET", path)[0] == status


def test_extensions_are_those_that_are_on(server):
    found = server._plane.server_metadata()["extensions"]
    assert "classification" in found and "trace" not in found and "system_shared_memory" not in found


def test_the_name_of_the_service_is_the_server(server, channel):
    check = channel.unary_unary("/grpc.health.v1.Health/Check")

    def status(name):
        asked = health.HealthCheckRequest(service=name).SerializeToString()
        return health.HealthCheckResponse.FromString(check(asked, timeout=20)).status

    assert status("inference.GRPCInferenceService") == status("")


# ---- requests and answers ----


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_outputs_come_in_the_order_that_was_asked_for(server, how):
    feeds = {"a": ONE, "b": ONE}
    asked = [{"name": "difference"}, {"name": "sum"}]
    assert list(serve_call.infer(server, how, "add", feeds, outputs=asked)[0]) == ["difference", "sum"]
    assert list(serve_call.infer(server, how, "add", feeds)[0]) == ["sum", "difference"]


@pytest.mark.parametrize("name", ["", "ä€ 𝄞", "a\n\t\x01", "x" * 1024])
def test_an_id_comes_back_as_it_was(server, channel, name):
    request = serve_call.message("fp32", {"x": ONE}, id=name)
    assert serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse).id == name
    document = {"id": name, "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
    status, body = serve_call.rest(server, "POST", "/v2/models/fp32/infer", document)
    assert status == 200 and json.loads(body).get("id", "") == name


def test_payloads_of_nan_stay(channel):
    """Quiet and signalling, both signs, through raw and typed contents; denormals and -0 as well."""
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0xFF800001, 0x80000000, 0x00000001], np.uint32)
    request = pb.ModelInferRequest(model_name="fp32", raw_input_contents=[bits.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 6])
    answer = serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse)
    assert np.frombuffer(answer.raw_output_contents[0], np.uint32).tolist() == bits.tolist()
    quiet = bits[[0, 1, 4, 5]]
    wide = np.array([0x7FF8000000000001, 0x8000000000000000], np.uint64)
    for model, datatype, field, values in (("fp32", "FP32", 6, quiet), ("fp64", "FP64", 7, wide)):
        request = pb.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
        data = values.tobytes()  # packed by hand: Python's numbers would change a payload
        tensor.contents.MergeFromString(bytes([field << 3 | 2, len(data)]) + data)
        answer = serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse)
        assert np.frombuffer(answer.raw_output_contents[0], values.dtype).tolist() == values.tolist(), datatype


def test_any_raw_truth_is_true(channel):
    request = pb.ModelInferRequest(model_name="bool", raw_input_contents=[b"\x00\x01\x02\xff"])
    request.inputs.add(name="x", datatype="BOOL", shape=[1, 4])
    answer = serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse)
    assert answer.raw_output_contents[0] == b"\x00\x01\x01\x01"


def test_bf16_is_rounded_to_nearest_even(server):
    """What a client sends as BF16 are `ml_dtypes` arrays; their conversion from FP32 rounds."""
    x = np.array([[1.00390625, 1.01171875, 1.004, -1.00390625]], np.float32).astype(ml_dtypes.bfloat16)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        found = client.infer("bf16", x=x)["y"]
    assert found.view(np.uint16).tolist() == [[0x3F80, 0x3F82, 0x3F81, 0xBF80]]
    with Client(f"127.0.0.1:{server.grpc_port}") as client, pytest.raises(ServeError, match="expected BF16"):
        client.infer("bf16", x=np.ones((1, 1), np.float32))


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_custom_parameters_of_every_kind_are_borne(server, how):
    custom = {"text": "x", "truth": True, "whole": -5, "fraction": 0.5, "headers": "a"}
    assert serve_call.infer(server, how, "fp32", {"x": ONE}, custom)[0]["y"].tolist() == ONE.tolist()


@pytest.mark.parametrize("key", ["priority", "timeout"])
@pytest.mark.parametrize(
    ("field", "value", "good"),
    [
        ("int64_param", 2**40, True),
        ("uint64_param", 2**40, True),
        ("int64_param", -1, False),
        ("bool_param", True, False),
        ("string_param", "1", False),
        ("double_param", 1.0, False),
    ],
)
def test_integers_come_as_int64_or_uint64(channel, key, field, value, good):
    request = serve_call.message("fp32", {"x": ONE})
    setattr(request.parameters[key], field, value if key == "timeout" or not good else 0)
    if good:
        assert serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse).outputs
        return
    with pytest.raises(ServeError, match=key) as caught:
        serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse)
    assert caught.value.meaning is Meaning.BAD_ARGUMENT


def test_rest_refuses_what_is_for_streams(server):
    with pytest.raises(ServeError, match="triton_enable_empty_final_response") as caught:
        serve_call.infer(server, "http", "fp32", {"x": ONE}, {"triton_enable_empty_final_response": True})
    assert caught.value.meaning is Meaning.BAD_ARGUMENT


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint64, np.bool_])
def test_classes_of_every_kind(dtype):
    """Six decimals of a fraction, a whole number as it is; never more than there are."""
    scores = np.array([[0, 3, 1, 3]]).astype(dtype)
    found = classify.top(scores, 2**60, batched=True)
    assert found.shape == (1, 4) and found[0, 0] == {"i": b"3:1", "u": b"3:1", "b": b"1:1"}.get(
        scores.dtype.kind, b"3.000000:1"
    )
    assert classify.top(scores[0], 2, batched=False).shape == (2,)


def test_typed_answers_are_an_option(tmp_path):
    models = {"fp32": "identity FP32", "bytes": "identity BYTES", "fp16": "identity FP16", "uint8": "identity UINT8"}
    root = serve_fake.repository(tmp_path, models)
    for front, on in ((front, on) for front in FRONTS for on in (True, False)):
        need(front)
        listen = Listen("127.0.0.1", 0, -1, -1, front=front, typed_answers=on)
        settings = Settings(listen=listen, drain=Drain(lame_duck_s=0), log=Log(access="off"))
        with Server(root, settings=settings, loader=serve_fake.load) as server, serve_call.channel(server) as channel:
            for model, field, values in (("fp32", "fp32_contents", [1.5]), ("bytes", "bytes_contents", [b"a\0"]), ("uint8", "uint_contents", [255])):  # fmt: skip
                request = pb.ModelInferRequest(model_name=model, id="t")
                tensor = request.inputs.add(name="x", datatype=model.upper(), shape=[1, 1])
                getattr(tensor.contents, field).extend(values)
                answer = serve_call.unary(channel, "ModelInfer", request, pb.ModelInferResponse)
                assert list(getattr(answer.outputs[0].contents, field)) == (values if on else [])
                assert bool(answer.raw_output_contents) is not on and answer.id == "t"
            raw = serve_call.message("fp32", {"x": ONE})  # a raw request has a raw answer in any case
            assert serve_call.unary(channel, "ModelInfer", raw, pb.ModelInferResponse).raw_output_contents


# ---- repository ----


@pytest.mark.parametrize("front", FRONTS)
def test_the_index_has_every_version(front, tmp_path):
    """Each with its state; `ready` filters; one that was never loaded has none; no other repository is known."""
    need(front)
    root = serve_fake.repository(tmp_path, {"m/1": "scale 1", "m/2": "scale 2", "bad": "nonsense"})
    (root / "m/config.toml").write_text('[versions]\npolicy = "all"\n')
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, -1, front=front), drain=Drain(lame_duck_s=0), log=Log(access="off")
    )
    with Server(root, settings=settings, loader=serve_fake.load) as server:
        serve_fake.repository(root, {"later": "scale 3"})
        status, body = serve_call.rest(server, "POST", "/v2/repository/index", {"ready": True})
        assert status == 200
        assert [(row["name"], row["version"], row["state"]) for row in json.loads(body)] == [
            ("m", "1", "READY"), ("m", "2", "READY"),
        ]  # fmt: skip
        with serve_call.channel(server) as channel:
            request, kind = pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse
            found = {
                (m.name, m.version): m.state for m in serve_call.unary(channel, "RepositoryIndex", request, kind).models
            }
            assert found == {("m", "1"): "READY", ("m", "2"): "READY", ("bad", "1"): "UNAVAILABLE", ("later", ""): ""}
            with pytest.raises(ServeError, match="repository 'other' is unknown"):
                serve_call.unary(channel, "RepositoryIndex", pb.RepositoryIndexRequest(repository_name="other"), kind)
        assert serve_call.rest(server, "POST", "/v2/repository/other/index")[0] == 404
        assert serve_call.rest(server, "POST", "/v2/repository/other/models/m/load")[0] == 404


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_a_queue_may_forbid_its_timeouts_to_be_changed(how, tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "slow 0.2"})
    (root / "m/config.toml").write_text("[queue]\ntimeout_override = false\n[batching]\nmax_batch_size = 0\n")
    settings = Settings(listen=Listen("127.0.0.1", 0, 0, -1), drain=Drain(lame_duck_s=0), log=Log(access="off"))
    with Server(root, settings=settings, loader=serve_fake.load) as server:
        for _ in range(2):  # one microsecond would be over at once
            assert serve_call.infer(server, how, "m", {"x": ONE}, {"timeout": 1})[0]["y"].tolist() == (ONE * 2).tolist()


# ---- REST bodies ----


def test_an_explicit_form_of_an_output_wins_over_the_default(server):
    tensor = {"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    document = {
        "inputs": [tensor | {"name": "a"}, tensor | {"name": "b"}],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}],
    }
    status, body = serve_call.rest(server, "POST", "/v2/models/add/infer", document)
    end = len(body) - 16
    answer = json.loads(body[:end])
    assert status == 200 and body[end:] == struct.pack("<4f", 0, 0, 0, 0)
    assert answer["outputs"][0]["data"] == [2, 4, 6, 8] and "data" not in answer["outputs"][1]


@pytest.mark.parametrize("data", [[[1, 2], [3, 4]], [1, 2, 3, 4]])
def test_nested_and_flat_data_are_the_same(server, data):
    document = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "INT32", "data": data}]}
    status, body = serve_call.rest(server, "POST", "/v2/models/int32/infer", document)
    assert status == 200 and json.loads(body)["outputs"][0] == {
        "name": "y", "shape": [2, 2], "datatype": "INT32", "data": [1, 2, 3, 4],
    }  # fmt: skip


def test_errors_are_one_object_with_one_text(server):
    for method, path, status in (
        ("GET", "/v2/models/nope", 404), ("GET", "/v2/no/such/path", 404), ("DELETE", "/v2", 405),
        ("POST", "/v2/models/add/infer", 400), ("POST", "/v2/models/bad/infer", 400),
    ):  # fmt: skip
        found, body = serve_call.rest(server, method, path)
        assert found == status and list(json.loads(body)) == ["error"] and isinstance(json.loads(body)["error"], str)


def test_an_alien_path_is_no_call(channel):
    for path in (
        "/inference.GRPCInferenceService/Nope",
        "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/Ping",
    ):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
