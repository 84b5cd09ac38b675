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
@click.option("--passes", is_flag=True, help="Print what every optimization pass does to the graph.")
@click.option("--without", multiple=True, metavar="PASS", help="Leave this pass out; may be given several times.")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), help="As in run and bench: bf16 rounds factors.")
@click.option("--memory", is_flag=True, help="Print how much memory the model and one call take.")
@click.option("--batch", default=1, show_default=True, help="With --memory: rows of inputs whose batch is free.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help="With --memory: the shape of an input."
)
@click.option("--device", default="cpu", show_default=True, help="With --kernels: cpu, cuda, cuda:N, auto or emulated.")
@common
def command(
    model: str, show_graph: bool, show_code: bool, shapes: tuple[str, ...], as_json: bool, **asked: Any
) -> None:
    """Show a model's interface, operators, members, golden data and figures.

    \b
    headrace inspect net.hr
    headrace inspect net.hr --graph
    headrace inspect net.hr --code
    headrace inspect net.hr --kernels --device cuda
    headrace inspect net.hr --passes --without channels_last
    headrace inspect net.hr --memory --batch 8
    headrace inspect model.onnx --json
    """
    from headrace.verbs.inspect import inspect

    facts = inspect(model, graph=show_graph, code=show_code, shapes=dict(map(_shape, shapes)), **asked)
    if as_json:
        print_json(facts)
    elif show_graph or show_code:
        click.echo(facts["code" if show_code else "graph"], nl=False)
    elif asked["kernels"] or asked["passes"] or asked["memory"]:
        for key, show in (("kernels", _print_kernels), ("passes", _print_passes), ("memory", _print_memory)):
            if key in facts:
                show(facts)
    else:
        _print(facts)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """ "x=1x3x224x224" -> ("x", (1, 3, 224, 224))."""
    name, _, sizes = text.rpartition("=")
    parts = sizes.split("x") if sizes else []
    if not name or not all(part.isdecimal() for part in parts):
        raise click.UsageError(f"--shape takes NAME=SIZExSIZE, such as image=1x3x224x224, not {text!r}")
    return name, tuple(map(int, parts))


def _print_passes(facts: dict[str, Any]) -> None:
    """One line a pass that did something; those that found nothing, and those left out, by name."""
    busy = [row for row in facts["passes"] if row["did"] and row["portable"] is not None]
    where = {True: "any machine", False: "this machine"}
    table(
        ("pass", "for", "nodes", "what it did"),
        [(row["name"], where[row["portable"]], row["count"], row["did"]) for row in busy],
        numbers=("nodes",),
    )
    idle = [row["name"] for row in facts["passes"] if not row["did"]]
    left = [row["name"] for row in facts["passes"] if row["portable"] is None]
    if idle:
        click.echo(f"nothing to do: {', '.join(idle)}")
    if left:
        click.echo(f"left out: {', '.join(left)}")


def _print_memory(facts: dict[str, Any]) -> None:
    memory = facts["memory"]
    shared = "mapped from the file, shared" if facts["format"] == "headrace archive" else "in memory"
    kept = "; kept for the next start" if memory["file"] else ""
    told = {
        "weights": shared,
        "packed": f"weights in the order of kernels; {size_text(memory['shared'])} shared by all that load the file{kept}",
        "arena": "values on the way, of each call at a time",
        "folded": "values known beforehand, of each input shape",
        "inputs": "of one call",
        "outputs": "of one call",
        "peak": "all of these",
    }
    table(
        ("memory", "size", ""), [(key, size_text(memory[key]), text) for key, text in told.items()], numbers=("size",)
    )
    shapes = ", ".join(f"{name} [{', '.join(map(str, sizes))}]" for name, sizes in memory["shapes"].items())
    click.echo(f"for inputs {shapes or 'none'}")
    if memory["file"]:
        click.echo(f"packed weights that a start maps: {memory['file']}")
    if memory["dynamic"]:
        click.echo(
            f"{memory['dynamic']} of {memory['steps']} nodes have sizes that only a run knows: their values come on top"
        )


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
