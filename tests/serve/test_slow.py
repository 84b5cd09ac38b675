"""The slowest requests: the right ones are kept, from both paths, with their phases."""

import json
import urllib.request

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_packages import X, package
from serve_start import FRONTS, need

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client
from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.records import Record
from headrace.serve.server import Server
from headrace.serve.slow import KEPT, WINDOW_SECONDS, Slowest


@given(st.lists(st.integers(0, 1000), max_size=3 * KEPT))
def test_the_slowest_are_kept(times):
    slowest = Slowest(clock=lambda: 0.0)
    for i, micros in enumerate(times):
        if slowest.is_slow(micros / 1e6 + 1e-9):
            slowest.add(Record(micros, i, "grpc", "", "ok"))
    assert [one.total_us for one in slowest.show()] == sorted(times, reverse=True)[:KEPT]


def test_old_ones_go():
    now = 0.0
    slowest = Slowest(clock=lambda: now)
    slowest.add(Record(9, 0, "grpc", "old", "ok"))
    now = WINDOW_SECONDS
    slowest.add(Record(5, 1, "grpc", "new", "ok"))
    assert [one.id for one in slowest.show()] == ["old", "new"]
    now = 2 * WINDOW_SECONDS
    assert [one.id for one in slowest.show()] == ["new"]
    now = 4 * WINDOW_SECONDS
    assert slowest.show() == []


@pytest.mark.parametrize("front", FRONTS)
def test_over_the_wire(front, tmp_path):
    """Ids from gRPC (through C++ on the native front) and REST; phases that add up; refused ones, too."""
    need(front)
    package(tmp_path / "double" / "1" / "model.hr", 2.0)
    settings = Settings(listen=Listen("127.0.0.1", 0, 0, 0, front=front), drain=Drain(lame_duck_s=0))
    with Server(tmp_path, settings=settings) as running:
        request = pb.ModelInferRequest(model_name="double", id="über")
        request.inputs.add(name="x", datatype="FP32", shape=X.shape)
        request.raw_input_contents.append(X.tobytes())
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            call(request.SerializeToString(), timeout=20)
            request.id, request.inputs[0].name = "wrong", "z"
            with pytest.raises(grpc.RpcError):
                call(request.SerializeToString(), timeout=20)
        with Client(f"http://127.0.0.1:{running.http_port}") as client:
            client.infer("double", x=X)
        with urllib.request.urlopen(f"http://127.0.0.1:{running.http_port}/v2/headrace/slow", timeout=20) as answer:
            rows = json.load(answer)["requests"]
    assert [row["total_us"] for row in rows] == sorted((row["total_us"] for row in rows), reverse=True)
    found = {row["id"]: row for row in rows}
    assert {(row["id"], row["front"], row["meaning"]) for row in rows} == {
        ("über", "grpc", "ok"), ("wrong", "grpc", "bad_argument"), ("", "http", "ok"),
    }  # fmt: skip
    for row in (found["über"], found[""]):
        assert (row["model"], row["version"], row["batch_rows"], row["batch_release"]) == ("double", "1", 2, "alone")
        phases = [row[f"{name}_us"] for name in ("queue", "assemble", "compute", "scatter")]
        assert min(phases) >= 0 and sum(phases) <= row["total_us"] + 1000
    assert found["wrong"]["batch_rows"] == found["wrong"]["compute_us"] == 0
