"""Quantization to int8, and of weights alone to 4 or 8 bits.

    import headrace
    result = headrace.quantization.quantize("net.hr", "net-int8.hr", calibration="samples.npz")
    result.report["outputs"]

`static` calibrates activation ranges on data and quantizes Conv, Gemm and MatMul (for convolutional networks);
`dynamic` needs no data and quantizes the activations of MatMul and Gemm row by row while running (for transformers);
`weight-only` needs no data either and keeps the weights of MatMul and Gemm in blocks of 4 or 8 bits, which is what bounds a
language model that answers one token at a time.
The archive that is written holds the integer model's own golden outputs, `calibration.json` and `quant_report.json`.
The same model and data give the same bytes.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph, Program
from headrace.runtime.interface import Golden
from headrace.runtime.quant import contract, report, schemes
from headrace.runtime.quant.calibrate import Feeds, Progress, Statistics, digest, runner
from headrace.runtime.quant.data import CHUNK, batches, chunks, random_batches, typed
from headrace.runtime.quant.dynamic import dynamic_layers, quantize_dynamic
from headrace.runtime.quant.observers import OBSERVERS
from headrace.runtime.quant.static import Layer, insert, joined, layers_of, measure, plan, prepare
from headrace.runtime.quant.weight_only import Blocks, quantize_weights
from headrace.runtime.source import READERS

__all__ = ["Blocks", "QuantizeResult", "quantize"]

METHODS = ("static", "dynamic", "weight-only")
COMPARED = 32  # batches that output errors are taken over
RECORDED = 4  # batches of golden data
ROWS = 8  # of each of these, where the model has a batch dimension


@dataclass(frozen=True)
class QuantizeResult:
    """The quantized program, what it costs (`report`, see `quant_report.json`), and the calibration (`None` unless static)."""

    program: Program
    report: dict[str, Any]
    calibration: dict[str, Any] | None = None


def quantize(
    source: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    method: str = "static",
    calibration: Any = None,
    labels: Any = None,
    observer: str = "minmax",
    max_drop: float | None = None,
    blocks: Blocks | None = None,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Quantize a model; write it to `output` (.hr) where that is given.

    source: a path (.hr, .onnx), an exported program, a Program with one entry point, or a Graph.
    method: static, dynamic (both int8), or weight-only (`blocks`: bits, group, symmetric, rows).
    calibration: representative inputs; an .npz file (arrays by input name), a folder of .npz files (a batch
        each) or .npy files (for a model of one input), or an iterable of dicts. Static quantization needs it; the others
        use it for the report only, and random inputs without it. Batches of more than 64 rows are cut.
    labels: (inputs by name, class numbers), for accuracy before and after.
    observer: how activation ranges are taken: minmax, moving-average, percentile, entropy, mse.
    max_drop: the largest loss of accuracy allowed, in percentage points; needs labels. Layers go back to float32, the
        most sensitive first, until it holds; where it cannot, HeadraceError is raised and nothing is written.
    progress: called as progress(done, total) while calibrating.

    Raises HeadraceError (LoadError for an unreadable source) saying what is wrong and what is allowed.
    """
    _check_arguments(method, observer, calibration, labels, max_drop, blocks)
    graph, properties = _open(source)
    data = list(batches(calibration, graph)) if calibration is not None else []
    work = _Work(graph, prepare(graph), data, method, observer, blocks or Blocks(), labels, progress)
    outcome = work.outcome(max_drop)
    result = QuantizeResult(Program({graph.name: outcome.graph}), work.report(outcome), work.calibration())
    if output is not None:
        _save(Path(output), result, work.golden(outcome.graph), properties, work.scheme)
    return result


def _check_arguments(
    method: str, observer: str, calibration: Any, labels: Any, max_drop: float | None, blocks: Blocks | None
) -> None:
    if method not in METHODS:
        raise HeadraceError(f"no quantization method is called {method!r}; allowed: {', '.join(METHODS)}")
    if observer not in OBSERVERS:
        raise HeadraceError(f"no observer is called {observer!r}; allowed: {', '.join(OBSERVERS)}")
    if method == "static" and calibration is None:
        raise HeadraceError("static quantization needs calibration data; without data, method='dynamic' is allowed")
    if blocks is not None and method != "weight-only":
        raise HeadraceError(f"blocks are for method='weight-only', not {method!r}")
    if max_drop is not None and labels is None:
        raise HeadraceError("max_drop needs labels to measure accuracy: (inputs by name, class numbers)")
    if max_drop is not None and not max_drop >= 0:
        raise HeadraceError(f"max_drop is {max_drop}; allowed are percentage points from 0")


