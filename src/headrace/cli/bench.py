"""`headrace bench`"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from headrace.cli.output import common, print_json, progress, share_text, table

LONGEST = 25  # nodes of a profile that are printed; --json has all


@click.command("bench", short_help="Time a model file, or load a server.")
@click.argument("target")
@click.argument("model", required=False)
@click.option(
    "--inputs", type=click.Path(exists=True, dir_okay=False), help="Inputs (.npz) to run with; else made from --seed."
)
@click.option("--seed", default=0, show_default=True, help="Seed of inputs that are made.")
@click.option("--batch", default=1, show_default=True, help="Batch size of inputs that are made.")
@click.option("--threads", default=1, show_default=True, help="Threads (a file only).")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or auto (a file only).")
@click.option(
    "--precision", type=click.Choice(["float32", "bf16"]), help="bf16: products of rounded factors (a file only)."
)
@click.option("--without", multiple=True, help="Leave this pass out (inspect --passes lists them; a file only).")
@click.option("--seconds", default=3.0, show_default=True, help="How long to measure.")
@click.option("--clients", default=8, show_default=True, help="Concurrent callers (a server only).")
@click.option("--compare", help="Run these peers in turns with us and compare answers: onnxruntime,openvino.")
@click.option("--tolerance", type=float, help="How far answers may differ, as a share of the largest element.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the comparison into this .png, .svg or .pdf file.")
@click.option("--profile", is_flag=True, help="Time by node and kernel, beside what this machine can do (a file only).")
@click.option("--trace", type=click.Path(dir_okay=False), help="Write one run as a trace for ui.perfetto.dev.")
@common
def command(target: str, model: str | None, inputs: str | None, seed: int, batch: int, clients: int, seconds: float, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Time TARGET: a model file here, or MODEL on a running server (host:port, or http://host:port).

    \b
    headrace bench net.hr
    headrace bench net.hr --profile --trace net.trace.json
    headrace bench model.onnx --compare onnxruntime,openvino --plot model.png
    headrace bench 127.0.0.1:8001 digits --clients 64 --seconds 10
    """
    from pathlib import Path

    from headrace.verbs.bench import bench_file, bench_server

    if Path(target).is_file():
        result = bench_file(target, inputs, seed=seed, batch=batch, seconds=seconds, **options)
    elif model is None:
        raise click.UsageError(
            f"{target} is not a file; to load a server, name the model: headrace bench {target} MODEL"
        )
    else:
        with progress("requests", quiet=as_json) as step:
            result = bench_server(
                target, model, inputs, seed=seed, batch=batch, clients=clients, seconds=seconds, progress=step
            )
    for reason in result.get("skipped", {}).values():
        click.echo(f"left out: {reason}", err=True)
    if as_json:
        print_json(result)
    else:
        _print_engines(result)
        if "profile" in result:
            _print_profile(result)
        for key in ("trace", "plot"):
            if options.get(key):
                click.echo(f"{key} written to {options[key]}")
    differing = [f"{name}: {peer['message']}" for name, peer in result.get("peers", {}).items() if not peer["agrees"]]
    if differing:
        raise click.ClickException(f"answers differ from {'; '.join(differing)}")


def _print_engines(result: Mapping[str, Any]) -> None:
    peers = result.get("peers", {})
    columns = ["", "calls", "per second", "p50 ms", "p90 ms", "p99 ms", "failed"]
    numbers = columns[1:]
    if peers:
        columns += ["time / ours", "largest difference", "answers"]
        numbers += columns[-3:-1]
    rows = []
    for name, engine in result["engines"].items():
        row = [
            f"{name} {engine['version']}" if "version" in engine else name,
            engine["calls"],
            f"{engine['per_second']:.1f}",
            *(f"{engine[key]:.3f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            engine["failed"],
        ]
        if name in peers:
            peer = peers[name]
            row += [f"{peer['ratio']:.2f}", f"{peer['max_difference']:.2e}", "agree" if peer["agrees"] else "DIFFER"]
        rows.append(row)
    table(columns, rows, numbers=numbers)
    if peers:
        click.echo(f"answers agree within {result['tolerance']:g} of an output's largest element")


def _print_profile(result: Mapping[str, Any]) -> None:
    if "peaks" in result:
        peaks = result["peaks"]
        told = [f"{name} {peaks[name]:.0f} G/s" for name in ("float32", "bf16", "int8") if peaks[name]]
        threads = f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}"
        click.echo(
            f"\nmeasured limits of this machine, {threads}: {', '.join(told)}; memory {peaks['memory']:.1f} GB/s (caches are faster)\n"
        )
        columns = ("kernel", "nodes", "ms", "share", "", *WORK)
        rows = [
            (k["kernel"], k["nodes"], f"{k['ms']:.3f}", *share_text(k["share"]), *_work(k)) for k in result["kernels"]
        ]
        table(columns, rows, numbers=("nodes", "ms", "share", *WORK))
        click.echo()
    nodes: Sequence[Mapping[str, Any]] = result["profile"][:LONGEST]
    columns = ("node", "operator", "kernel", "ms", "share", "", *(WORK if "peaks" in result else ()))
    table(
        columns,
        [
            (_name(p["node"]), p["operator"], p["kernel"], f"{p['ms']:.3f}", *share_text(p["share"]), *(_work(p) if "peaks" in result else ()))
            for p in nodes
        ],
        numbers=("ms", "share", *WORK),
    )  # fmt: skip
    left = len(result["profile"]) - len(nodes)
    if left:
        rest = sum(p["ms"] for p in result["profile"][LONGEST:])
        click.echo(f"and {left} more nodes, {rest:.3f} ms together (--json has all)")


def _name(label: str) -> str:
    """A node's name out of "node 'name' (kind -> outputs)", or its outputs where it has none."""
    named = re.match(r"node '(.*)' \(", label)
    return named[1] if named else label.rpartition("-> ")[2].rstrip(")")


WORK = ("GFLOP/s", "GB/s", "of limit")


def _work(row: Mapping[str, Any]) -> tuple[object, ...]:
    """GFLOP/s, or GB/s where time goes by bytes; and the share of the limit, red where most of the machine is unused."""
    from rich.text import Text

    share = row["of_peak"]
    color = "green" if share >= 0.6 else "yellow" if share >= 0.3 else "red"
    limit = Text(f"{share:.0%}", style=color) if share else Text("-")
    if row["gflops"] is None:
        return "", f"{row['gbytes']:.1f}", limit
    return f"{row['gflops']:.1f}", "", limit
