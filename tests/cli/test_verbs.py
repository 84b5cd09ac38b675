"""The command line as a user runs it, on files: in a process of its own where the process is what is tested, else in this one."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headrace.cli import VERBS, main

TRAIN = """
import numpy as np
import headrace as torch
import headrace.nn as nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2))

def make():
    print("printed by the user's file")
    return net, np.ones((2, 4), np.float32)

def wrong():
    return 3

if __name__ == "__main__":
    raise SystemExit("the main part must not run")
"""


def headrace(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What the command line does with these words, in this process."""
    out, err = io.StringIO(), io.StringIO()
    words = list(map(str, arguments))
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(contextlib.chdir(cwd or "."))
        ended = stack.enter_context(pytest.raises(SystemExit))
        main(words)
    return subprocess.CompletedProcess(words, ended.value.code or 0, out.getvalue(), err.getvalue())


def process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "headrace", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=100,
    )


def answer(*arguments: object, cwd: Path | None = None) -> dict:
    done = headrace(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "train.py").write_text(TRAIN)
    done = process("pack", "train.py:make", "-o", "net.hr", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "process of its own" in done.stderr and "printed by the user's file" in done.stderr
    assert "packed" in done.stdout
    return folder


def test_every_verb_has_help_with_an_example() -> None:
    for verb in VERBS:
        done = process(verb, "--help")
        assert done.returncode == 0 and f"headrace {verb} " in done.stdout.split("Options:")[0].split("\n", 2)[2], verb


def test_version() -> None:
    assert process("--version").stdout.startswith("headrace 0.")


def test_inspect_shows_interface_and_members(folder: Path) -> None:
    facts = answer("inspect", "net.hr", cwd=folder)
    assert facts["parameters"] == 4 * 40 + 40 + 40 * 40 + 40 + 40 * 2 + 2
    assert facts["inputs"][0]["shape"].endswith(", 4]") and facts["golden"] == 4 and facts["rows"]["independent"]
    assert {"manifest.json", "graph.pb", "weights.safetensors"} <= {m["name"] for m in facts["members"]}
    assert headrace("inspect", "net.hr", "--graph", cwd=folder).stdout.startswith("graph main(")


def test_inspect_says_what_runs_each_node(folder: Path) -> None:
    rows = answer("inspect", "net.hr", "--kernels", cwd=folder)["kernels"]
    assert rows and all(row["kernel"] not in ("", "reference") for row in rows)
    text = headrace("inspect", "net.hr", "--kernels", cwd=folder).stdout
    assert text.splitlines()[-1] == f"{len(rows)} nodes, {len(rows)} native, 0 by the reference"


def test_verify_is_bit_exact_here(folder: Path) -> None:
    assert answer("verify", "net.hr", cwd=folder)["max_error"] == 0.0


def test_a_flipped_bit_is_refused(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "net.hr").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "bad.hr").write_bytes(data)
    done = process("verify", tmp_path / "bad.hr")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_run_export_and_run_again_agree(folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    name = answer("inspect", "net.hr", cwd=folder)["inputs"][0]["name"]
    np.savez(tmp_path / "in.npz", **{name: x})
    first = answer("run", folder / "net.hr", tmp_path / "in.npz")
    assert answer("export", folder / "net.hr", "-o", tmp_path / "net.onnx")["opset"] >= 13
    second = answer("run", tmp_path / "net.onnx", tmp_path / "in.npz")
    (a,), (b,) = first.values(), second.values()
    np.testing.assert_allclose(a["data"], b["data"], rtol=1e-6)


def test_own_operators_are_exported_as_functions_or_written_out(folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the exported files are read with it")
    headrace("quantize", folder / "net.hr", "-o", tmp_path / "small.hr")
    for given, functions in (((), True), (("--inline",), False)):
        answer("export", tmp_path / "small.hr", "-o", tmp_path / "small.onnx", *given)
        model = onnx.load(tmp_path / "small.onnx")
        assert bool(model.functions) is functions
        assert ("headrace" in {node.domain for node in model.graph.node}) is functions


SCRIPTED = """
import headrace as torch
from headrace import jit, nn

class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    @jit.export
    def halve(self, x):
        while x.abs().max() > 1:
            x = x / 2
        return x

    def forward(self, x):
        self.calls = self.calls + 1
        return self.halve(x) * self.calls

def made():
    return jit.script(Counter(), (torch.ones(2, 3) * 9,), entries={"halve": (torch.ones(2, 3),)})

def compiled():
    return jit.script(Counter()), (torch.ones(2, 3),)
"""


def test_pack_and_inspect_programs_with_states_and_entry_points(tmp_path: Path) -> None:
    (tmp_path / "scripted.py").write_text(SCRIPTED)
    report = answer("pack", "scripted.py:made", "-o", "net.hr", cwd=tmp_path)
    assert report["golden"] == 4 and report["deviation"] < 1e-5
    facts = answer("inspect", "net.hr", cwd=tmp_path)
    assert list(facts["entries"]) == ["main", "halve"]
    assert facts["entries"]["main"]["states"] == [{"input": "calls", "output": "calls_next"}]
    shown = headrace("inspect", "net.hr", cwd=tmp_path).stdout
    assert "entry point halve" in shown and "state input" in shown
    code = headrace("inspect", "net.hr", "--code", cwd=tmp_path).stdout
    assert "while going:" in code and "def forward(x, calls, weights):" in code
    assert headrace("verify", "net.hr", cwd=tmp_path).returncode == 0
    assert answer("pack", "scripted.py:compiled", "-o", "two.hr", cwd=tmp_path)["golden"] == 4


def test_pack_onnx_with_somebody_elses_outputs(folder: Path, tmp_path: Path) -> None:
    name = answer("inspect", "net.hr", cwd=folder)["inputs"][0]["name"]
    headrace("export", folder / "net.hr", "-o", tmp_path / "net.onnx")
    np.savez(tmp_path / "in.npz", **{name: np.ones((2, 4), np.float32)})
    headrace("run", folder / "net.hr", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    good = answer(
        "pack",
        tmp_path / "net.onnx",
        "--golden",
        tmp_path / "in.npz",
        "--expect",
        tmp_path / "out.npz",
        "-o",
        tmp_path / "again.hr",
    )
    assert good["golden"] == 1
    with np.load(tmp_path / "out.npz") as outputs:
        np.savez(tmp_path / "wrong.npz", **{key: value + 1 for key, value in outputs.items()})
    bad = headrace(
        "pack",
        tmp_path / "net.onnx",
        "--golden",
        tmp_path / "in.npz",
        "--expect",
        tmp_path / "wrong.npz",
        "-o",
        tmp_path / "no.hr",
    )
    assert bad.returncode == 1 and "deviates by" in bad.stderr and not (tmp_path / "no.hr").exists()


@pytest.mark.peer
def test_pack_takes_what_other_libraries_made(tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="scikit-learn's converter")
    (tmp_path / "fit.py").write_text(
        "import numpy as np\nfrom sklearn.linear_model import Ridge\nX = np.eye(4)\nmodel = Ridge().fit(X, X[:, 0])\n"
        "def made():\n    return model, X\n"
    )
    report = answer("pack", "fit.py:made", "-o", "m.hr", cwd=tmp_path)
    assert report["inputs"] == {"X": "float32[batch, 4]"} and report["golden"] == 4
    np.savez(tmp_path / "y.npz", output=np.zeros((1, 1), np.float32))
    refused = headrace("pack", "fit.py:made", "-o", "n.hr", "--expect", "y.npz", cwd=tmp_path)
    assert refused.returncode == 1 and "own outputs are recorded" in refused.stderr


def test_quantize_dynamic_needs_no_data(folder: Path, tmp_path: Path) -> None:
    assert answer("quantize", folder / "net.hr", "-o", tmp_path / "q.hr")["outputs"]
    assert answer("verify", tmp_path / "q.hr")["ok"]


def test_quantize_takes_weights_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.hr"
    report = answer("quantize", folder / "net.hr", "-o", out, "--method", "weight-only", "--bits", "8", "--group", "16", "--symmetric")  # fmt: skip
    assert report["scheme"] == "weight-only int8 group 16 symmetric, rows int8"
    assert answer("verify", out)["ok"]
    refused = headrace("quantize", folder / "net.hr", "-o", out, "--method", "dynamic", "--bits", "8")
    assert refused.returncode == 2 and "--bits is for --method weight-only" in refused.stderr


def test_bench_reports_percentiles(folder: Path) -> None:
    figures = answer("bench", folder / "net.hr", "--seconds", "0.2")["engines"]["headrace"]
    assert figures["calls"] >= 5 and figures["failed"] == 0


def test_bench_profiles_every_node_longest_first(folder: Path) -> None:
    rows = answer("bench", folder / "net.hr", "--seconds", "0.1", "--profile")["profile"]
    assert rows and all({"node", "operator", "kernel", "ms", "share", "gflops", "of_limit"} <= set(row) for row in rows)
    assert all(row["ms"] >= 0 and row["kernel"] for row in rows)
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    done = headrace("bench", folder / "net.hr", "--seconds", "0.1", "--profile")
    assert done.returncode == 0 and rows[0]["operator"] in done.stdout
    assert "measured limits of this machine, 1 thread: float32" in done.stdout and "of limit" in done.stdout


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[dict[str, str]]:
    """The URLs of a server of net.hr, by protocol."""
    ports = [word for kind in ("grpc", "http", "metrics") for word in (f"--{kind}-port", "0")]
    command = [sys.executable, "-m", "headrace", "serve", "net=net.hr", *ports, "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
            yield {"grpc": f"{found['host']}:{found['grpc']}", "http": f"http://{found['host']}:{found['http']}"}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_bench_loads_a_server(server: dict[str, str], folder: Path, tmp_path: Path, protocol: str) -> None:
    url = server[protocol]
    figures = answer("bench", url, "net", "--clients", "2", "--seconds", "0.3", "--batch", "3")["engines"]["net"]
    assert figures["calls"] >= 2 and figures["failed"] == 0
    name = answer("inspect", "net.hr", cwd=folder)["inputs"][0]["name"]
    np.savez(tmp_path / "in.npz", **{name: np.ones((2, 4), np.float32)})
    figures = answer("bench", url, "net", "--clients", "1", "--seconds", "0.1", "--inputs", tmp_path / "in.npz")[
        "engines"
    ]["net"]
    assert figures["calls"] >= 1 and figures["failed"] == 0
    (local,) = answer("run", folder / "net.hr", tmp_path / "in.npz").values()
    (remote,) = answer("infer", url, "net", tmp_path / "in.npz").values()
    assert local["data"] == remote["data"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pack", "train.py"), "train.py:NAME"),
        (("pack", "train.py:nothing"), "defines no 'nothing'"),
        (("pack", "train.py:wrong"), "got int"),
        (("pack", "train.py:net"), "example"),
        (("pack", "missing.py:net"), "no such file"),
        (("inspect", "train.py"), ".hr"),
        (("run", "net.hr"), "--random"),
        (("serve", "nowhere/"), "nowhere"),
        (("bench", "127.0.0.1:1"), "name the model"),
        (("infer", "127.0.0.1:1", "m", "train.py"), "npz"),
        (("export", "net.hr", "-o", "x.onnx", "--opset", "3"), "opset"),
    ],
)
def test_mistakes_get_one_clear_line(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    done = headrace(*arguments, cwd=folder)
    assert done.returncode in (1, 2)
    assert says in done.stderr and "Traceback" not in done.stderr
