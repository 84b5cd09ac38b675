#!/usr/bin/env python3
"""What headrace costs before it does anything: import time, time to ready, idle memory, sizes on disk.

    python benchmarks/footprint.py [--runs 7] [--json]

Processes run with compiled bytecode, as pip leaves a package: it is made by a first run that does not count. A model that this
host does not know yet is proven in a child process before the server is ready; one that it knows is not.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table


def import_seconds(module: str) -> float:
    """Wall time of a fresh interpreter that imports the module, less that of one that imports nothing."""

    def timed(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return timed(f"import {module}") - timed("pass")


def small_model(folder: Path) -> Path:
    """A package of a 3-layer perceptron, made by headrace itself."""
    import headrace
    import headrace.nn as nn

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    path = folder / "mlp" / "1" / "model.hr"
    headrace.pack(net, np.zeros((2, 64), np.float32), path)
    return folder


def compiled(folder: Path) -> None:
    """From here on processes keep their bytecode, and what they proved, in the folder."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    os.environ["HEADRACE_CACHE_DIR"] = str(folder / "cache")


def serve_new(store: Path) -> float:
    """Seconds to ready where nothing was proven yet."""
    shutil.rmtree(os.environ["HEADRACE_CACHE_DIR"], ignore_errors=True)
    return serve_once(store)[0]


def serve_once(store: Path) -> tuple[float, float]:
    """(seconds from exec to the ready line, MiB of resident memory one second later)."""
    command = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        str(store),
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--metrics-port",
        "0",
    ]
    start = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("ready"):
            break
    ready = time.perf_counter() - start
    time.sleep(1)
    rows = dict(row.split(":", 1) for row in Path(f"/proc/{server.pid}/status").read_text().splitlines())
    server.terminate()
    server.wait(60)
    return ready, int(rows["VmRSS"].split()[0]) / 1024


def environment_bytes() -> int:
    """Bytes on disk of this environment's site-packages, caches of bytecode left out."""
    import sysconfig

    total = 0
    for folder, names, files in os.walk(sysconfig.get_paths()["purelib"]):
        names[:] = [name for name in names if name != "__pycache__"]
        total += sum(os.lstat(os.path.join(folder, file)).st_blocks * 512 for file in files)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compiled(Path(folder))
        store = small_model(Path(folder, "store"))
        serve_once(store)
        imports = [import_seconds("headrace") for _ in range(options.runs)]
        new = [serve_new(store) for _ in range(options.runs)]
        serves = [serve_once(store) for _ in range(options.runs)]
    figures = {
        "import headrace, ms": 1e3 * statistics.median(imports),
        "headrace serve ready, s": statistics.median(ready for ready, _ in serves),
        "headrace serve ready, model never seen, s": statistics.median(new),
        "idle memory, MiB": statistics.median(memory for _, memory in serves),
        "environment, MB": environment_bytes() / 1e6,
    }
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table("figure", "median", box=None, header_style="bold")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}" if value < 10 else f"{value:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
