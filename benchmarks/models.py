#!/usr/bin/env python3
"""Models beside onnxruntime and OpenVINO: the same file, the same inputs, in turns in one process; outputs are compared.

    python benchmarks/models.py FOLDER                          every NAME.onnx, NAME.int8.onnx of the folder
    python benchmarks/models.py FOLDER --only resnet50,lstm --precisions float32,bf16 --rounds 9
    python benchmarks/models.py FOLDER --batch 8 --threads 2    or --tier avx2
    python benchmarks/models.py FOLDER --precisions nncf            NAME.nncf.onnx, which benchmarks/nncf_models.py makes
    python benchmarks/models.py FOLDER --json rows.json         and from such files, without measuring:
    python benchmarks/models.py --read rows.json --plot docs/models.svg

FOLDER holds meta.json: {NAME: {"inputs": [[input, shape without the batch, dtype, exclusive int maximum], ...]}}. Each round
times every engine, and a ratio (the peer's time over headrace's; above 1 headrace is faster) is the median of the rounds'
ratios. With one thread times are of the process's CPU, that of an engine's own threads included, so that a busy machine
changes them little; with more they are of the clock, and each turn waits until the threads of the one before no longer spin. bf16 runs the float32 file with precision="bf16", beside onnxruntime in
float32 (it has no bf16 on a CPU) and OpenVINO in bf16. Peers get the file with its batch as a fixed size, headrace as it is.
`of limit` is the least time in which this machine could do what all nodes do (runtime/profile.py: measured peaks, caches and
memory) over headrace's. `--tier` lowers headrace's instruction set, not that of the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from feeds import feeds_of

import headrace.runtime as runtime
from headrace.runtime import _native
from headrace.verbs import peers

TURN = 0.02  # seconds that one engine runs before the other takes its turn, at least one call
PAUSE = 0.1  # seconds between turns on several threads
COLORS = {"float32": "#8fb8c6", "bf16": "#4d93ab", "int8": "#1f5d74", "nncf": "#6b8f71"}


def fixed(path: Path, batch: int, folder: str) -> Path:
    """A copy of the file with the named dimension of its inputs as a number."""
    model = onnx.load(path)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = batch
    made = Path(folder, path.name)
    onnx.save(model, made)
    return made


def measure(path: Path, precision: str, inputs: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    low = "bf16" if precision == "bf16" else None
    feeds, clock = feeds_of(inputs, options.batch), time.process_time if options.threads == 1 else time.perf_counter
    model = runtime.load(path, device="cpu", threads=options.threads, precision=low)
    names, _ = peers.installed(peers.split_names(options.engines))
    with tempfile.TemporaryDirectory(prefix="headrace-models-") as folder:
        others = peers.start(names, fixed(path, options.batch, folder), feeds, options.threads, low)
    runs: dict[str, Callable[[], Any]] = {"headrace": lambda: model.run(feeds), **{p.name: p.run for p in others}}
    calls: dict[str, int] = {}
    for name, run in runs.items():
        run(), run()
        start = clock()
        run()
        calls[name] = max(1, int(TURN / max(1e-6, clock() - start)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            if options.threads > 1:  # until the threads of the one before have stopped spinning
                time.sleep(PAUSE)
                run()
            start = clock()
            for _ in range(calls[name]):
                run()
            times[name].append((clock() - start) / calls[name] * 1e3)
    ours = list(model.run(feeds).values())
    row: dict[str, Any] = {"precision": precision, "headrace": statistics.median(times["headrace"])}
    row["limit"] = sum(node["limit_ms"] for node in model.profile(feeds, runs=3)) / row["headrace"]
    for peer in others:
        row[peer.name] = statistics.median(times[peer.name])
        row[f"{peer.name}_ratio"] = statistics.median(b / a for a, b in zip(times["headrace"], times[peer.name]))
    if others:
        row["gap"] = max(
            float(np.abs(a - b).max() / max(1e-30, np.abs(b).max())) for a, b in zip(ours, others[0].run())
        )
    return row


def table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    heads = [
        "model",
        "precision",
        "headrace ms",
        "of limit",
        *(head for name in names for head in (f"{name} ms", "ratio")),
    ]
    lines = [f"| {' | '.join(heads)} | largest difference |", "|---|---|" + "--:|" * (len(heads) - 1)]
    for row in rows:
        cells = [
            row["model"],
            row["precision"],
            f"{row['headrace']:.4g}",
            f"{row['limit']:.0%}" if "limit" in row else "",
        ]
        for name in names:
            cells += [f"{row[name]:.4g}", f"{row[f'{name}_ratio']:.2f}"] if name in row else ["", ""]
        lines.append(f"| {' | '.join(cells)} | {row.get('gap', 0):.1e} |")
    return lines


def plot(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Bars of the ratios to onnxruntime, the worst row first, with a mark for OpenVINO's."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = sorted(rows, key=lambda row: float(row["onnxruntime_ratio"]))
    figure = Figure(figsize=(8, 1.4 + 0.27 * len(rows)), layout="constrained")
    axes, places = figure.add_subplot(), range(len(rows))
    ratios = [row["onnxruntime_ratio"] for row in rows]
    axes.barh(places, ratios, color=[COLORS[row["precision"]] for row in rows], height=0.7)
    marked = [(row["openvino_ratio"], place) for place, row in enumerate(rows) if "openvino_ratio" in row]
    if marked:
        axes.scatter(*zip(*marked), marker="D", s=18, facecolor="white", edgecolor="#b4541a", zorder=3)
    for place, ratio in zip(places, ratios):
        axes.annotate(f"{ratio:.2f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(1, color="#2b2f33", linewidth=1)
    axes.set_yticks(list(places), [f"{row['model']}  {row['precision']}" for row in rows], fontsize=8)
    axes.set_xlim(0, max([3.0, *(ratio for ratio in ratios if ratio < 4)]) * 1.05)
    axes.invert_yaxis()
    axes.set_xlabel("time of the peer / time of headrace: right of 1 headrace is faster")
    axes.set_title(title, loc="left", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    handles: list[Any] = [
        Patch(color=color, label=f"onnxruntime, {name}" + (" (its float32)" if name == "bf16" else ""))
        for name, color in COLORS.items()
        if any(row["precision"] == name for row in rows)
    ]
    if marked:
        look = {"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": "#b4541a"}
        handles.append(Line2D([], [], linestyle="", label="OpenVINO, the same precision", **look))
    axes.margins(y=0.01)
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="comma-separated models (default: all)")
    parser.add_argument("--precisions", default="float32,int8,bf16", help="also: nncf")
    parser.add_argument(
        "--engines", default="onnxruntime,openvino", help="peers; those that are not installed are left out"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tier", help="headrace's instruction set at most: baseline, avx2, avx512_vnni, avx512_bf16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="append the rows, a line each, to this file")
    parser.add_argument("--read", type=Path, help="take the rows from such a file instead of measuring")
    parser.add_argument("--plot", type=Path, help="draw the ratios as .svg or .png")
    options = parser.parse_args()
    if (options.folder is None) == (options.read is None):
        parser.error("one of FOLDER and --read")
    if options.tier:
        os.environ["HEADRACE_CPU_TIER"] = options.tier
    names = peers.split_names(options.engines)
    if options.read:
        rows = [json.loads(line) for line in options.read.read_text().splitlines()]
        print("\n".join(table(rows, names)))
    else:
        rows = []
        models = json.loads((options.folder / "meta.json").read_text())
        versions = ", ".join(
            f"{name} {__import__(name).__version__.split('-')[0]}" for name in peers.installed(names)[0]
        )
        print(f"{versions}, tier {_native.cpu_tier()}, batch {options.batch}, {options.threads} thread(s), Python {platform.python_version()}, {date.today()}\n")  # fmt: skip
        for name in options.only.split(",") if options.only else models:
            for precision in options.precisions.split(","):
                path = options.folder / (
                    f"{name}.{precision}.onnx" if precision in ("int8", "nncf") else f"{name}.onnx"
                )
                rows.append({"model": name, **measure(path, precision, models[name]["inputs"], options)})
                print("\n".join(table(rows, names)[0 if len(rows) == 1 else -1 :]), flush=True)
                if options.json:
                    with options.json.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    if options.plot:
        threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
        plot(rows, options.plot, f"batch {options.batch}, {threads}, {date.today()}")


if __name__ == "__main__":
    main()
