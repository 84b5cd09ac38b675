"""What `headrace bench` prints about a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from headrace.cli.output import table

TIMES = ("p50", "p90", "p99", "p99.9", "max")


def print_load(result: Mapping[str, Any]) -> None:
    """A row for every step, and what it shows about the generator."""
    from rich.text import Text

    steps = result["steps"]
    opened = steps[0]["mode"] == "open"
    first = "rate" if opened else "clients"
    columns = [first, "good / s", *(f"{name} ms" for name in TIMES), "calls", "wrong", "errors"]
    columns += ["late ms", "generator"]
    rows = []
    for number, step in enumerate(steps):
        load = f"{step['rate']:g}" if opened else str(step["clients"])
        mark = " *" if number == result["best"] and len(steps) > 1 else ""
        errors = ", ".join(f"{meaning} {count}" for meaning, count in sorted(step["errors"].items())) or "0"
        cores = f"{step['generator_cores']:.2f} cores"
        rows.append(
            [
                load + mark,
                f"{step['per_second']:,.0f}",
                *(f"{step[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")),
                step["calls"],
                Text(str(step["wrong"]), style="red" if step["wrong"] else ""),
                Text(errors, style="red" if step["errors"] else ""),
                f"{step['lag_ms']:.2f}",
                Text(cores, style="yellow" if step["generator_bound"] else ""),
            ]
        )
    table(columns, rows, numbers=[name for name in columns if name not in ("errors", "generator")])
    checked = "the golden data, then the first answer" if result["golden"] else "the first answer"
    click.echo(f"every answer was compared with {checked}")
    if len(steps) > 1 and result["best"] is not None:
        bound = f" within {result['stop_ms']:g} ms at p99" if result["stop_ms"] is not None else ""
        click.echo(f"* the most good answers a second{bound}")
    elif result["best"] is None:
        click.echo(f"no step kept p99 within {result['stop_ms']:g} ms")
    if any(step["generator_bound"] for step in steps):
        click.echo(
            "the generator itself was busy or late (yellow): the server may be faster; try --processes, or another machine",
            err=True,
        )
