"""The sequence examples in short form: they learn, and go through capture, package, ONNX, server and client; equal weights
learn as they do under torch."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
# example -> (steps, whether the figure shows that it learnt)
SHORT = {
    "tagger": (60, lambda figure: figure > 0.93),  # 0.84 by the word alone
    "copy_task": (250, lambda figure: figure > 0),  # one of 200 right by chance: 2e-6
    "char_gpt": (60, lambda figure: figure < 3.1),  # 4.6 by chance
}


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch):
    for folder in ("examples/sequences", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module


@pytest.mark.timeout(
    400
)  # a few seconds of work on a core of its own; BLAS threads wait for each other on a busy machine
@pytest.mark.parametrize("name", SHORT)
def test_the_whole_way(
    name: str, examples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, learnt = SHORT[name]
    example, lifecycle = examples(name), examples("lifecycle")
    kept: dict[str, float] = {}
    train, ship = example.train, lifecycle.ship
    monkeypatch.setattr(example, "train", lambda *given: kept.setdefault("figure", train(*given)))
    monkeypatch.setattr(lifecycle, "ship", lambda *given, **more: kept.update(ship(*given, **more)))
    monkeypatch.setattr(sys, "argv", [name, "--steps", str(steps), "--keep", str(tmp_path)])
    example.main()
    assert learnt(kept["figure"]), kept
    assert kept["package"] < 1e-4 and kept["served"] < 1e-4 and kept["headrace"] < 1e-4
    assert kept.get("onnxruntime", 0) < 1e-3
    assert list(tmp_path.glob("*/1/model.hr")) and list(tmp_path.glob("*.onnx"))
    assert "served" in capsys.readouterr().out


@pytest.mark.peer
@pytest.mark.parametrize("name", SHORT)
def test_equal_weights_learn_alike(name: str, examples) -> None:
    peer = pytest.importorskip("torch", reason="the examples are trained under torch too, where it is installed")
    (ours, model), (theirs, other) = examples("beside_torch").pair(name)
    assert ours.torch.__name__ == "headrace" and theirs.torch is peer
    figures = ours.train(model, 15), theirs.train(other, 15)
    np.testing.assert_allclose(*figures, rtol=2e-2)
    for (key, a), b in zip(model.named_parameters(), other.parameters()):
        gap = np.abs(a.detach().numpy() - b.detach().numpy()).max()
        assert gap < 2e-3, f"{key} is {gap} away after 15 steps"
