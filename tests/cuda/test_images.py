"""Compilation for a GPU, without one: by nvcc where it is, and what the gate says of a compiler's report."""

from __future__ import annotations

import shutil
import sys
import types
from collections import Counter

import pytest

from headrace.runtime.cuda import emul, gate, images, sources
from headrace.runtime.errors import LoadError

REPORT = """ptxas info    : Compiling entry function 'good' for 'sm_80'
ptxas info    : Function properties for good
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 41 registers, used 1 barriers, 560 bytes cmem[0]
ptxas warning : Registers are spilled to local memory in function 'bad', 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function 'bad' for 'sm_80'
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""


def test_the_report_is_read():
    assert images.resources(REPORT) == {"good": images.Resources(41, 0, 0), "bad": images.Resources(255, 16, 12)}
    assert gate.complaints("sm_80", REPORT) == [
        "sm_80: ptxas warning : Registers are spilled to local memory in function 'bad', 4 bytes spill stores, 8 bytes spill loads",
        "sm_80: bad spills 12 bytes",
        "sm_80: bad has a stack of 16 bytes; allowed: 0",
    ]


def test_promised_instructions():
    found = Counter({"IMMA.16832": 4, "LDSM": 2, "IDP.4A": 9})
    assert gate.missing("sm_80", found) == ["sm_80: no LDGSTS"]
    assert gate.missing("sm_75", found) == ["sm_75: no IMMA.8816"]


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.nvrtc", None)
    with pytest.raises(LoadError, match="no compiler for the CUDA kernels: nvcc is not on PATH and NVRTC"):
        images.image((8, 0))


def test_nvrtc_gets_everything_in_memory(monkeypatch, tmp_path):
    """By a stand-in for CuPy's module: NVRTC itself is no dependency of the tests."""
    given = {}
    nvrtc = types.ModuleType("cupy_backends.cuda.libs.nvrtc")
    nvrtc.getVersion = lambda: (13, 0)
    nvrtc.createProgram = lambda text, name, headers, names: given.update(text=text, headers=dict(zip(names, headers)))
    nvrtc.compileProgram = lambda program, options: given.update(options=options)
    nvrtc.getCUBIN = lambda program: b"\x7fELF"
    nvrtc.destroyProgram = lambda program: None
    nvrtc.NVRTCError = RuntimeError
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, nvrtc.__name__, nvrtc)
    assert images.image((9, 0)) == b"\x7fELF\0"
    assert given["options"] == ("-std=c++17", "-arch=sm_90", "-default-device")
    assert (
        '#include "gemm_s8.cu"' in given["text"]
        and b"hr.cuh" in given["headers"]
        and b"hr_host.h" not in given["headers"]
    )
    nvrtc.createProgram = lambda *arguments: pytest.fail("compiled again")
    assert images.image((9, 0)) == b"\x7fELF\0"


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed; scripts/cuda_compile is its gate")
def test_nvcc_compiles_every_kernel_without_spills():
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    cubin, report = images.by_nvcc(nvcc, "sm_80")
    assert gate.complaints("sm_80", report) == []
    assert sorted(images.resources(report)) == emul.EmulDevice(emul.build()).kernels
    disassembler = shutil.which("cuobjdump")
    if disassembler:
        assert gate.missing("sm_80", gate.instructions(disassembler, cubin)) == []


def test_digests_follow_the_includes():
    files = sources.texts()
    assert "functions.cuh" in sources.closure("gemm_s8.cu", files)
    changed = {**files, "functions.cuh": files["functions.cuh"] + "\n"}
    assert sources.digest("gemm_s8.cu", files) != sources.digest("gemm_s8.cu", changed)
    assert sources.digest("move.cu", files) == sources.digest("move.cu", changed)
