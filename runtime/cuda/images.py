"""Compiled kernels for a GPU: all of csrc/ as one cubin, by nvcc where it is installed, else by NVRTC through CuPy; kept in
the cache under the digest of the sources, the compiler and the architecture."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.runtime.caches import cache_folder
from headrace.runtime.cuda.sources import digest, texts
from headrace.runtime.errors import LoadError

UNIT = "all.cu"  # includes every .cu file


@dataclass(frozen=True)
class Resources:
    """What ptxas says that one kernel takes: registers of a thread; bytes of its stack, and spilled."""

    registers: int
    stack: int
    spilled: int


def image(cc: tuple[int, int]) -> bytes:
    """The kernels for a compute capability. LoadError where no compiler is found or the text does not compile."""
    arch = f"sm_{cc[0]}{cc[1]}"
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        return by_nvcc(nvcc, arch)[0]
    return _by_nvrtc(arch)


def sources() -> dict[str, str]:
    """What a GPU's compiler reads: csrc without the emulator, and the unit of everything."""
    files = {name: text for name, text in texts().items() if Path(name).suffix in (".cu", ".cuh")}
    return {**files, UNIT: "".join(f'#include "{name}"\n' for name in files if name.endswith(".cu"))}


def by_nvcc(nvcc: str, arch: str) -> tuple[bytes, str]:
    """(cubin, what ptxas reported)."""
    files = sources()
    options = ("-std=c++17", f"-arch={arch}", "-cubin", "-Xptxas", "-v,-warn-spills")
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    target = cache_folder("cuda") / f"{digest(UNIT, files, version, *options)[:24]}-{arch}.cubin"
    report = target.with_suffix(".log")
    if not (target.exists() and report.exists()):
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            for name, text in files.items():
                (Path(scratch) / name).write_text(text)
            fresh = Path(scratch) / "image.cubin"
            done = subprocess.run([nvcc, *options, "-o", str(fresh), UNIT], cwd=scratch, capture_output=True, text=True)
            if done.returncode:
                raise LoadError(f"the CUDA kernels do not compile for {arch}:\n{done.stderr}")
            log = Path(scratch) / "log"
            log.write_text(done.stderr)
            log.replace(report)
            fresh.replace(target)
    return target.read_bytes(), report.read_text()


def _by_nvrtc(arch: str) -> bytes:
    try:
        nvrtc: Any = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        version = str(nvrtc.getVersion())
    except (ImportError, OSError, RuntimeError) as error:
        raise LoadError(
            f"no compiler for the CUDA kernels: nvcc is not on PATH and NVRTC is not there ({error}); "
            "pip install 'headrace[cuda13]', or install the CUDA toolkit"
        ) from error
    files = sources()
    # Generic lambdas count as host functions to NVRTC, unlike to nvcc, unless all code is the device's.
    options = ("-std=c++17", f"-arch={arch}", "-default-device")
    target = cache_folder("cuda") / f"{digest(UNIT, files, 'nvrtc', version, *options)[:24]}-{arch}.cubin"
    if not target.exists():
        names = [name for name in files if name != UNIT]
        headers = [files[name].encode() for name in names]
        program = nvrtc.createProgram(files[UNIT], UNIT, headers, [name.encode() for name in names])
        try:
            nvrtc.compileProgram(program, options)
            cubin: bytes = nvrtc.getCUBIN(program)
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise LoadError(f"the CUDA kernels do not compile for {arch} ({error}):\n{log}") from error
        finally:
            nvrtc.destroyProgram(program)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fresh = Path(scratch) / "image.cubin"
            fresh.write_bytes(cubin + b"\0")  # CuPy cuts the last byte off, and tools then call the ELF invalid
            fresh.replace(target)
    return target.read_bytes()


def resources(report: str) -> dict[str, Resources]:
    """Kernel -> what it takes, from the report of by_nvcc."""
    found: dict[str, Resources] = {}
    for part in report.split("Compiling entry function '")[1:]:
        stack, stores, loads = (
            _number(rf"(\d+) bytes {what}", part) for what in ("stack frame", "spill stores", "spill loads")
        )
        found[part.split("'")[0]] = Resources(_number(r"Used (\d+) registers", part), stack, stores + loads)
    return found


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match.group(1)) if match else 0
