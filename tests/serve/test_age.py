"""Settings of connections: old and idle ones end without losing a call, silent ones are asked, unfinished requests are bounded."""

import http.client
import time

import pytest
import serve_fake
from benchmarks.soak import models
from benchmarks.soak.load import Lines, Load
from benchmarks.soak.steady import nothing_bad
from raw_http2 import Client
from serve_start import FRONTS, need

from headrace.serve.config import Drain, Limits, Listen, Log, Settings
from headrace.serve.server import Server


def settings(front, http_port=-1, **limits):
    need(front)
    return Settings(
        listen=Listen("127.0.0.1", 0, http_port, -1, front=front),
        limits=Limits(**limits),
        drain=Drain(0, 5),
        log=Log(access="off"),
    )


def test_old_connections_end_and_no_call_with_them(tmp_path):
    models.line(tmp_path / "line/1/model.hr", 2, 1)
    young = settings("native", connection_age_s=0.5, connection_age_grace_s=10.0)
    with Server(tmp_path, settings=young) as server:
        load = Load(server.grpc_port, Lines("line"))
        load.closed_loop(256, 4)
        load.close()
    assert all(nothing_bad(load).values()), load.outcomes


SILENT = {"keepalive_s": 0.5, "keepalive_timeout_s": 0.5}  # grpcio asks only where a call is open


@pytest.mark.parametrize(
    ("front", "limits"), [*((front, {"connection_idle_s": 0.5}) for front in FRONTS), ("native", SILENT)]
)
def test_idle_and_silent_connections_are_closed(front, limits, tmp_path):
    """One says nothing at all after its settings: no call, and no answer to a ping."""
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    with Server(root, settings=settings(front, **limits), loader=serve_fake.load) as server:
        assert Client(server.grpc_port).closed_within(20)


def test_unfinished_requests_are_bounded_together(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    bounded = settings("native", http_port=0, max_buffered_bytes=100_000)
    with Server(root, settings=bounded, loader=serve_fake.load) as server:
        held = []
        for _ in range(3):
            held.append(http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20))
            held[-1].putrequest("POST", "/v2/models/m/infer")
            held[-1].putheader("Content-Length", "200000")
            held[-1].endheaders()
            held[-1].send(b" " * 45_000)
            time.sleep(0.1)
        assert held[2].getresponse().status == 503
        assert server._plane.rejections.show()["buffered"] == 1
        for connection in held:
            connection.close()
