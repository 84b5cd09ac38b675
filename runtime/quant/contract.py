"""The accuracy contract: a limit is met, or quantization fails.

Where the whole model loses too much, layers go back to float one after the other, the most sensitive first, until the
limit holds. A layer's sensitivity is the error of the outputs when it alone is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph

Quantizer = Callable[[Sequence[str]], Graph]  # names of layers kept float -> the quantized graph
Metric = Callable[[Graph], float]  # accuracy in percent


@dataclass
class Outcome:
    """A graph that meets the limit, what it scores (percent), and the layers that went back to float."""

    graph: Graph
    score: float
    kept: list[str] = field(default_factory=list)
    sensitivity: dict[str, float] = field(default_factory=dict)  # layer -> SQNR in dB when it alone is quantized


def within(
    layers: Sequence[str],
    quantize: Quantizer,
    score: Metric,
    float_score: float,
    max_drop: float,
    signal: Callable[[Graph], float],
    kept: Sequence[str] = (),
) -> Outcome:
    """Quantize so that float_score - score <= max_drop (percentage points). `signal` answers a graph's SQNR in dB.

    Raises HeadraceError where even one quantized layer loses too much; nothing has been written then.
    """
    outcome = _try(quantize, score, list(kept))
    best = outcome
    if float_score - outcome.score <= max_drop:
        return outcome
    sensitivity = {
        name: signal(quantize([other for other in layers if other != name])) for name in layers if name not in kept
    }
    worst_first = sorted(sensitivity, key=lambda name: (sensitivity[name], name))
    for count in _counts(len(worst_first)):
        outcome = _try(quantize, score, [*kept, *worst_first[:count]])
        outcome.sensitivity = sensitivity
        if float_score - outcome.score <= max_drop:
            return outcome
        best = max(best, outcome, key=lambda found: found.score)
    raise HeadraceError(
        f"accuracy drops by {float_score - best.score:.2f} points at best ({float_score:.2f} % to {best.score:.2f} %), with"
        f" {len(best.kept)} of {len(layers)} layers in float32; the limit is {max_drop:g}. Nothing was written; give more"
        " calibration data, try another observer, or allow a larger drop"
    )


def _counts(total: int) -> list[int]:
    """How many layers go back: one by one at first, then in growing steps; at least one layer stays int8."""
    counts, count = [], 1
    while count < total:
        counts.append(count)
        count += max(1, count // 4)
    return counts


def _try(quantize: Quantizer, score: Metric, kept: list[str]) -> Outcome:
    graph = quantize(kept)
    return Outcome(graph, score(graph), kept)
