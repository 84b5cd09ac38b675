"""Verbs over both fronts, through our own client and, where the wire matters, without it."""

import json
import struct
import threading
import time

import grpc
import ml_dtypes
import numpy as np
import pytest
import serve_fake
from serve_call import get
from serve_packages import X, package
from serve_start import FRONTS, need, start

from headrace.protos import health_pb2 as health
from headrace.protos import inference_pb2 as pb
from headrace.serve import Client
from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.datatypes import DATATYPES, decode_bytes
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.server import Server

V2 = "/inference.GRPCInferenceService/"


@pytest.fixture(params=["grpc", "rest"])
def client(request, server):
    url = f"127.0.0.1:{server.grpc_port}" if request.param == "grpc" else f"http://127.0.0.1:{server.http_port}"
    with Client(url) as opened:
        yield opened


def call(channel, method, request, answer):
    data = channel.unary_unary(V2 + method)(request.SerializeToString(), timeout=20)
    return answer.FromString(data)


def sample(datatype):
    row = DATATYPES[datatype]
    if datatype == "BYTES":
        out = np.empty((2, 2), object)
        out[:] = [[b"", b"\0\xff"], ["ä€".encode(), b"x" * 300]]
        return out
    if datatype == "BOOL":
        return np.array([[True, False], [False, True]])
    data = bytes(range(256))[: 4 * row.size] if row.dtype.kind in "iu" else None
    if data is not None:
        return np.frombuffer(data, row.dtype).reshape(2, 2)
    values = np.array([[np.nan, -np.inf], [-0.0, 1e-40]], np.float64)
    with np.errstate(all="ignore"):
        return values.astype(row.dtype)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_comes_back_bit_for_bit(client, datatype):
    x = sample(datatype)
    y = client.infer(datatype.lower(), x=x)["y"]
    assert y.shape == x.shape and y.dtype == x.dtype
    assert y.tolist() == x.tolist() if x.dtype == object else y.tobytes() == x.tobytes()


def test_load_report(server):
    """In the form that was asked for, and only then."""
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]})
    reports = {}
    while server._plane.load_report("http")["waiting"]:  # what other tests gave up leaves its queue when it is its turn
        time.sleep(0.01)
    for form in ("text", "JSON", "xml", None):
        headers = {"endpoint-load-metrics-format": form} if form else {}
        status, _, answer = get(server, "/v2/models/fp32/infer", "POST", body, headers)
        reports[form] = answer["endpoint-load-metrics"]
        assert status == 200
    assert reports["xml"] is reports[None] is None
    kind, _, document = reports["JSON"].partition(" ")
    found = json.loads(document)
    assert kind == "JSON" and found["named_metrics"]["waiting"] == 0
    assert 0 <= found["application_utilization"] <= 1 and found["named_metrics"]["inflight"] >= 0
    assert reports["text"].startswith("TEXT application_utilization=0")
    assert ", named_metrics.waiting=0" in reports["text"]


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_empty_tensors(client, datatype):
    x = np.empty((1, 0), DATATYPES[datatype].dtype)
    assert client.infer(datatype.lower(), x=x)["y"].shape == (1, 0)


def test_large_tensor(client):
    x = np.arange(200_000, dtype=np.float32).reshape(4, -1)
    assert client.infer("fp32", x=x)["y"].tobytes() == x.tobytes()


def test_answers_of_many_sizes_side_by_side(channel):
    """On one connection, so that frames of all of them alternate; odd names make the tensors lie unaligned."""
    widths = [1, 2, 900, 1020, 1030, 4090, 4100, 16_000, 70_000, 130_000, 200_000, 260_000]
    waiting = []
    for n, width in enumerate(widths * 3):
        x = np.arange(n, n + width, dtype=np.float32)
        message = pb.ModelInferRequest(model_name="fp32", id="i" * (n % 7))
        message.inputs.add(name="x", datatype="FP32", shape=[1, width])
        message.raw_input_contents.append(x.tobytes())
        waiting.append((x, channel.unary_unary(V2 + "ModelInfer").future(message.SerializeToString(), timeout=30)))
    for n, (x, future) in enumerate(waiting):
        answer = pb.ModelInferResponse.FromString(future.result())
        assert answer.id == "i" * (n % 7) and answer.raw_output_contents[0] == x.tobytes()


def test_chosen_outputs_and_errors(client):
    x = np.ones((1, 4), np.float32)
    assert list(client.infer("add", outputs=["difference"], a=x, b=x)) == ["difference"]
    assert list(client.infer("add", version=1, a=x, b=x)) == ["sum", "difference"]
    with pytest.raises(ServeError, match="input 'b' is missing") as caught:
        client.infer("add", a=x)
    assert caught.value.meaning is Meaning.BAD_ARGUMENT
    with pytest.raises(ServeError, match="no wire form"):
        client.infer("add", a=np.ones((1, 4), ml_dtypes.float8_e4m3fn), b=x)


def test_metadata_config_statistics(client):
    assert client.metadata()["name"] == "headrace"
    facts = client.metadata("add")
    assert facts["versions"] == ["1"] and facts["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 4]}
    assert facts["properties"]["headrace.batching"].startswith("on")
    assert client.metadata("dependent")["properties"]["headrace.batching"] == "off: node 'mean' mixes rows"
    config = client.config("add")
    assert config["max_batch_size"] == 256 and config["input"][0] == {
        "name": "a",
        "data_type": "TYPE_FP32",
        "dims": [4],
    }
    assert "dynamic_batching" in config and "dynamic_batching" not in client.config("dependent")
    before = client.statistics("fp64")[0]
    client.infer("fp64", x=np.ones((3, 2)))
    after = client.statistics("fp64")[0]
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 3
    assert {row["name"] for row in client.statistics()} >= {"add", "fp32"}


def test_every_field_of_the_statistics(client, server):
    """An empty message means "never": every field is there, and counts what happened."""
    names = {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    before = server._plane.statistics("uint16", "1")["model_stats"][0]
    for rows in (2, 2, 3):
        client.infer("uint16", x=np.ones((rows, 1), np.uint16))
    with pytest.raises(ServeError):
        client.infer("uint16", z=np.ones((1, 1), np.uint16))
    after = server._plane.statistics("uint16", "1")["model_stats"][0]
    assert set(after) == {field.name for field in pb.ModelStatistics.DESCRIPTOR.fields}
    assert set(after["inference_stats"]) == names
    counts = lambda row, name: row["inference_stats"][name]["count"]  # noqa: E731
    assert counts(after, "success") - counts(before, "success") == 3 and after["last_inference"] > 1.6e12
    assert counts(after, "fail") - counts(before, "fail") == 1
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["inference_count"] - before["inference_count"] == 7
    sizes, earlier = (
        {row["batch_size"]: row["compute_infer"]["count"] for row in shown["batch_stats"]} for shown in (after, before)
    )  # other tests of this server count as well
    assert sizes[2] - earlier.get(2, 0) == 2 and sizes[3] - earlier.get(3, 0) == 1
    assert set(after["response_stats"]["0"]) == {f.name for f in pb.InferResponseStatistics.DESCRIPTOR.fields}
    assert after["memory_usage"][0]["type"] == "CPU"
    told = client.statistics("uint16", 1)[0]  # the same over the wire, where empty and absent are one
    assert int(told["inference_count"]) == after["inference_count"]
    assert {int(r["batch_size"]) for r in told["batch_stats"]} == set(sizes) and "0" in told["response_stats"]


def test_inputs_may_have_any_name(client):
    x = np.ones((1, 4), np.float32)
    assert set(client.infer("add", {"a": x, "b": x})) == {"sum", "difference"}
    assert set(client.infer("add", {"a": x}, b=x, outputs=["sum"])) == {"sum"}
    for name in ("version", "outputs", "model", "inputs", "self"):
        with pytest.raises(ServeError, match=f"input '{name}' is unknown"):
            client.infer("add", {"a": x, name: x})


@pytest.mark.parametrize("front", FRONTS)
def test_a_label_stands_wherever_a_version_does(tmp_path, front):
    need(front)
    for version in (1, 2):
        package(tmp_path / f"m/{version}/model.hr", version)
    config = '[versions]\npolicy = "all"\nlabels = {{stable = {0}, canary = 2}}\n'
    (tmp_path / "m/config.toml").write_text(config.format(1))
    settings = Settings(listen=Listen("127.0.0.1", 0, 0, -1, front=front), drain=Drain(0, 5))
    with Server(tmp_path, settings=settings) as own:
        for url in (f"127.0.0.1:{own.grpc_port}", f"http://127.0.0.1:{own.http_port}"):
            with Client(url) as client:
                for version, factor in (("", 2), (1, 1), (2, 2), ("stable", 1), ("canary", 2)):
                    assert (client.infer("m", x=X, version=version)["y"] == factor * X).all()
                assert client.ready("m", "stable") and not client.ready("m", "beta")
                assert client.metadata("m", "canary")["versions"] == ["1", "2"]
                assert client.config("m", "stable")["name"] == "m"
                assert [row["version"] for row in client.statistics("m", "stable")] == ["1"]
                with pytest.raises(ServeError, match="no label 'beta'; it has stable, canary") as caught:
                    client.infer("m", x=X, version="beta")
                assert caught.value.meaning is Meaning.NOT_FOUND
        with Client(f"127.0.0.1:{own.grpc_port}") as client:
            (tmp_path / "m/config.toml").write_text(config.format(2))
            client.load("m")
            assert (client.infer("m", x=X, version="stable")["y"] == 2 * X).all()


def test_the_policy_shows_in_the_configuration(tmp_path):
    serve_fake.repository(tmp_path, {"m/1": "scale 1", "m/2": "scale 2", "n": "scale 1"})
    (tmp_path / "m/config.toml").write_text("[versions]\npolicy = 'specific'\nkeep = [1, 2]\n[queue]\ntimeout_ms = 5\n")
    with start(tmp_path) as own, Client(f"127.0.0.1:{own.grpc_port}") as client:
        config = client.config("m")
        assert config["version_policy"] == {"specific": {"versions": [1, 2]}}
        assert config["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 5000
        assert client.config("n")["version_policy"] == {"latest": {"num_versions": 1}}
        assert client.metadata("m")["versions"] == ["1", "2"]


@pytest.mark.parametrize("kind", ["System", "Cuda"])
def test_shared_memory_is_refused_clearly(server, channel, kind):
    """Off: registering is refused with the reason, asking and forgetting are answered as with nothing registered."""
    name = f"{kind}SharedMemory"
    status = call(channel, f"{name}Status", getattr(pb, f"{name}StatusRequest")(), getattr(pb, f"{name}StatusResponse"))
    assert not status.regions
    call(channel, f"{name}Unregister", getattr(pb, f"{name}UnregisterRequest")(), pb.ServerLiveResponse)
    for method, code in (("Register", grpc.StatusCode.UNIMPLEMENTED), ("Status", grpc.StatusCode.NOT_FOUND)):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, f"{name}{method}", getattr(pb, f"{name}{method}Request")(name="r"), pb.ServerLiveResponse)
        assert caught.value.code() is code and "shared memory" in caught.value.details()
    path = f"/v2/{kind.lower()}sharedmemory"
    assert get(server, f"{path}/status")[:2] == (200, b"[]")
    assert get(server, f"{path}/region/r/status")[0] == 404
    assert get(server, f"{path}/region/r/register", "POST", b"{}")[0] == 501
    assert get(server, f"{path}/unregister", "POST")[0] == 200


def test_all_twenty_methods_answer(channel):
    """None is unknown to the server."""
    methods = [m.name for m in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
    assert len(methods) == 20
    for method in methods:
        try:
            list(channel.stream_stream(V2 + method)(iter([b""]), timeout=20))
        except grpc.RpcError as error:
            assert "Method not found" not in error.details()


def test_ready_and_index(client):
    assert client.ready("add") and not client.ready("bad") and not client.ready("nope")
    assert not client.ready()  # a start-up model failed
    rows = {row["name"]: row for row in client.index()}
    assert rows["add"]["state"] == "READY" and rows["bad"]["state"] == "UNAVAILABLE"
    assert "bound 0.001" in rows["wrong"]["reason"]


def test_load_and_unload(client):
    client.unload("uint64")
    with pytest.raises(ServeError) as caught:
        client.infer("uint64", x=np.ones((1, 1), np.uint64))
    assert caught.value.meaning is Meaning.UNAVAILABLE
    client.load("uint64")
    assert client.ready("uint64")
    for verb, name, meaning in ((client.load, "nope", Meaning.NOT_FOUND), (client.load, "bad", Meaning.UNAVAILABLE)):
        with pytest.raises(ServeError) as caught:
            verb(name)
        assert caught.value.meaning is meaning


def test_model_failure_is_an_incident_without_details(client):
    with pytest.raises(ServeError) as caught:
        client.infer("poison", x=np.full((1, 4), 666, np.float32))
    assert caught.value.meaning is Meaning.INTERNAL and caught.value.text.startswith("internal error, incident ")
    assert client.infer("poison", x=np.ones((1, 4), np.float32))["y"][0, 0] == 2


def test_poison_harms_only_its_own_row(server):
    """Concurrent requests to a slow batch: the raising one alone fails."""
    outcomes = {}

    def send(value):
        with Client(f"127.0.0.1:{server.grpc_port}") as own:
            try:
                outcomes[value] = own.infer("poison", x=np.full((1, 4), value, np.float32))["y"][0, 0]
            except ServeError as error:
                outcomes[value] = error.meaning

    threads = [threading.Thread(target=send, args=(v,)) for v in (1, 2, 3, 666, 5, 6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcomes == {v: 2 * v for v in (1, 2, 3, 5, 6, 7, 8)} | {666: Meaning.INTERNAL}


# ---- gRPC ----


def infer_message(model="add", **fields):
    message = pb.ModelInferRequest(model_name=model, **fields)
    for name in "ab":
        message.inputs.add(name=name, datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    return message


def test_typed_contents(channel):
    answer = call(channel, "ModelInfer", infer_message(id="abc"), pb.ModelInferResponse)
    assert (
        answer.id == "abc" and answer.model_version == "1" and [o.name for o in answer.outputs] == ["sum", "difference"]
    )
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6, 8]
    message = pb.ModelInferRequest(model_name="bytes")
    message.inputs.add(name="x", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend([b"\0", b"bc"])
    answer = call(channel, "ModelInfer", message, pb.ModelInferResponse)
    assert decode_bytes(answer.raw_output_contents[0], 2).tolist() == [b"\0", b"bc"]


def test_classification(channel):
    message = pb.ModelInferRequest(model_name="fp32", raw_input_contents=[struct.pack("<4f", 1, 5, np.nan, 5)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    answer = call(channel, "ModelInfer", message, pb.ModelInferResponse)
    assert answer.outputs[0].datatype == "BYTES" and list(answer.outputs[0].shape) == [1, 3]
    assert decode_bytes(answer.raw_output_contents[0], 3).tolist() == [b"5.000000:1", b"5.000000:3", b"1.000000:0"]


def test_explain(channel):
    message = infer_message()
    message.parameters["headrace_explain"].bool_param = True
    answer = call(channel, "ModelInfer", message, pb.ModelInferResponse)
    assert answer.parameters["headrace_batch_rows"].int64_param == 1


def test_deadline(channel):
    with pytest.raises(grpc.RpcError) as caught:
        message = pb.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(16)])
        message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        message.parameters["timeout"].int64_param = 1
        for _ in range(3):  # the first may be quick enough to lead
            call(channel, "ModelInfer", message, pb.ModelInferResponse)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_cancel_leaves_the_queue(server, channel):
    message = pb.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(16)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    infer = channel.unary_unary(V2 + "ModelInfer")
    running = [infer.future(message.SerializeToString(), timeout=20) for _ in range(2)]
    waiting = infer.future(message.SerializeToString(), timeout=20)
    waiting.cancel()
    assert all(one.result() for one in running)
    assert waiting.cancelled()


def test_stream(channel):
    stream = channel.stream_stream(V2 + "ModelStreamInfer")
    sent = [infer_message(id="1"), infer_message("nope", id="2"), infer_message(id="3")]
    answers = [pb.ModelStreamInferResponse.FromString(a) for a in stream(m.SerializeToString() for m in sent)]
    assert [a.infer_response.id for a in answers] == ["1", "2", "3"]
    assert [bool(a.error_message) for a in answers] == [False, True, False]
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param
    strict = stream((m.SerializeToString() for m in sent), metadata=(("triton_grpc_error", "true"),))
    next(strict)
    with pytest.raises(grpc.RpcError) as caught:
        next(strict)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_kserve_load_and_the_alias_service(channel):
    request = pb.RepositoryModelLoadRequest(repository_name="add")  # field 1: the model, as KServe sends it
    answer = call(channel, "RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
    assert answer.model_name == "add" and answer.isLoaded
    index = channel.unary_unary("/inference.model_repository.ModelRepositoryService/RepositoryIndex")(b"")
    assert pb.RepositoryIndexResponse.FromString(index).models
    request = pb.RepositoryModelLoadRequest(model_name="add")
    for key in ("config", "file:1/model.hr"):
        request.parameters[key].string_param = "{}"
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        request.parameters.clear()


def test_the_alias_service_loads_and_unloads(channel):
    """MLServer's repository service: other names, the same bytes."""
    alias = "/inference.model_repository.ModelRepositoryService/RepositoryModel"
    request = pb.RepositoryModelLoadRequest(model_name="uint32").SerializeToString()
    ready = pb.ModelReadyRequest(name="uint32")
    for verb, state in (("Unload", False), ("Load", True)):
        channel.unary_unary(alias + verb)(request, timeout=20)
        assert call(channel, "ModelReady", ready, pb.ModelReadyResponse).ready is state


def check(channel, service):
    data = health.HealthCheckRequest(service=service).SerializeToString()
    return health.HealthCheckResponse.FromString(channel.unary_unary("/grpc.health.v1.Health/Check")(data)).status


def test_health(channel):
    assert check(channel, "") == health.HealthCheckResponse.NOT_SERVING
    assert check(channel, "add") == health.HealthCheckResponse.SERVING
    assert check(channel, "bad") == health.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(channel, "nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    stream = watch(health.HealthCheckRequest(service="nope").SerializeToString())
    assert health.HealthCheckResponse.FromString(next(stream)).status == health.HealthCheckResponse.SERVICE_UNKNOWN
    stream.cancel()


def test_health_watch_tells_every_change(tmp_path):
    """A name that is not known yet, its load, its unload, and the end of the server."""
    states = health.HealthCheckResponse
    serve_fake.repository(tmp_path, {"m": "scale 1"})
    with start(tmp_path) as own, grpc.insecure_channel(f"127.0.0.1:{own.grpc_port}") as opened:
        watch = opened.unary_stream("/grpc.health.v1.Health/Watch")
        late = watch(health.HealthCheckRequest(service="late").SerializeToString(), timeout=60)
        whole = watch(health.HealthCheckRequest(service=V2.strip("/")).SerializeToString(), timeout=60)
        told = lambda stream: states.FromString(next(stream)).status  # noqa: E731
        assert told(late) == states.SERVICE_UNKNOWN and told(whole) == states.SERVING
        serve_fake.repository(tmp_path, {"late": "scale 1"})
        with Client(f"127.0.0.1:{own.grpc_port}") as client:
            client.load("late")
            assert told(late) == states.SERVING
            client.unload("late")
            assert told(late) == states.NOT_SERVING
        own._plane.set_draining()
        assert told(whole) == states.NOT_SERVING


def test_a_path_that_is_no_utf8_does_not_end_the_server(server, channel):
    """The frame that ends the accept loop of a grpc.aio server."""
    import socket

    path = b"/\xff\xfe"
    block = (
        b"\x83\x86"
        + b"\x44"
        + bytes([len(path)])
        + path
        + b"\x41\x01a"
        + b"\x5f\x10application/grpc"
        + b"\x40\x02te\x08trailers"
    )
    frame = len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block
    with socket.create_connection(("127.0.0.1", server.grpc_port)) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + frame)
        time.sleep(0.1)
    assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live


def test_metrics(server):
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.infer("int16", x=np.ones((2, 2), np.int16))
    status, data, _ = get(server, "/metrics", port=server.metrics_port)
    text = data.decode()
    assert status == 200
    assert 'nv_inference_count{model="int16",version="1"}' in text
    assert 'headrace_request_seconds_bucket{front="grpc",le="0.0001",model="int16",version="1"}' in text
    assert 'headrace_batch_release_total{model="int16",reason="alone",version="1"}' in text
    with pytest.raises(ServeError), Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.infer("client-text-never-a-label", x=np.ones(1))
    assert "client-text" not in get(server, "/metrics", port=server.metrics_port)[1].decode()
    assert get(server, "/other", port=server.metrics_port)[0] == 404


assert serve_fake  # the models of the fixtures
