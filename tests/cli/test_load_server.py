"""The load generator against a server that is known: what it counts, checks and stops at."""

import asyncio
import json
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

from headrace.cli.bench import command
from headrace.runtime.builder import Builder
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Graph, Program
from headrace.runtime.interface import Golden
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive
from headrace.serve import Server
from headrace.serve.client_types import Inference, make_ask
from headrace.serve.errors import Meaning, ServeError
from headrace.verbs.load import generator, load_server
from headrace.verbs.load.generator import Step, _checker, run_step

X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


def package(path, factor):
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("batch"), 2)))
    (y,) = build.node("Mul", [x, build.constant(np.float32(factor))], outputs=["y"])
    graph.block.outputs.append(y)
    golden = Golden([{"x": X}], [{"y": X * np.float32(factor)}], rtol=0.0, atol=1e-3)
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.save(Program({"main": graph}), path, golden=golden)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("load")
    package(root / "repository" / "double" / "1" / "model.hr", 2.0)
    package(root / "triple.hr", 3.0)
    return root


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder / "repository") as running:
        yield running


@pytest.fixture(params=["grpc", "rest"])
def url(request, server):
    return f"127.0.0.1:{server.grpc_port}" if request.param == "grpc" else f"http://127.0.0.1:{server.http_port}"


def test_closed_loop(server, url):
    before = _served(server)
    found = load_server(url, "double", clients=[1, 3], seconds=0.15, warmup=0)
    assert [step["clients"] for step in found["steps"]] == [1, 3]
    for step in found["steps"]:
        assert step["ok"] == step["calls"] > 0 and not step["errors"] and not step["wrong"]
        assert 0 < step["p50_ms"] <= step["p90_ms"] <= step["p99_ms"] <= step["p999_ms"] <= step["max_ms"]
        assert step["per_second"] > 0 and step["generator_cores"] > 0
    firsts = 1 + len(found["steps"])  # the checked answer, and each generator's own first one
    assert _served(server) - before == firsts + sum(step["calls"] for step in found["steps"])


def _served(server):
    (version,) = server._manager.versions()
    return version.count().success.count


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_open_loop(url, arrivals):
    (step,) = load_server(url, "double", rates=100, arrivals=arrivals, seconds=0.5, warmup=0)["steps"]
    assert step["mode"] == "open" and not step["errors"]
    assert step["calls"] in ((49, 50) if arrivals == "constant" else range(20, 90))


def test_processes_share_the_load(url):
    (step,) = load_server(url, "double", clients=3, processes=2, seconds=0.2, warmup=0)["steps"]
    assert step["ok"] > 0 and not step["wrong"]


def test_golden(folder, url):
    assert load_server(url, "double", golden=folder / "repository/double/1/model.hr", seconds=0.05)["golden"]
    with pytest.raises(HeadraceError, match=r"'y' is off by 4 from the golden data, allowed is 0\.001"):
        load_server(url, "double", golden=folder / "triple.hr", seconds=0.05)


def test_wrong_answers_are_seen(url):
    """The same outputs in other bytes are good; others are wrong."""

    class Wire:
        def read(self, data):
            return Inference({"y": np.frombuffer(data[4:], np.float32)})

    check = _checker(Wire(), b"id 1" + X.tobytes())
    assert check(b"id 1" + X.tobytes()) and check(b"id 2" + X.tobytes())
    assert not check(b"id 1" + (X + 1).tobytes())


def test_a_step_whose_first_request_fails_is_an_error(url):
    good = Step(url, make_ask("double", {"x": X}, "", None, None, ""), 0.1, 0, 5.0, clients=1)
    assert not run_step(good).errors
    with pytest.raises(HeadraceError, match="nobody"):
        run_step(Step(url, make_ask("nobody", {"x": X}, "", None, None, ""), 0.1, 0, 5.0, clients=1))


def test_errors_by_meaning(monkeypatch):
    """Requests that are refused after the first, every other one."""

    class Wire:
        sent = 0

        async def send(self, timeout):
            await asyncio.sleep(0)
            self.sent += 1
            if self.sent % 2 == 0:
                raise ServeError(Meaning.UNAVAILABLE, "not now")
            return b"answer"

        def read(self, data):
            return Inference({"y": X})

        async def close(self):
            pass

    monkeypatch.setattr(generator, "open_wire", lambda *how: Wire())
    found = run_step(Step("127.0.0.1:1", make_ask("double", {"x": X}, "", None, None, ""), 0.1, 0, 5.0, clients=1))
    assert set(found.errors) == {"unavailable"} and found.errors["unavailable"] - len(found.latencies) in (0, 1)


def test_stop(url):
    found = load_server(url, "double", clients=[1, 2, 4], seconds=0.05, stop_ms=1e-6)
    assert len(found["steps"]) == 1 and found["best"] is None
    found = load_server(url, "double", clients=[1, 2], seconds=0.05, stop_ms=1e9)
    assert len(found["steps"]) == 2 and found["best"] in (0, 1)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib, which the extra `bench` brings")
def test_the_command(url, tmp_path):
    plot = tmp_path / "load.svg"
    arguments = [url, "double", "--clients", "1,2", "--seconds", "0.05", "--plot", str(plot)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "good / s" in done.output and "compared with the first answer" in done.output
    assert "<svg" in plot.read_text()
    done = CliRunner().invoke(command, [url, "double", "--rate", "50", "--seconds", "0.1", "--json"])
    assert json.loads(done.output)["steps"][0]["rate"] == 50


@pytest.mark.parametrize("option", [("--clients", "0"), ("--clients", "x"), ("--rate", "1,-2")])
def test_options_that_are_none(url, option):
    done = CliRunner().invoke(command, [url, "double", *option])
    assert done.exit_code == 2 and "expected numbers above 0" in done.output
