#!/usr/bin/env python3
"""Loading beside onnxruntime: from a packed `.hr` and from `.onnx`, one thread, in turns, weights in the page cache.

python benchmarks/load.py FOLDER [--only NAME] [--rounds 5] [--fresh [--run]] [--json]

FOLDER holds `.onnx` files; archives are packed into a temporary folder. By default loads are repeated in one process; with
--fresh each is the first of a new process (its imports are not counted), and there is one more subject: `kept` loads the archive
as a server does that has been started on this host before, with packed weights mapped from the file which that start left.
Memory is what a fresh process holds above its imports after one load, with --run after a run as well, on inputs of
FOLDER/meta.json: anonymous (its own, and shared memory that no file is behind) and resident (with pages of mapped files, which
processes share and the system can drop). `asked` is how long a model then takes to say what a server asks first, milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SUBJECTS = ("hr", "kept", "onnx", "onnxruntime")
SETTLED_S = 2.5  # after its last write a file counts as one that would show the next
Sample = dict[str, float]


def loader(subject: str) -> Callable[[str], Any]:
    """Load a file; everything that is imported on the way is imported already."""
    if subject == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return lambda path: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    from headrace.runtime import load

    return lambda path: load(path, device="cpu", threads=1, cache=subject == "kept")


def timed(load: Callable[[str], Any], path: str) -> tuple[Sample, Any]:
    """Milliseconds of one load by the clock and of the processor (all threads), and what it answered."""
    wall, cpu = time.perf_counter(), time.process_time()
    model = load(path)
    return {"wall": 1e3 * (time.perf_counter() - wall), "cpu": 1e3 * (time.process_time() - cpu)}, model


def memory() -> Sample:
    """MiB of this process: anonymous, resident."""
    rows = dict(row.split(":", 1) for row in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    shared = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())["RssShmem"]
    mib = {key: int(rows[key].split()[0]) / 1024 for key in ("Anonymous", "Rss")}
    return {"anonymous": mib["Anonymous"] + int(shared.split()[0]) / 1024, "rss": mib["Rss"]}


def runner(subject: str, inputs: list[Any]) -> Callable[[Any], object]:
    """One run of what was loaded."""
    from feeds import feeds_of

    feeds = feeds_of(inputs, 1)
    return lambda model: model.run(None, feeds) if subject == "onnxruntime" else model.run(feeds)


def asked(model: Any) -> Sample:
    """Milliseconds that a model takes to say what a server asks it next: whether rows of requests may be merged, and its size."""
    wall = time.perf_counter()
    _ = model.rows, model.fed_rows, model.weight_bytes
    return {"asked": 1e3 * (time.perf_counter() - wall)}


def alone(subject: str, path: str, warm: str, inputs: str = "") -> Sample:
    """The first load of `path` in this process, after two of a small model, which import what loading needs."""
    load = loader(subject)
    ours = subject != "onnxruntime"
    first = load(warm)
    if ours:
        asked(first)  # reads all sources of operators once, through the processor's caches
    load(warm)
    run = runner(subject, json.loads(inputs)) if inputs else None
    before = memory()
    sample, model = timed(load, path)
    after = memory()
    sample |= {key: after[key] - before[key] for key in after}
    if run is not None:
        run(model)
        after = memory()
        sample |= {f"{key} ran": after[key] - before[key] for key in after}
    if ours:
        sample |= asked(model)
    del model
    return sample


def in_child(subject: str, path: str, warm: str, inputs: str = "") -> Sample:
    command = [sys.executable, __file__, "--child", subject, path, warm, inputs]
    found: Sample = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def pack(source: Path, folder: Path) -> Path:
    from headrace.runtime.source import open_source
    from headrace.serializer import archive

    target = folder / f"{source.stem}.hr"
    archive.save(open_source(source).program, target, optimized=True)
    return target


def warm_models(folder: Path) -> dict[str, str]:
    """A tiny model in each format."""
    from headrace.runtime.graph import Block, Graph, Node, Value
    from headrace.runtime.types import TensorType
    from headrace.serializer import archive
    from headrace.serializer.onnx import save

    value = TensorType("float32", (1,))
    x, y = Value("x", value), Value("y", value)
    graph = Graph(Block([x], [Node("Relu", [x], [y])], [y]))
    archive.save(graph, folder / "warm.hr")
    save.save(graph, folder / "warm.onnx")
    onnx = str(folder / "warm.onnx")
    return {"hr": str(folder / "warm.hr"), "kept": str(folder / "warm.hr"), "onnx": onnx, "onnxruntime": onnx}


def measure(files: dict[str, str], warm: dict[str, str], rounds: int, fresh: bool, inputs: str) -> dict[str, Sample]:
    """Medians by subject, samples taken in turns, and `ratio`: of each to onnxruntime in the same round."""
    subjects = [subject for subject in SUBJECTS if fresh or subject != "kept"]
    loads = {subject: loader(subject) for subject in subjects}
    samples: dict[str, list[Sample]] = {subject: [] for subject in subjects}
    if fresh:
        time.sleep(SETTLED_S)
        in_child("kept", files["kept"], warm["kept"])  # the start before
    else:
        for subject in subjects:
            timed(loads[subject], files[subject])
    for _ in range(rounds):
        for subject in subjects:
            if fresh:
                samples[subject].append(in_child(subject, files[subject], warm[subject], inputs))
            else:
                samples[subject].append(timed(loads[subject], files[subject])[0])
    found = {}
    for subject, taken in samples.items():
        found[subject] = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
        pairs = list(zip(taken, samples["onnxruntime"]))
        for key in ("wall", "cpu"):
            found[subject][f"{key} ratio"] = statistics.median(one[key] / peer[key] for one, peer in pairs)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(alone(*sys.argv[2:6])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], help="a model's name; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--run", action="store_true", help="with --fresh: memory after one run, too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, dict[str, Sample]] = {}
    meta = json.loads((options.folder / "meta.json").read_text()) if options.fresh and options.run else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADRACE_CACHE_DIR"] = str(Path(folder, "cache"))
        warm = warm_models(Path(folder))
        for source in sorted(options.folder.glob("*.onnx")):
            if options.only and source.stem not in options.only:
                continue
            archive = pack(source, Path(folder))
            files = {"hr": str(archive), "kept": str(archive), "onnx": str(source), "onnxruntime": str(source)}
            known = meta.get(source.stem.partition(".")[0])
            inputs = json.dumps(known["inputs"]) if known else ""
            results[source.stem] = measure(files, warm, options.rounds, options.fresh, inputs)
            archive.unlink()
            shutil.rmtree(Path(folder, "cache"), ignore_errors=True)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    subjects = [subject for subject in SUBJECTS if options.fresh or subject != "kept"]
    keys = [
        "cpu",
        "wall",
        *(["asked", "anonymous", "rss"] if options.fresh else []),
        *(["anonymous ran", "rss ran"] if meta else []),
    ]
    ours = subjects[:-2]
    shares = [f"{subject}/ort {key}" for subject in ours for key in ("cpu", "wall")]
    table = Table("model", *(f"{s} {key}" for key in keys for s in subjects), *shares, box=None)
    for name, found in results.items():
        cells = [f"{found[s][key]:.0f}" if key in found[s] else "" for key in keys for s in subjects]
        ratios = [f"{found[subject][f'{key} ratio']:.2f}" for subject in ours for key in ("cpu", "wall")]
        table.add_row(name, *cells, *ratios)
    Console(width=60 + 14 * len(keys) * len(subjects)).print(table)


if __name__ == "__main__":
    main()
