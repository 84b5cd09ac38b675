"""What quantization costs: errors of outputs, accuracy, weight errors of layers, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph


def error(reference: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """How far `actual` is from `reference`: largest absolute error, relative error (root of summed squares), cosine,
    and the signal-to-quantization-noise ratio in dB (infinite errors aside, larger is better; no noise: 999)."""
    a, b = np.asarray(reference, np.float64).ravel(), np.asarray(actual, np.float64).ravel()
    noise, signal = float(np.sum((a - b) ** 2)), float(np.sum(a**2))
    norms = float(np.sqrt(signal * np.sum(b**2)))
    return {
        "max_abs": float(np.abs(a - b).max(initial=0.0)),
        "relative": float(np.sqrt(noise / signal)) if signal else float(noise > 0),
        "cosine": float(a @ b / norms) if norms else float(signal == np.sum(b**2)),
        "sqnr_db": decibels(signal, noise),
    }


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), held within ±999."""
    if noise == 0:
        return 999.0
    return float(10.0 * np.log10(signal / noise)) if signal else -999.0


def output_errors(reference: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each numeric output, over all batches; with the share of equal top choices where it has classes."""
    rows = []
    for name in reference[0] if reference else ():
        pairs = [(np.asarray(a[name]), np.asarray(b[name])) for a, b in zip(reference, actual)]
        if any(a.dtype.kind in "OSU" or a.shape != b.shape for a, b in pairs):
            continue
        joined = [np.concatenate([side.astype(np.float64).ravel() for side in sides]) for sides in zip(*pairs)]
        row: dict[str, Any] = {"name": name, **error(*joined)}
        if all(a.ndim >= 2 and a.shape[-1] > 1 and a.size for a, _ in pairs):
            equal = np.concatenate([(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs])
            row["top1_agreement"] = float(equal.mean())
        rows.append(row)
    return rows


def accuracy(outputs: Mapping[str, Any], labels: np.ndarray) -> float:
    """The share of right answers: the largest entry along the last axis of a score output, or an integer output as it
    is. The first output that fits is taken. Raises HeadraceError where none does."""
    labels = np.asarray(labels).ravel()
    for value in outputs.values():
        array = np.asarray(value)
        if array.dtype.kind in "iu" and array.size == labels.size:
            return float(np.mean(array.ravel() == labels))
        if (
            array.dtype.kind not in "OSU"
            and array.ndim >= 2
            and array.size
            and array.size // array.shape[-1] == labels.size
        ):
            return float(np.mean(array.argmax(-1).ravel() == labels))
    shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in outputs.items())
    raise HeadraceError(f"no output can be compared with {labels.size} labels; outputs: {shapes}")


def weight_rows(before: Graph, layers: Sequence[Any], quantized: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row for each layer: kind, shape of the weights, and their quantization error. `quantized` holds the
    dequantized weights of the layers that were quantized, by layer name."""
    rows = []
    for layer in layers:
        weights = before.constant_of(layer.weights)
        if weights is None:
            continue
        row: dict[str, Any] = {
            "name": layer.name,
            "operator": layer.node.kind,
            "shape": list(weights.shape),
            "quantized": layer.name in quantized,
        }
        if layer.name in quantized:
            row["weight_sqnr_db"] = error(weights, quantized[layer.name])["sqnr_db"]
        rows.append(row)
    return rows
