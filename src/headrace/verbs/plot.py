"""A picture of a comparison: the median time of each engine, and how it spreads."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.runtime import atomic
from headrace.runtime.errors import HeadraceError

OURS, THEIRS, INK = "#1f6f8b", "#c4c9cf", "#2b2f33"
FORMATS = (".png", ".svg", ".pdf")


def figure_of(path: str | Path, size: tuple[float, float]) -> Any:
    """An empty figure that can be written to `path`. HeadraceError without matplotlib, or for another suffix."""
    if Path(path).suffix not in FORMATS:
        raise HeadraceError(f"{path}: a plot is written as {', '.join(FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise HeadraceError("a plot needs matplotlib; pip install 'headrace[bench]' brings it") from error
    return Figure(figsize=size, layout="constrained")


def write_figure(figure: Any, path: str | Path) -> None:
    """Write it, whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix[1:], dpi=160)
    atomic.replace(path, [drawn.getbuffer()])


def plot_comparison(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the engines of a `bench_file` result as bars (median ms; the line spans the quartiles) to a
    .png, .svg or .pdf file. Raises HeadraceError without matplotlib, or for another suffix."""
    engines = result["engines"]
    names = list(engines)
    medians = [engines[name]["p50_ms"] for name in names]
    spread = [
        [engine["p50_ms"] - engine["p25_ms"] for engine in engines.values()],
        [engine["p75_ms"] - engine["p50_ms"] for engine in engines.values()],
    ]
    figure = figure_of(path, (7.2, 1.5 + 0.55 * len(names)))
    axes = figure.add_subplot()
    places = range(len(names))
    colors = [OURS if name == "headrace" else THEIRS for name in names]
    axes.barh(places, medians, xerr=spread, color=colors, height=0.62, error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3})  # fmt: skip
    ends = [engine["p75_ms"] for engine in engines.values()]
    for place, name in enumerate(names):
        peer = result["peers"].get(name)
        note = f"{medians[place]:.3g} ms"
        if peer is not None:
            note += f"  ({peer['ratio']:.2f}x headrace)"
            note += "" if peer["agrees"] else ", answers differ"
        axes.annotate(note, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=9)
    axes.set_yticks(list(places), [f"{name} {engines[name]['version']}" for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, min(1.05 * max(ends), 2 * max(medians)) or 1.0)  # a line may leave the picture, no bar gets lost
    axes.set_xlabel("milliseconds a call: median and quartiles")
    threads = f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}"
    axes.set_title(
        f"{Path(result['target']).name}, batch {result['batch']}, {threads}", loc="left", fontsize=11, color=INK
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    write_figure(figure, path)
