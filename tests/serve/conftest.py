from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import serve_fake

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


def start(root: Path, **options) -> Server:
    settings = Settings(listen=Listen("127.0.0.1", 0, 0, 0), limits=LIMITS, drain=Drain(lame_duck_s=0, grace_s=10))
    return Server(root, settings=settings, loader=serve_fake.load, **options)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with start(serve_fake.repository(tmp_path_factory.mktemp("repository"), MODELS)) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened
