"""What classifiers share: labels and the transforms of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError


def string_or_int(
    attributes: Mapping[str, Any], strings: str = "classlabels_strings", integers: str = "classlabels_int64s"
) -> tuple[str, Sequence[Any]]:
    """("string" or "int64", the labels)."""
    if attributes[strings]:
        return "string", attributes[strings]
    if attributes[integers]:
        return "int64", attributes[integers]
    raise GraphError(f"there are no labels: one of {strings} and {integers} must be given")


def post_transform(scores: Any, transform: str) -> Any:
    """NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO (zeros stay zero), PROBIT, along the last axis."""
    kind = scores.dtype
    with np.errstate(all="ignore"):
        match transform:
            case "LOGISTIC":
                spread = np.exp(-np.abs(scores))
                result = np.where(scores >= 0, 1 / (1 + spread), spread / (1 + spread))
            case "SOFTMAX" | "SOFTMAX_ZERO":
                spread = np.exp(scores - scores.max(-1, keepdims=True))
                if transform == "SOFTMAX_ZERO":
                    spread = np.where(scores == 0, 0, spread)
                total = spread.sum(-1, keepdims=True)
                result = spread / np.where(total == 0, 1, total)
            case "PROBIT":
                result = np.sqrt(2.0) * _erf_inverse(2.0 * scores.astype(np.float64) - 1)
            case _:
                return scores
    return np.asarray(result).astype(kind)


def _erf_inverse(x: Any) -> Any:
    """The inverse error function by Winitzki's approximation (2008), which onnxruntime uses too."""
    log = np.log((1 - x) * (1 + x))
    half = 2 / (np.pi * 0.147) + 0.5 * log
    return np.sign(x) * np.sqrt(-half + np.sqrt(half * half - log / 0.147))
