from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "serializer"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks

import serve_fake
from serve_start import FRONTS, MODELS, need, start


@pytest.fixture(scope="session", params=FRONTS)
def server(request, tmp_path_factory):
    """One server a gRPC front: what is tested over gRPC is tested on both."""
    need(request.param)
    with start(serve_fake.repository(tmp_path_factory.mktemp("repository"), MODELS), request.param) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened
