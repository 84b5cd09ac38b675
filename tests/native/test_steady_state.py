"""A repeated call allocates nothing but what it answers with: counted by a C allocator that is preloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")

pytestmark = [
    pytest.mark.skipif(
        "HEADRACE_NATIVE_DIR" in os.environ, reason="a build with sanitizers has an allocator of its own"
    ),
    pytest.mark.skipif(not sys.platform.startswith("linux") or COMPILER is None, reason="needs Linux and a C compiler"),
]


def test_a_repeated_call_takes_no_blocks(tmp_path):
    counter = tmp_path / "count_allocations.so"
    subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", counter, HERE / "count_allocations.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(counter)}
    run = subprocess.run([sys.executable, HERE / "steady_state.py"], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    one_node, new_shapes = report.pop("one node"), report.pop("shapes not seen before")
    assert 1 <= one_node <= 6  # the dictionary, the array and the memory of the answer
    assert {name: count for name, count in report.items() if count > one_node} == {}
    assert new_shapes > one_node  # the count can fail
