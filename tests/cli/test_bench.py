"""bench and inspect in depth: peers, plots, traces, passes, memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from headrace.cli.bench import command as bench_command
from headrace.cli.inspect import command as inspect_command
from headrace.runtime.builder import Builder
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Graph, Program, Value
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive
from headrace.verbs import peers
from headrace.verbs.bench import bench_file
from headrace.verbs.peers import agreement, default_tolerance
from headrace.verbs.plot import plot_comparison


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x [n, 16] through a product, a Relu and a scale."""
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), 16)))], [], []))
    builder, rng = Builder(graph), np.random.default_rng(0)
    (y,) = builder.node("MatMul", [graph.inputs[0], builder.constant(rng.standard_normal((16, 8)).astype(np.float32))])
    (y,) = builder.node("Relu", [y])
    graph.outputs.extend(builder.node("Mul", [y, builder.constant(np.float32([2]))]))
    file = tmp_path_factory.mktemp("bench") / "net.hr"
    archive.save(Program({"main": graph}), file)
    return file


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def wrong_peer(name: str, factor: float) -> Callable[..., peers.Peer]:
    """A peer that answers `factor` times what is right."""

    def make(path: Path, feeds: dict[str, np.ndarray], threads: int, precision: str | None) -> peers.Peer:
        from headrace.runtime import load

        model = load(path, device="cpu", threads=threads)
        return peers.Peer(name, "1.0", lambda: [factor * array for array in model.run(feeds).values()])

    return make


@pytest.mark.peer
@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_peer_gives_the_same_answers(path: Path, peer: str) -> None:
    pytest.importorskip(peer)
    result = bench_file(path, batch=3, seconds=0.05, compare=[peer])
    assert result["peers"][peer]["agrees"] and result["peers"][peer]["ratio"] > 0
    assert set(result["engines"]) == {"headrace", peer} and result["tolerance"] == peers.TOLERANCE


def test_answers_that_differ_are_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.MAKERS, "json", wrong_peer("json", 1.01))  # a module that is installed
    done = run(bench_command, path, "--seconds", 0.05, "--compare", "json")
    assert done.exit_code == 1 and "DIFFER" in done.output and "answers differ from json: output" in done.output
    done = run(bench_command, path, "--seconds", 0.05, "--compare", "json", "--tolerance", 0.02, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["peers"]["json"]["agrees"]


def test_a_peer_that_is_not_installed_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.MAKERS, "no_such_runtime", wrong_peer("no_such_runtime", 1))
    done = run(bench_command, path, "--seconds", 0.05, "--compare", "no_such_runtime")
    assert done.exit_code == 0 and done.stderr.count("\n") == 1
    assert "left out: no_such_runtime is not installed; pip install" in done.stderr


def test_a_peer_that_nobody_knows_is_an_error(path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"'tensorflow' is no runtime.*onnxruntime, openvino"):
        bench_file(path, compare="tensorflow")


def test_quantized_models_may_differ_more() -> None:
    graph = Graph(Block([Value("x", TensorType("float32", (2, 4)))], [], []))
    builder = Builder(graph)
    (y,) = builder.node("Relu", [graph.inputs[0]])
    assert default_tolerance(graph, None) == peers.TOLERANCE and default_tolerance(graph, "bf16") == peers.LOW_TOLERANCE
    builder.node("QuantizeLinear", [y, builder.constant(np.float32(0.1)), builder.constant(np.uint8(3))])
    assert default_tolerance(graph, None) == peers.LOW_TOLERANCE


def test_agreement_names_the_output() -> None:
    ours = {"a": np.float32([1, 2]), "b": np.int64([1])}
    assert agreement(ours, [np.float32([1, 2.001]), np.int64([1])], 1e-3)["agrees"]
    seen = agreement(ours, [np.float32([1, 2]), np.int64([2])], 1e-3)
    assert not seen["agrees"] and seen["message"].startswith("output 'b' differs")


def comparison() -> dict[str, Any]:
    figures = {"p25_ms": 0.9, "p50_ms": 1.0, "p75_ms": 1.4, "version": "1"}
    peer = {"ratio": 1.5, "agrees": False}
    return {
        "target": "folder/net.hr", "batch": 1, "threads": 2,
        "engines": {"headrace": figures, "onnxruntime": figures}, "peers": {"onnxruntime": peer},
    }  # fmt: skip


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib, which the extra `bench` brings")
def test_a_plot_shows_engines_and_what_differs(tmp_path: Path) -> None:
    plot_comparison(comparison(), tmp_path / "it.svg")
    assert (tmp_path / "it.svg").read_text().startswith("<?xml")
    plot_comparison(comparison(), tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"it.bmp: a plot is written as .png, .svg, .pdf"):
        plot_comparison(comparison(), tmp_path / "it.bmp")


def test_times_of_small_models_keep_their_digits() -> None:
    from headrace.cli.bench import _ms

    assert [_ms(time) for time in (12.3456, 0.1, 0.0123456, 0.000892, 0.0)] == [
        "12.346",
        "0.100",
        "0.0123",
        "0.000892",
        "0.000",
    ]


def test_a_trace_is_written(path: Path, tmp_path: Path) -> None:
    done = run(bench_command, path, "--seconds", 0.05, "--trace", tmp_path / "net.json")
    assert done.exit_code == 0 and "trace written to" in done.output
    events = json.loads((tmp_path / "net.json").read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"} and any("GFLOP/s" in e["args"] for e in events)


def test_inspect_shows_passes(path: Path) -> None:
    done = run(inspect_command, path, "--passes", "--without", "lookup")
    assert done.exit_code == 0, done.output
    assert "fuse_matmul" in done.output and "MatMul + " in done.output and "left out: lookup" in done.output
    rows = json.loads(run(inspect_command, path, "--passes", "--json").stdout)["passes"]
    assert {row["name"]: row["count"] for row in rows}["fuse_matmul"] >= 2
    assert run(inspect_command, path, "--passes", "--without", "nothing").exception is not None


def test_inspect_shows_memory(path: Path) -> None:
    memory = json.loads(run(inspect_command, path, "--memory", "--batch", 5, "--json").stdout)["memory"]
    assert memory["shapes"] == {"x": [5, 16]} and memory["outputs"] == 5 * 8 * 4
    assert json.loads(run(inspect_command, path, "--memory", "--shape", "x=5x16", "--json").stdout)["memory"] == memory
    done = run(inspect_command, path, "--memory")
    assert "mapped from the file" in done.output and "for inputs x [1, 16]" in done.output


@pytest.mark.parametrize("text", ["x", "x=1x", "=1x2", "x=1xtwo"])
def test_a_shape_that_is_none(path: Path, text: str) -> None:
    done = run(inspect_command, path, "--memory", "--shape", text)
    assert done.exit_code == 2 and "--shape takes NAME=SIZExSIZE" in done.output
