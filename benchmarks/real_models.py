"""Run real ONNX models through headrace and compare with recorded answers.

    python benchmarks/real_models.py --cases DIR [--only ocr_det,digits_mlp] [--paths onnx,hr,export,grpc]

DIR holds `index.json` (a list of cases with name, rtol, atol), and for each case `NAME/model.onnx` and folders
`NAME/set_K` with `in_I.npy`, `out_I.npy` in the order of the model's inputs and outputs. Paths:

    onnx     the file as it is
    hr       saved as an archive with golden data, loaded again, verified
    export   exported to ONNX, accepted by the checker, run in onnxruntime, and imported again
    grpc     the archive behind a server on the loopback, asked by the client

Prints a table with one row for each case: how many nodes run here and how many of them by the reference (none should),
then for each path the largest error in units of what the case allows (|a - b| / (atol + rtol * |b|), a miss above 1).
`export` shows two numbers: onnxruntime on the export, and headrace on it. Exits with 1 after a miss or an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headrace import runtime
from headrace.runtime.interface import Golden
from headrace.runtime.lower import lower
from headrace.runtime.passes import optimize
from headrace.serializer import archive
from headrace.serializer.onnx import load as onnx_load
from headrace.serializer.onnx import save as onnx_save

PATHS = ("onnx", "hr", "export", "grpc")
MAX_ROWS = 256  # of one request, as the server's default is
Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


class Case:
    """One model with its recorded answers and its tolerance."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.name, self.rtol, self.atol = facts["name"], float(facts["rtol"]), float(facts["atol"])
        self.model = folder / self.name / "model.onnx"
        self.program = onnx_load.open_program(self.model).program
        main = self.program.main
        self.sets = [
            (
                self._read(place, "in", [value.name for value in main.inputs]),
                self._read(place, "out", [value.name for value in main.outputs]),
            )
            for place in sorted((folder / self.name).glob("set_*"))
        ]

    @staticmethod
    def _read(place: Path, side: str, names: list[str]) -> Arrays:
        return {name: np.load(place / f"{side}_{index}.npy", allow_pickle=False) for index, name in enumerate(names)}

    def error(self, run: Run) -> float:
        """The largest error in units of the tolerance, over all sets and outputs."""
        worst = 0.0
        for feeds, wanted in self.sets:
            found = run(feeds)
            for name, value in wanted.items():
                worst = max(worst, difference(found[name], value, self.rtol, self.atol))
        return worst

    def kernels(self) -> tuple[int, int]:
        """How many nodes run, those of blocks included, and how many of them by the reference."""
        rows = lower(optimize(self.program.main)).nodes()
        return len(rows), sum(not kernel for _, _, kernel in rows)

    def save(self, path: Path) -> None:
        golden = Golden([feeds for feeds, _ in self.sets], [wanted for _, wanted in self.sets], self.rtol, self.atol)
        archive.save(self.program, path, golden=golden, properties={"name": self.name})


def difference(found: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> float:
    """The largest error in units of the tolerance; infinite where shape or dtype differ."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if wanted.size == 0 or wanted.dtype.kind not in "fc":
        return 0.0 if bool((found == wanted).all()) else float("inf")
    gap = np.abs(found.astype(np.float64) - wanted)
    gap = np.where(np.isnan(gap), np.inf, gap)
    return float((gap / (atol + rtol * np.abs(wanted))).max())


def runs(case: Case, path: str, folder: Path) -> Iterator[Run]:
    """What one path runs: functions from feeds to answers."""
    if path == "onnx":
        yield runtime.load(case.model).run
    elif path == "hr":
        case.save(folder / f"{case.name}.hr")
        model = runtime.load(folder / f"{case.name}.hr")
        report = model.verify()
        if not report.ok:
            raise RuntimeError(f"verify: {report.message}")
        yield model.run
    elif path == "export":
        yield from exported(case)
    else:
        yield from served(case, folder)


def exported(case: Case) -> Iterator[Run]:
    import onnx
    import onnxruntime

    proto = onnx_save.to_model(case.program)
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    yield lambda feeds: dict(zip(names, session.run(None, feeds)))
    yield runtime.load(data).run


def served(case: Case, folder: Path) -> Iterator[Run]:
    from headrace.serve import Client, Server

    place = folder / "models" / case.name / "1"
    place.mkdir(parents=True)
    case.save(place / "model.hr")
    with (
        Server(folder / "models", http_port=-1, metrics_port=-1) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        yield lambda feeds: asked(lambda **arrays: client.infer(case.name, **arrays), feeds)


def asked(infer: Callable[..., Arrays], feeds: Arrays) -> Arrays:
    """The answers to one set, asked for in parts where it has more rows than a server takes at once."""
    rows = max((array.shape[0] for array in feeds.values() if array.ndim), default=0)
    if rows <= MAX_ROWS:
        return infer(**feeds)
    parts = [
        infer(**{name: array[start : start + MAX_ROWS] for name, array in feeds.items()})
        for start in range(0, rows, MAX_ROWS)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--only", default="", help="names of cases, joined by commas")
    parser.add_argument("--paths", default=",".join(PATHS), help=f"joined by commas: {', '.join(PATHS)}")
    arguments = parser.parse_args()
    index = json.loads((arguments.cases / "index.json").read_text())
    only = set(filter(None, arguments.only.split(",")))
    paths = arguments.paths.split(",")
    if unknown := (only - {facts["name"] for facts in index}) | (set(paths) - set(PATHS)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    misses = 0
    print("| model | nodes | by the reference | " + " | ".join(paths) + " |")
    print("|---|--:|--:|" + "--:|" * len(paths))
    for facts in index:
        if only and facts["name"] not in only:
            continue
        case = Case(arguments.cases, facts)
        print("| " + " | ".join([case.name, *map(str, case.kernels())]), end="", flush=True)
        for path in paths:
            text, missed = cell(case, path)
            misses += missed
            print(f" | {text}", end="", flush=True)
        print(" |")
    print("\nall within tolerance" if not misses else f"\n{misses} misses")
    return 1 if misses else 0


def cell(case: Case, path: str) -> tuple[str, int]:
    """What the table says of one case and path, and the number of misses."""
    found: list[float] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found.extend(case.error(run) for run in runs(case, path, Path(scratch)))
    except Exception as error:  # one case must not hide the others
        print(f"{case.name}, {path}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        return "error", 1
    return ", ".join(f"{error:.2g}" for error in found), sum(not error <= 1 for error in found)


if __name__ == "__main__":
    sys.exit(main())
