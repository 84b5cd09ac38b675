"""The avx512_vnni tier's blocking, packing and zero-point arithmetic on a CPU without AVX-512.

Builds the compute kernels with HEADRACE_EMULATE_VNNI (vpdpbusd and 512-bit vectors in AVX2 instructions) and runs the
kernel tests on it in a process of its own. The instruction itself is tested where the CPU has it: the `tier` fixture
includes it there, and this runs only with HEADRACE_TEST_EMULATED=1 (minutes, of building).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.runtime import _native

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILD_SECONDS, TEST_SECONDS = 900, 600


@pytest.mark.timeout(BUILD_SECONDS + TEST_SECONDS)
def test_kernels_of_the_emulated_tier() -> None:
    if "avx2" not in _native.cpu_tiers():
        pytest.skip("the emulation needs AVX2")
    if "avx512_vnni" in _native.cpu_tiers() and not os.environ.get("HEADRACE_TEST_EMULATED"):
        pytest.skip("this CPU has the tier itself; HEADRACE_TEST_EMULATED=1 runs this all the same")
    cmake = Path(sys.executable).parent / "cmake"
    if not cmake.exists():
        pytest.skip("cmake is not installed beside this Python")
    folder = ROOT / "build" / "emulated_vnni"  # kept: a second run builds nothing
    options = ["-DHEADRACE_EMULATE_VNNI=ON", "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    ninja = cmake.with_name("ninja")
    if ninja.exists():
        options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    for command in ([cmake, "-S", ROOT, "-B", folder, *options], [cmake, "--build", folder, "--parallel", "2"]):
        built = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    environment = {
        **os.environ,
        "HEADRACE_NATIVE_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    tests = [str(HERE / name) for name in ("test_gemm.py", "test_conv.py", "test_quant_kernels.py", "test_nbits.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "use_build", "-k", "avx512_vnni", *tests]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TEST_SECONDS, env=environment, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
