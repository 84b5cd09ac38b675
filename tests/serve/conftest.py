from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import serve_fake

from headrace.serve import engine
from headrace.serve.config import Drain, Limits, Listen, Settings
from headrace.serve.server import Server

MODELS = {name.lower(): f"identity {name}" for name in serve_fake.DTYPES} | {
    "add": "add",
    "dependent": "dependent",
    "poison": "poison",
    "slow": "slow 0.4",
    "bad": "nonsense",
    "wrong": "golden bad",
}
LIMITS = Limits(max_message_bytes=1024 * 1024)


FRONTS = ["grpcio", "native"]


def start(root: Path, front: str = "auto", **options) -> Server:
    listen = Listen("127.0.0.1", 0, 0, 0, grpc_front=front)
    settings = Settings(listen=listen, limits=LIMITS, drain=Drain(lame_duck_s=0, grace_s=10))
    return Server(root, settings=settings, loader=serve_fake.load, **options)


@pytest.fixture(scope="session", params=FRONTS)
def server(request, tmp_path_factory):
    """One server a gRPC front: what is tested over gRPC is tested on both."""
    if request.param == "native" and engine._native is None:
        pytest.skip("built without libnghttp2: there is no native front")
    with start(serve_fake.repository(tmp_path_factory.mktemp("repository"), MODELS), request.param) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened
