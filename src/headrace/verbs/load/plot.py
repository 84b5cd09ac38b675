"""A picture of a load: latency percentiles over what the server answered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.verbs.plot import INK, OURS, THEIRS, figure_of, write_figure

LINES = (("p50_ms", "p50", OURS, "-"), ("p99_ms", "p99", OURS, "--"), ("p999_ms", "p99.9", THEIRS, ":"))


def plot_load(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the steps of a `load_server` result to a .png, .svg or .pdf file: each step a point, its callers or rate beside
    it; steps that the generator itself bounded are hollow. Raises HeadraceError without matplotlib."""
    figure = figure_of(path, (7.2, 4.2))
    axes = figure.add_subplot()
    steps = result["steps"]
    rates = [step["per_second"] for step in steps]
    for key, name, color, style in LINES:
        axes.plot(rates, [step[key] for step in steps], style, color=color, label=name, linewidth=1.6)
        for step in steps:
            face = "white" if step["generator_bound"] else color
            axes.plot(step["per_second"], step[key], "o", color=color, markerfacecolor=face, markersize=5)
    for step in steps:
        label = f"{step['clients']}" if step["mode"] == "closed" else f"{step['rate']:g}/s"
        place = (step["per_second"], step["p50_ms"])
        axes.annotate(label, place, xytext=(0, -14), textcoords="offset points", ha="center", fontsize=8, color=INK)
    if result["stop_ms"] is not None:
        axes.axhline(result["stop_ms"], color="#b3403a", linewidth=1)
        axes.annotate("bound", (1.0, result["stop_ms"]), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color="#b3403a")  # fmt: skip
    axes.set_yscale("log")
    axes.margins(x=0.08, y=0.15)
    axes.set_xlabel("good answers a second")
    axes.set_ylabel("latency, ms")
    what = "concurrent callers" if steps[0]["mode"] == "closed" else "calls a second, open loop"
    hollow = "; hollow: the generator was the limit" if any(step["generator_bound"] for step in steps) else ""
    title = f"{result['model']} over {result['protocol']}, batch {result['batch']}; numbers are {what}{hollow}"
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=26)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right", ncols=len(LINES), bbox_to_anchor=(1.0, 1.06), fontsize=9)
    write_figure(figure, path)


__all__ = ["plot_load"]
