"""Other runtimes beside headrace: the same file, the same inputs, in turns, the answers compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.golden import difference
from headrace.runtime.graph import Graph

Arrays = Mapping[str, np.ndarray]
TOLERANCE, LOW_TOLERANCE = 1e-3, 5e-2  # shares of an output's largest element: float32; integers and bf16 inside


@dataclass(frozen=True)
class Peer:
    """A runtime with the model in it. `run` answers the outputs in the order of the file."""

    name: str
    version: str
    run: Callable[[], Sequence[Any]]


def split_names(names: str | Sequence[str] | None) -> list[str]:
    """ "onnxruntime,openvino", or such a sequence, as a list. Raises HeadraceError for a peer that is not known."""
    found = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or ())
    for name in found:
        if name not in MAKERS:
            raise HeadraceError(f"{name!r} is no runtime to compare with; allowed: {', '.join(MAKERS)}")
    return found


def installed(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those that are here, and why the others are left out."""
    missing = {
        name: f"{name} is not installed; pip install 'headrace[bench]' brings it"
        for name in names
        if find_spec(name) is None
    }
    return [name for name in names if name not in missing], missing


def start(names: Sequence[str], path: Path, feeds: Arrays, threads: int, precision: str | None) -> list[Peer]:
    """The peers, loaded. A `.hr` file is exported to ONNX for them."""
    if not names:
        return []
    if path.suffix == ".onnx":
        return [MAKERS[name](path, feeds, threads, precision) for name in names]
    from headrace.verbs.export import export

    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        exported = Path(folder, "model.onnx")
        export(path, exported)
        return [MAKERS[name](exported, feeds, threads, precision) for name in names]


def _onnxruntime(path: Path, feeds: Arrays, threads: int, precision: str | None) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = dict(feeds)
    return Peer("onnxruntime", onnxruntime.__version__, lambda: session.run(None, given))


def _openvino(path: Path, feeds: Arrays, threads: int, precision: str | None) -> Peer:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    ports = {name: index for index, port in enumerate(compiled.inputs) for name in port.get_names()}
    given = {ports[name]: array for name, array in feeds.items() if name in ports}

    def run() -> list[Any]:
        results = request.infer(given, share_inputs=True)
        return [results[index] for index in range(len(compiled.outputs))]

    return Peer("openvino", openvino.__version__.split("-")[0], run)


MAKERS: dict[str, Callable[[Path, Arrays, int, str | None], Peer]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def default_tolerance(graph: Graph, precision: str | None) -> float:
    """What outputs may differ by, as a share of their largest element: more where factors are rounded on the way."""
    rounded = any("Quantize" in node.operator or "Integer" in node.operator or "QLinear" in node.operator for node in graph.block.walk())  # fmt: skip
    return LOW_TOLERANCE if rounded or precision == "bf16" else TOLERANCE


def agreement(ours: Arrays, theirs: Sequence[Any], tolerance: float) -> dict[str, Any]:
    """Whether a peer answers the same: max_difference (absolute), agrees, and what does not."""
    worst, message = 0.0, ""
    for (name, mine), other in zip(ours.items(), theirs, strict=True):
        seen = difference(mine, other, tolerance, 1e-6)
        worst = max(worst, seen.error)
        if seen.message and not message:
            message = f"output {name!r} {seen.message}"
    return {"max_difference": worst, "agrees": not message, "message": message}
