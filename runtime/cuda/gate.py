"""What a compiled kernel must be: no warnings, no spills, no stack beyond what is known, the instructions that its path
promises. Used by scripts/cuda_compile and the tests; needs no GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from headrace.runtime.cuda.images import resources

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
# Reducing a large argument of sin and cos indexes a table.
STACK = {"unary_f32": 32}
# Instruction -> the first compute capability that must have it. Those before Ampere have the smaller product and plain copies.
PROMISED = {"IMMA.8816": (75, 79), "IMMA.16832": (80, 99), "LDGSTS": (80, 99), "LDSM": (75, 99), "IDP.4A": (75, 99)}


def complaints(arch: str, report: str) -> list[str]:
    """What is wrong with one compilation, by the report of images.by_nvcc."""
    wrong = [f"{arch}: {line}" for line in report.splitlines() if "warning" in line.lower()]
    for kernel, found in resources(report).items():
        if found.spilled:
            wrong.append(f"{arch}: {kernel} spills {found.spilled} bytes")
        if found.stack > STACK.get(kernel, 0):
            wrong.append(f"{arch}: {kernel} has a stack of {found.stack} bytes; allowed: {STACK.get(kernel, 0)}")
    return wrong


def instructions(cuobjdump: str, cubin: bytes) -> Counter[str]:
    """How often each of PROMISED stands in the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.cubin"
        path.write_bytes(cubin)
        text = subprocess.run([cuobjdump, "--dump-sass", str(path)], capture_output=True, text=True, check=True).stdout
    return Counter({name: len(re.findall(rf"\b{re.escape(name)}", text)) for name in PROMISED})


def missing(arch: str, found: Counter[str]) -> list[str]:
    """Promised instructions that are not there."""
    cc = int(arch.removeprefix("sm_").rstrip("a"))
    return [f"{arch}: no {name}" for name, (first, last) in PROMISED.items() if first <= cc <= last and not found[name]]
