"""`headrace inspect`"""

from __future__ import annotations

import collections
from typing import Any

import click

from headrace.cli.output import common, print_json, size_text, table


@click.command("inspect", short_help="Show what a model file holds.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--graph", "show_graph", is_flag=True, help="Print the whole graph as text.")
@click.option("--code", "show_code", is_flag=True, help="Print the graph as Python that runs under headrace.")
@click.option("--optimized", is_flag=True, help="With --graph or --code: after the portable passes.")
@click.option("--kernels", is_flag=True, help="Print what runs each node: a kernel or the reference.")
@click.option("--device", default="cpu", show_default=True, help="With --kernels: cpu, cuda, cuda:N, auto or emulated.")
@common
def command(model: str, show_graph: bool, show_code: bool, optimized: bool, kernels: bool, device: str, as_json: bool) -> None:  # fmt: skip
    """Show a model's interface, operators, members, golden data and figures.

    \b
    headrace inspect net.hr
    headrace inspect net.hr --graph
    headrace inspect net.hr --code
    headrace inspect net.hr --kernels --device cuda
    headrace inspect model.onnx --json
    """
    from headrace.verbs.inspect import inspect

    facts = inspect(model, graph=show_graph, code=show_code, optimized=optimized, kernels=kernels, device=device)
    if as_json:
        print_json(facts)
    elif show_graph or show_code:
        click.echo(facts["code" if show_code else "graph"], nl=False)
    elif kernels:
        _print_kernels(facts)
    else:
        _print(facts)


def _print_kernels(facts: dict[str, Any]) -> None:
    """Nodes in the order in which they run, fused ones for several of the graph; last the count."""
    rows, cpu = facts["kernels"], facts["device"] == "cpu"
    why = [row["kernel"] if cpu or not row["reason"] else f"{row['kernel']}: {row['reason']}" for row in rows]
    table(("operator", "kernel", "node"), [(row["operator"], text, row["node"]) for row, text in zip(rows, why)])
    slow = collections.Counter(row["operator"] for row in rows if row["kernel"] == "reference")
    which = f": {', '.join(f'{name} {count}' for name, count in slow.most_common())}" if slow else ""
    where = "native" if cpu else f"on {facts['device']}"
    click.echo(f"{len(rows)} nodes, {len(rows) - slow.total()} {where}, {slow.total()} by the reference{which}")
    if facts["device_reason"]:
        click.echo(facts["device_reason"])


def _print(facts: dict[str, Any]) -> None:
    click.echo(
        f"{click.style(facts['path'], bold=True)}  {facts['format']}, {size_text(facts['bytes'])}, {facts['parameters']:,} parameters"
    )
    several = len(facts["entries"]) > 1
    for name, entry in facts["entries"].items():
        if several:
            click.echo(f"entry point {click.style(name, bold=True)}")
        held = {state[side]: side for state in entry["states"] for side in ("input", "output")}
        rows = [
            (f"state {kind[:-1]}" if spec["name"] in held else kind[:-1], spec["name"], spec["dtype"], spec["shape"])
            for kind in ("inputs", "outputs")
            for spec in entry[kind]
        ]
        table(("", "name", "dtype", "shape"), rows)
    click.echo("operators  " + ", ".join(f"{name} {count}" for name, count in facts["operators"].items()))
    click.echo(
        f"batching   {'rows are independent' if facts['rows']['independent'] else 'not merged: ' + facts['rows']['reason']}"
    )
    for key, value in facts["properties"].items():
        click.echo(f"{key:<10} {value}")
    if facts.get("members"):
        table(
            ("member", "size", "sha256"),
            [(m["name"], size_text(m["size"]), m["sha256"][:16]) for m in facts["members"]],
        )
