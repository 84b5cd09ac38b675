"""The real device's code over a CuPy that runs on the emulator, and what it says where there is no GPU."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_cupy
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from cuda_models import minilm, minilm_feeds

import headrace.runtime as runtime
from headrace.runtime import devices
from headrace.runtime.cuda import device as module
from headrace.runtime.cuda import driver, is_available, lt, why_unavailable
from headrace.runtime.cuda.emul import EmulDevice
from headrace.runtime.errors import LoadError, RunError


class Faked(module.CudaDevice):
    """Without cuBLASLt, which needs a driver: products go to the own kernel."""

    blas = None  # type: ignore[assignment]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = fake_cupy.make(EmulDevice())
    monkeypatch.setattr(driver, "devices", lambda: 1)
    monkeypatch.setattr(module, "_import_cupy", lambda: made)
    monkeypatch.setattr(Faked, "pinned", lambda self, nbytes: np.empty(nbytes, np.uint8))
    monkeypatch.setattr(lt, "open_library", lambda: SimpleNamespace(cublasLtGetVersion=lambda: 130102))
    monkeypatch.setattr(lt, "Library", lambda library: SimpleNamespace(version=library.cublasLtGetVersion()))
    return made


def test_probe_reads_what_the_gpu_is(cupy: Any) -> None:
    caps = module.probe()
    assert (caps.name, caps.cc, caps.multiprocessors, caps.cublaslt) == ("Fake GPU", (9, 0), 4, 130102)
    assert [caps.path(t) for t in ("float32", "int8", "bfloat16", "float8_e4m3fn", "float64")] == [
        "cublasLt", "mma.sync", "cublasLt", "cublasLt", "none",
    ]  # fmt: skip


def test_a_model_runs_by_graphs_captured_on_the_stream(cupy: Any) -> None:
    device = Faked(module.probe(), b"image")
    feeds, source = minilm_feeds(), minilm()
    want = runtime.load(source, device="cpu").run(feeds)
    with runtime.load(source, device=device) as model:
        first, second = model.run(feeds), model.run(feeds)
        np.testing.assert_allclose(first["embedding"], want["embedding"], rtol=1e-4, atol=1e-5)
        assert first["embedding"].tobytes() == second["embedding"].tobytes()
        replayed = model._program.plans()[0]["replayed"]
        assert replayed and model.properties["device"] == "cuda:0 (Fake GPU)"
        assert len(cupy.launched) == 2 * replayed  # the comparison with step by step, and the second call


def test_opening_a_gpu_takes_the_image_of_its_architecture(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "image", lambda cc: asked.append(cc) or b"image")
    device = module.open_device()
    assert asked == [(9, 0)] and device.caps.name == "Fake GPU"


def test_all_device_memory_is_given_back(cupy: Any) -> None:
    device = Faked(module.probe(), b"image")
    before = cupy.cuda.runtime.memGetInfo()
    model = runtime.load(minilm(), device=device)
    model.run(minilm_feeds())
    assert cupy.cuda.runtime.memGetInfo() < before
    model.close()
    assert cupy.cuda.runtime.memGetInfo() == before


def test_memory_that_is_not_there_is_an_error_with_figures(cupy: Any) -> None:
    device = Faked(module.probe(), b"image")
    with pytest.raises(RunError, match=r"no room for 2,147,483,648 bytes; 1,073,741,824 of 1,073,741,824 are free"):
        device.alloc(2 << 30)


def test_nothing_may_allocate_or_wait_while_a_graph_is_recorded(cupy: Any) -> None:
    device = Faked(module.probe(), b"image")
    for forbidden in (lambda: device.alloc(16), device.synchronize, lambda: device.h2d(0, np.zeros(1, np.uint8))):
        with pytest.raises(RunError, match="while a graph is recorded"):
            device.capture(forbidden)
        assert device.stream.capturing is None  # the stream left the capture
    device.free(device.alloc(16))


def test_a_gpu_that_is_too_old_is_named(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_import_cupy", lambda: fake_cupy.make(EmulDevice(), cc=(6, 1)))
    with pytest.raises(LoadError, match=r"Fake GPU has compute capability 6\.1; the kernels need 7\.5 or higher"):
        module.probe()


def test_a_gpu_that_does_not_exist_is_named(cupy: Any) -> None:
    with pytest.raises(LoadError, match=r"there is no GPU 3; this machine has 1"):
        module.probe(3)


def test_a_missing_cublaslt_is_named(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LoadError("cuBLASLt is missing (no such file); install it with: pip install 'headrace[cuda13]'")

    monkeypatch.setattr(lt, "open_library", missing)
    with pytest.raises(LoadError, match=r"no CUDA device can be used: cuBLASLt is missing .*headrace\[cuda13\]"):
        module.probe()


def test_a_missing_cupy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "devices", lambda: 1)
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(LoadError, match=r"cupy .*; pip install 'headrace\[cuda13\]' .*; or load with device='cpu'"):
        module.probe()


@pytest.mark.parametrize(
    ("status", "count", "cause"),
    [(100, 0, "finds no GPU"), (0, 0, "finds no GPU"), (803, 0, "answers error 803")],
)
def test_a_driver_without_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch, status: int, count: int, cause: str) -> None:
    library = SimpleNamespace(cuInit=lambda flags: status, cuDeviceGetCount=lambda at: 0)
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: library)
    with pytest.raises(LoadError, match=cause):
        module.probe()


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", absent)
    monkeypatch.setattr(devices, "_opened", {})


def test_cuda_without_a_driver_is_one_error_with_the_cause_and_the_next_step(no_driver: None) -> None:
    with pytest.raises(LoadError) as caught:
        runtime.load(minilm(), device="cuda")
    assert str(caught.value) == (
        "no CUDA device can be used: no NVIDIA driver (libcuda.so.1 is not found); install the driver of the GPU; "
        "or load with device='cpu'"
    )
    assert not is_available() and why_unavailable() == str(caught.value)


def test_auto_takes_the_cpu_and_says_why(no_driver: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "headrace"):
        model = runtime.load(minilm(), device="auto")
    assert model.properties["device"] == "cpu" and "no NVIDIA driver" in model.properties["device_reason"]
    assert "running on the CPU: no CUDA device can be used" in caplog.text


def test_auto_takes_the_gpu_where_there_is_one(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_opened", {0: Faked(module.probe(), b"image")})
    model = runtime.load(minilm(), device="auto")
    assert model.properties["device"] == "cuda:0 (Fake GPU)" and "device_reason" not in model.properties


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", "CUDA", "", "cpu:0"])
def test_a_device_that_does_not_exist_is_an_error_with_what_is_allowed(wanted: str) -> None:
    with pytest.raises(LoadError, match=r"does not exist; allowed: 'auto', 'cpu', 'cuda', 'cuda:N', 'emulated'"):
        runtime.load(minilm(), device=wanted)
    with pytest.raises(LoadError, match=r"device is int; allowed: 'auto'"):
        runtime.load(minilm(), device=3)  # type: ignore[arg-type]