# ---- the source


def _open(source: Any) -> tuple[Graph, dict[str, str]]:
    """The one entry point of a source, and the properties of its file."""
    if isinstance(source, Graph):
        return source, {}
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.suffix not in READERS:
            raise HeadraceError(
                f"{path.name}: a file that ends in {path.suffix!r} cannot be read; allowed: {', '.join(READERS)}"
            )
        opened = importlib.import_module(READERS[path.suffix]).open_program(str(path))
        return _only_entry(opened.program), dict(opened.properties)
    for name in ("program", "graph"):
        inner = getattr(source, name, None)
        inner = inner() if callable(inner) else inner
        if isinstance(inner, Program | Graph):
            return _open(inner)
    if isinstance(source, Program):
        return _only_entry(source), {}
    raise HeadraceError(
        f"a {type(source).__name__} cannot be quantized; allowed: a path, an exported program, a Program, a Graph"
    )


def _only_entry(program: Program) -> Graph:
    if len(program.entries) != 1:
        raise HeadraceError(
            f"the program has {len(program.entries)} entry points ({', '.join(program.entries)}); allowed is one"
        )
    return program.main


# ---- the work


class _Work:
    """One quantization: float graph, data, and what is needed to try it with some layers left in float32."""

    def __init__(
        self,
        graph: Graph,
        prepared: Graph,
        data: list[Feeds],
        method: str,
        observer: str,
        blocks: Blocks,
        labels: Any,
        progress: Progress | None,
    ) -> None:
        self.graph, self.prepared, self.data = graph, prepared, data
        self.method, self.observer, self.blocks = method, observer, blocks
        self.scheme = f"weight-only {blocks}" if method == "weight-only" else f"{method} int8"
        self.labels = _labels(labels, graph) if labels is not None else None
        self.layers: list[Layer] = layers_of(prepared) if method == "static" else dynamic_layers(prepared)
        self.statistics = self._measure(progress) if method == "static" else Statistics()
        self.compared = (data or random_batches(graph))[:COMPARED]
        self._reference: list[dict[str, Any]] | None = None
        self._float_score: float | None = None

    def _measure(self, progress: Progress | None) -> Statistics:
        if not self.layers:
            raise HeadraceError(
                "the model has no Conv, Gemm or MatMul with constant float32 weights; there is nothing to quantize"
            )
        return measure(self.prepared, plan(self.prepared), self.data, observer=self.observer, progress=progress)

    def quantized(self, kept: Sequence[str]) -> Graph:
        """The quantized graph with the layers named in `kept` in float32. Statistics are taken once, for the whole model."""
        if self.method == "dynamic":
            return quantize_dynamic(self.prepared, kept=kept)
        if self.method == "weight-only":
            return quantize_weights(self.prepared, self.blocks, kept=kept)
        chosen = plan(self.prepared, kept)
        return insert(self.prepared, chosen, self.statistics)

    def outcome(self, max_drop: float | None) -> contract.Outcome:
        if not self.layers:
            raise HeadraceError(
                f"the model has no layer that {self.method} quantization takes; there is nothing to quantize"
            )
        if max_drop is None or self.labels is None:
            return contract.Outcome(self.quantized([]), float("nan"))
        names = [layer.name for layer in self.layers]
        return contract.within(names, self.quantized, self.score, self.float_score, max_drop, self.signal)

    @property
    def reference(self) -> list[dict[str, Any]]:
        if self._reference is None:
            self._reference = _run_all(self.graph, self.compared)
        return self._reference

    @property
    def float_score(self) -> float:
        if self._float_score is None:
            self._float_score = self.score(self.graph)
        return self._float_score

    def score(self, graph: Graph) -> float:
        """Accuracy in percent."""
        if self.labels is None:
            raise HeadraceError("accuracy needs labels")
        feeds, classes = self.labels
        parts = _run_all(graph, list(chunks(feeds, graph, CHUNK)))
        whole = (
            {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
            if len(parts) > 1
            else parts[0]
        )
        return 100.0 * report.accuracy(whole, classes)

    def signal(self, graph: Graph) -> float:
        """The least SQNR of an output, in dB."""
        rows = report.output_errors(self.reference, _run_all(graph, self.compared))
        return min((float(row["sqnr_db"]) for row in rows), default=0.0)

    def report(self, outcome: contract.Outcome) -> dict[str, Any]:
        blocks = self.blocks if self.method == "weight-only" else None
        quantized = {
            layer.name: _rounded(self.prepared, layer, blocks)
            for layer in self.layers
            if layer.name not in outcome.kept
        }
        found: dict[str, Any] = {
            "format": 1,
            "method": self.method,
            "scheme": self.scheme,
            "outputs": report.output_errors(self.reference, _run_all(outcome.graph, self.compared)),
            "compared_on": {"batches": len(self.compared), "data": "calibration" if self.data else "random"},
            "layers": report.weight_rows(self.prepared, self.layers, quantized),
            "kept_float": list(outcome.kept),
            "bytes": {"float": self.graph.weight_bytes, "quantized": outcome.graph.weight_bytes},
        }
        if outcome.sensitivity:
            found["sensitivity_db"] = outcome.sensitivity
        if self.labels is not None:
            after = outcome.score if not np.isnan(outcome.score) else self.score(outcome.graph)
            found["accuracy"] = {
                "float": self.float_score / 100.0,
                "quantized": after / 100.0,
                "drop_points": self.float_score - after,
                "samples": int(self.labels[1].size),
            }
        return found

    def calibration(self) -> dict[str, Any] | None:
        if self.method != "static":
            return None
        used = {value.name: list(pair) for value, pair in joined(plan(self.prepared), self.statistics.ranges).items()}
        return {
            "format": 1,
            "observer": self.observer,
            "batches": len(self.data),
            "sha256": digest(self.data),
            "ranges": used,
        }

    def golden(self, graph: Graph) -> Golden:
        """The integer model's own answers on the first batches, a few rows of each."""
        inputs = [dict(next(chunks(feeds, graph, ROWS))) for feeds in self.compared[:RECORDED]]
        return Golden(inputs, _run_all(graph, inputs), rtol=1e-4, atol=1e-5)


def _rounded(graph: Graph, layer: Layer, blocks: Blocks | None) -> np.ndarray:
    """What a layer's weights are after quantization."""
    array = graph.constant_of(layer.weights)
    assert array is not None  # a layer has constant weights
    if blocks is not None and layer.node.kind != "Gather":
        columns = array.T if layer.axis else array
        rounded = blocks.quantize(columns).dequantize()
        return rounded.T if layer.axis else rounded
    integers, scheme = schemes.weights(array, layer.axis)
    return scheme.dequantize(integers, layer.axis)


def _labels(labels: Any, graph: Graph) -> tuple[Feeds, np.ndarray]:
    try:
        feeds, classes = labels
    except (TypeError, ValueError):
        raise HeadraceError("labels must be a pair: inputs by name, and class numbers") from None
    names = [value.name for value in graph.inputs]
    missing = [name for name in names if name not in feeds]
    if missing:
        raise HeadraceError(
            f"the labelled data has no array {missing[0]!r}; it has {', '.join(feeds)}; inputs: {', '.join(names)}"
        )
    checked = {value.name: typed(feeds[value.name], value.type) for value in graph.inputs}
    return checked, np.asarray(classes).ravel()


def _run_all(graph: Graph, batches: Sequence[Feeds]) -> list[dict[str, Any]]:
    run: Callable[[Feeds], dict[str, Any]] = runner(graph)
    return [run(feeds) for feeds in batches]


def _save(path: Path, result: QuantizeResult, golden: Golden, properties: dict[str, str], scheme: str) -> None:
    archive = importlib.import_module("headrace.serializer.archive")
    write = partial(json.dumps, sort_keys=True, indent=1, allow_nan=False)
    members = {"quant_report.json": write(result.report).encode()}
    if result.calibration is not None:
        members["calibration.json"] = write(result.calibration).encode()
    kept = {key: value for key, value in properties.items() if key != "created"}
    archive.save(
        result.program, path, golden=golden, properties={**kept, "quantization": scheme},
        extra_members=members, created=properties.get("created"), optimized=True,
    )  # fmt: skip
