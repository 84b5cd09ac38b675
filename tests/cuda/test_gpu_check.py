"""The script that is run first on a GPU: what it says without one, and that its parts work on a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import fake_cupy
import gpu_check
from cuda_models import minilm, minilm_feeds
from test_device import Faked, no_driver

from headrace.runtime.cuda import device as module
from headrace.runtime.cuda.device import Caps
from headrace.runtime.cuda.emul import EmulDevice
from headrace.runtime.errors import RunError
from headrace.runtime.ops import find

__all__ = ["no_driver"]  # a fixture


class Library:
    """cuBLASLt that has no fp8."""

    def plan(self, problem: Any, a: int, b: int, d: int, bias: int = 0, scales: Any = None) -> Callable[[int], None]:
        assert (scales is not None) == (problem.a == "float8_e4m3fn")
        if scales is not None:
            raise RunError(f"cuBLASLt has no algorithm for {problem}")
        return lambda stream: None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Faked:
    made = fake_cupy.make(EmulDevice())
    monkeypatch.setattr(module, "_import_cupy", lambda: made)
    monkeypatch.setattr(Faked, "pinned", lambda self, nbytes: np.empty(nbytes, np.uint8))
    return Faked(Caps(0, "Fake GPU", (9, 0), 4, 1 << 30, 13000, 13000, "0", 130102), b"image")


def test_without_a_gpu_it_says_so_in_one_line(no_driver: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("gpu_check: no CUDA device can be used: no NVIDIA driver") and "--emulated" in line


def test_json_of_the_emulated_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_check, "checked_operators", lambda: [find("Relu")])
    assert gpu_check.main(["--emulated", "--only", "operators,ceilings", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "emulated" and found["wrong"] == 0
    assert [(row["section"], row["name"], row["ok"]) for row in found["rows"]] == [("operators", "Relu", True)]


def test_a_wrong_operator_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from headrace.runtime.cuda.rules import rules

    monkeypatch.setitem(rules(), "Abs", rules()["Neg"])
    monkeypatch.setattr(gpu_check, "checked_operators", lambda: [find("Abs")])
    monkeypatch.setattr("headrace.runtime.cuda.rules.elementwise.UNARY", {"Abs": ("neg", ())})
    assert gpu_check.main(["--emulated", "--only", "operators"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_ceilings(gpu: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faked, "blas", Library())
    free = gpu._runtime.memGetInfo()
    rows = list(gpu_check.ceilings(gpu, 1 << 16, 32, 32))
    assert [row.name for row in rows] == [
        "copy",
        "uint8 x int8 32^3",
        "bfloat16 32^3",
        "int8 32^3",
        "float8_e4m3fn 32^3",
    ]
    assert rows[-1].result == "none" and "has no algorithm" in rows[-1].note
    assert all(row.ok is None for row in rows) and gpu._runtime.memGetInfo() == free


def test_replay(gpu: Faked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "cases", lambda folder, emulated: iter([("small", minilm(), minilm_feeds(), 1e-4)]))
    monkeypatch.setattr(gpu_check, "_median", lambda work: (work(), 1e-3)[1])
    (row,) = gpu_check.replay(gpu, tmp_path)
    assert row.ok and row.note == "step by step 1000 us, replayed 1000 us a call"
