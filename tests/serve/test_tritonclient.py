"""The published tritonclient, in its own environment, against our fronts: it must work unchanged."""

import os
import subprocess
from pathlib import Path

import pytest
import serve_fake
from serve_start import FRONTS, MODELS, need, start

from headrace.serve.config import Drain, Listen, Settings, SharedMemory
from headrace.serve.server import Server

PYTHON = os.environ.get("HEADRACE_TRITON_PYTHON")
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not PYTHON, reason="HEADRACE_TRITON_PYTHON names no Python with tritonclient")


@pytest.fixture(scope="module", params=FRONTS)
def ports(request, tmp_path_factory):
    need(request.param)
    good = {name: text for name, text in MODELS.items() if name not in ("bad", "wrong")}
    with start(serve_fake.repository(tmp_path_factory.mktemp("triton"), good), request.param) as server:
        yield server.grpc_port, server.http_port


def run(script, *arguments):
    done = subprocess.run(
        [PYTHON, str(HERE / script), *map(str, arguments)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_grpc(ports):
    assert "grpc ok" in run("triton_grpc.py", ports[0])


def test_http(ports):
    assert "http ok" in run("triton_http.py", ports[1])


def test_aio_and_reflection(ports):
    assert "aio ok" in run("triton_aio.py", *ports)


def test_descriptors_and_one_process(ports):
    """Every message, field, number, type and enum equals tritonclient's but for the stated additions, and both
    generated modules live in one process."""
    assert "descriptors ok" in run("triton_descriptors.py", HERE.parents[1] / "src")


@pytest.mark.parametrize("front", FRONTS)
def test_shared_memory(tmp_path, front):
    need(front)
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0, front=front), drain=Drain(0, 5), shared_memory=SharedMemory(True)
    )
    with Server(serve_fake.repository(tmp_path, {"add": "add"}), settings=settings, loader=serve_fake.load) as server:
        assert "memory ok" in run("triton_memory.py", server.grpc_port, server.http_port)
