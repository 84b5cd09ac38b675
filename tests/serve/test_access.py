"""The access log: which requests it has, that its lines are safe, and that what has no room is counted."""

import io
import json
import time

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_call import get
from serve_packages import X, package
from serve_start import FRONTS, need

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client
from headrace.serve.access import KEPT, AccessLog, Policy, line
from headrace.serve.config import ConfigError, Drain, Listen, Log, Settings
from headrace.serve.records import Record
from headrace.serve.server import Server

LEVELS = {  # level -> whether it wants (a failed one, a slow one, the first and the second of the others)
    "off": (False, False, False, False),
    "errors": (True, False, False, False),
    "slow": (True, True, False, False),
    "sampled:2": (True, True, False, True),
    "all": (True, True, True, True),
}


@pytest.mark.parametrize("level", LEVELS)
def test_levels(level):
    policy = Policy.of(Log(access=level, slow_ms=100))
    cases = [(False, 0.0, 1), (True, 0.2, 1), (True, 0.0, 1), (True, 0.0, 2)]
    assert tuple(policy.wants(*case) for case in cases) == LEVELS[level]


@pytest.mark.parametrize("level", ["sampled", "sampled:0", "sampled:x", "some", ""])
def test_levels_that_are_none(level):
    with pytest.raises(ConfigError, match="allowed are off, errors, slow, all and sampled:N"):
        Policy.of(Log(access=level))


@given(st.text(), st.text())
def test_a_line_is_one_line(model, name):
    text = line(model, "1", Record(5, 1_700_000_000_123, "grpc", name, "ok"))
    assert text.endswith("\n") and all(32 <= ord(c) < 127 for c in text[:-1])
    document = json.loads(text)
    assert document["id"] == name and document["model"] == model[:128]
    assert document["time"] == "2023-11-14T22:13:20.123Z"


def test_what_has_no_room_is_counted():
    out = io.StringIO()
    access = AccessLog(Log(access="all"), out)
    for number in range(KEPT + 3):
        access.add("m", "1", Record(number, number, "grpc", "", "ok"))
    access.drain()
    assert (access.lost, out.getvalue().count("\n")) == (3, KEPT)


def _serve(tmp_path, front, level):
    package(tmp_path / "double" / "1" / "model.hr", 2.0)
    listen = Listen("127.0.0.1", 0, 0, -1, front=front)
    log = Log(access=level, slow_ms=10_000, file=str(tmp_path / "access.log"))
    return Server(tmp_path, settings=Settings(listen=listen, drain=Drain(lame_duck_s=0), log=log))


def _infer(port, name="x", model="double", **fields):
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name=name, datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            return pb.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=20))
        except grpc.RpcError as error:
            return error.code().name


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("level", ["all", "errors"])
def test_over_the_wire(front, level, tmp_path):
    """The same lines whether a request went through C++ or Python: good ones, a bad one, one for a model that is not."""
    need(front)
    with _serve(tmp_path, front, level) as running:
        assert not isinstance(_infer(running.grpc_port, id="one\n"), str)
        assert _infer(running.grpc_port, name="z", id="bad") == "INVALID_ARGUMENT"
        assert _infer(running.grpc_port, model="no\x1bbody", id="lost") == "INVALID_ARGUMENT"
        with Client(f"http://127.0.0.1:{running.http_port}") as client:
            client.infer("double", x=X)
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "access.log").read_text().splitlines())}
    assert set(rows) == ({"one\n", "bad", "lost", ""} if level == "all" else {"bad", "lost"})
    assert (rows["bad"]["meaning"], rows["bad"]["model"]) == ("bad_argument", "double")
    assert rows["lost"]["model"] == "no\x1bbody"
    if level == "all":
        for row, front_name in ((rows["one\n"], "grpc"), (rows[""], "http")):
            assert (row["front"], row["meaning"], row["batch_rows"], row["batch_release"]) == (
                front_name,
                "ok",
                2,
                "alone",
            )
            assert row["response_bytes"] == X.nbytes < row["request_bytes"]
            assert row["total_us"] > 0 and row["batch_id"] >= 1


@pytest.mark.parametrize("front", FRONTS)
def test_a_request_that_cannot_be_read_is_accounted(front, tmp_path):
    """In the log and in the metrics, as any other refusal: a body that is no JSON, one without inputs, a wrong length, a
    message that is none, on its own and on a stream."""
    need(front)
    with _serve(tmp_path, front, "errors") as running:
        for path, body in (("infer", b'{"inputs":'), ("infer", b"{}"), ("generate", b"[]")):
            assert get(running, f"/v2/models/double/{path}", "POST", body)[0] == 400
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            unary = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                unary(b"\xff\xff\xff", timeout=20)
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            assert pb.ModelStreamInferResponse.FromString(next(stream(iter([b"\xff"]), timeout=20))).error_message
        assert running._plane.refusals == {("http", "bad_argument"): 3, ("grpc", "bad_argument"): 2}
    rows = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert sorted((row["front"], row["meaning"], row["model"], row["request_bytes"]) for row in rows) == [
        ("grpc", "bad_argument", "", 1),
        ("grpc", "bad_argument", "", 3),
        *(("http", "bad_argument", "double", size) for size in (2, 2, 10)),
    ]


@pytest.mark.parametrize("front", FRONTS)
def test_the_last_lines_of_a_model_that_is_unloaded(front, tmp_path):
    need(front)
    with _serve(tmp_path, front, "all") as running:
        _infer(running.grpc_port, id="last")
        with Client(f"127.0.0.1:{running.grpc_port}") as client:
            client.unload("double")
        end = time.monotonic() + 20
        while "last" not in (tmp_path / "access.log").read_text() and time.monotonic() < end:
            time.sleep(0.02)
    assert "last" in (tmp_path / "access.log").read_text()


@pytest.mark.parametrize("front", FRONTS)
def test_explain(front, tmp_path):
    """The facts of a request: phases, batch and kernels; batch numbers grow."""
    need(front)
    with _serve(tmp_path, front, "off") as running:
        request = {"parameters": {"headrace_explain": pb.InferParameter(bool_param=True)}}
        first, second = (_infer(running.grpc_port, **request).parameters for _ in range(2))
    phases = [f"headrace_{name}_us" for name in ("queue", "assemble", "compute", "scatter")]
    assert all(0 <= first[name].int64_param < 10_000_000 for name in phases)
    assert second["headrace_batch_id"].int64_param == first["headrace_batch_id"].int64_param + 1
    assert first["headrace_batch_rows"].int64_param == 2
    assert first["headrace_batch_release"].string_param == "alone"
    assert not first["headrace_cache_hit"].bool_param
    assert first["headrace_kernels"].string_param
    assert first["headrace_device"].string_param == "cpu"


def test_a_flood_of_errors_is_a_few_lines_and_a_count():
    out = io.StringIO()
    access = AccessLog(Log(access="slow", lines_per_s=3), out)
    start = 1_700_000_000_000
    for second in (0, 1):
        for number in range(50):
            access.add("m", "1", Record(5, start + 1000 * second + number, "grpc", str(number), "bad_argument"))
    access.add("m", "1", Record(5, start + 10, "grpc", "ours", "internal"))
    access.drain()
    rows = [json.loads(text) for text in out.getvalue().splitlines()]
    assert [row["id"] for row in rows if "id" in row] == ["0", "1", "2", "ours", "0", "1", "2"]
    over = {"meaning": "bad_argument", "suppressed": 47}
    assert [row for row in rows if "suppressed" in row] == [
        {"time": "2023-11-14T22:13:21.000Z"} | over,
        {"time": "2023-11-14T22:13:22.000Z"} | over,
    ]


@pytest.mark.parametrize("settings", [Log(access="slow", lines_per_s=0), Log(access="all", lines_per_s=1)])
def test_where_every_line_is_wanted_every_line_is_written(settings):
    out = io.StringIO()
    access = AccessLog(settings, out)
    for _ in range(50):
        access.add("m", "1", Record(5, 1_700_000_000_000, "grpc", "", "bad_argument"))
    access.drain(last=True)
    assert out.getvalue().count("bad_argument") == 50 == out.getvalue().count("\n")


def test_sampled_good_ones_are_not_suppressed():
    out = io.StringIO()
    access = AccessLog(Log(access="sampled:2", lines_per_s=1), out)
    for meaning in ("ok", "expired"):
        for _ in range(9):
            access.add("m", "1", Record(5, 1_700_000_000_000, "grpc", "", meaning))
    access.drain(last=True)
    text = out.getvalue()
    assert (text.count('"ok"'), text.count('"id"'), text.count('"suppressed":8')) == (9, 10, 1)


@pytest.mark.parametrize("front", FRONTS)
def test_a_client_that_only_errs_writes_little(front, tmp_path):
    need(front)
    with _serve(tmp_path, front, "slow") as running, grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        data = pb.ModelInferRequest(model_name="double").SerializeToString()
        for _ in range(200):
            assert call.future(data, timeout=20).code() is grpc.StatusCode.INVALID_ARGUMENT
    rows = [json.loads(text) for text in (tmp_path / "access.log").read_text().splitlines()]
    lines = [row for row in rows if "id" in row]
    assert len(lines) < 60 and len(lines) + sum(row.get("suppressed", 0) for row in rows) == 200
