"""Connections that have served long enough are given up by the native front without losing a call."""

from types import SimpleNamespace

import pytest
from benchmarks.soak import models
from benchmarks.soak.load import Lines, Load
from benchmarks.soak.steady import nothing_bad

from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.server import Server


def test_old_connections_end_and_no_call_with_them(tmp_path, monkeypatch):
    native_front = pytest.importorskip("headrace.serve.native_front", reason="built without libnghttp2")
    made = native_front._native.Front
    young = SimpleNamespace(Front=lambda limits, *rest: made({**limits, "age_s": 0.5, "age_grace_s": 10.0}, *rest))
    monkeypatch.setattr(native_front, "_native", young)
    models.line(tmp_path / "line/1/model.hr", 2, 1)
    settings = Settings(listen=Listen("127.0.0.1", 0, -1, -1, front="native"), drain=Drain(0, 5))
    with Server(tmp_path, settings=settings) as server:
        load = Load(server.grpc_port, Lines("line"))
        load.closed_loop(256, 4)
        load.close()
    assert all(nothing_bad(load).values()), load.outcomes
