"""KServe's published Python clients, unchanged. They live in an environment of their own (450 MB), which the test command
does not make: `python -m venv .venv-kserve && .venv-kserve/bin/pip install kserve==0.21.0`."""

import os
import subprocess
from pathlib import Path

import pytest
import serve_fake
from serve_start import FRONTS, MODELS, need, start

HERE = Path(__file__).parent
PYTHON = os.environ.get("HEADRACE_KSERVE_PYTHON", str(HERE.parents[1] / ".venv-kserve/bin/python"))

pytestmark = pytest.mark.skipif(
    not Path(PYTHON).is_file(), reason="kserve (450 MB) is not installed: HEADRACE_KSERVE_PYTHON, .venv-kserve"
)


@pytest.fixture(scope="module", params=FRONTS)
def ports(request, tmp_path_factory):
    need(request.param)
    good = {name: text for name, text in MODELS.items() if name not in ("bad", "wrong")}
    with start(serve_fake.repository(tmp_path_factory.mktemp("kserve"), good), request.param) as server:
        yield {"grpc": server.grpc_port, "rest": server.http_port}


def run(kind, ports):
    done = subprocess.run(
        [PYTHON, str(HERE / "kserve_clients.py"), kind, str(ports[kind])], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind} ok" in done.stdout


def test_rest(ports):
    run("rest", ports)


def test_grpc(ports):
    run("grpc", ports)
