"""`headrace bench`"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from headrace.cli.load import print_load
from headrace.cli.output import common, print_json, progress, share_text, table
from headrace.cli.secure import secure

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
@click.option(
    "--clients", default="8", show_default=True, help="Concurrent callers, or a sweep: 1,8,64 (a server only)."
)
@click.option("--rate", help="Calls a second whatever the server does, or a sweep: 100,200 (a server only).")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Times of calls with --rate.",
)
@click.option("--stop-ms", type=float, help="Stop a sweep after the step whose p99 is over this (a server only).")
@click.option(
    "--golden",
    type=click.Path(exists=True, dir_okay=False),
    help="Package whose golden data are sent and must come back (a server only).",
)
@click.option("--processes", default=1, show_default=True, help="Processes that make the load (a server only).")
@click.option("--shared-memory", is_flag=True, help="Inputs go through shared memory (a server only).")
@secure
@click.option("--compare", help="Run these peers in turns with us and compare answers: onnxruntime,openvino.")
@click.option("--tolerance", type=float, help="How far answers may differ, as a share of the largest element.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    help="Draw the comparison, or latency over throughput, into this .png, .svg or .pdf file.",
)
@click.option("--profile", is_flag=True, help="Time by node and kernel, beside what this machine can do (a file only).")
@click.option("--trace", type=click.Path(dir_okay=False), help="Write one run as a trace for ui.perfetto.dev.")
@common
def command(
    target: str, model: str | None, inputs: str | None, seed: int, batch: int, clients: str, rate: str | None, arrivals: str,
    stop_ms: float | None, golden: str | None, processes: int, shared_memory: bool, seconds: float, plot: str | None,
    as_json: bool, tls: Any, token: str, **options: Any,
) -> None:  # fmt: skip
    """Time TARGET: a model file here, or MODEL on a running server (host:port, or http://host:port).

    \b
    headrace bench net.hr
    headrace bench net.hr --profile --trace net.trace.json
    headrace bench model.onnx --compare onnxruntime,openvino --plot model.png
    headrace bench 127.0.0.1:8001 digits --clients 1,8,64 --golden digits.hr --plot load.png
    headrace bench http://127.0.0.1:8000 digits --rate 100,200,400,800 --stop-ms 20
    headrace bench https://models.example:8000 digits --ca ca.pem --token-file token
    """
    from pathlib import Path

    from headrace.verbs.bench import bench_file

    if Path(target).is_file():
        result = bench_file(target, inputs, seed=seed, batch=batch, seconds=seconds, plot=plot, **options)
    elif model is None:
        raise click.UsageError(
            f"{target} is not a file; to load a server, name the model: headrace bench {target} MODEL"
        )
    else:
        from headrace.verbs.load import load_server

        with progress("steps", quiet=as_json) as step:
            result = load_server(
                target, model, inputs, seed=seed, batch=batch, clients=_numbers("--clients", clients, int),
                rates=_numbers("--rate", rate, float) if rate else (), arrivals=arrivals, stop_ms=stop_ms, golden=golden,
                processes=processes, shared_memory=shared_memory, seconds=seconds, plot=plot, tls=tls, token=token, progress=step,
            )  # fmt: skip
    for reason in result.get("skipped", {}).values():
        click.echo(f"left out: {reason}", err=True)
    if as_json:
        print_json(result)
    else:
        if "steps" in result:
            print_load(result)
        else:
            _print_engines(result)
        if "profile" in result:
            _print_profile(result)
        for key, file in (("trace", options.get("trace")), ("plot", plot)):
            if file:
                click.echo(f"{key} written to {file}")
    differing = [f"{name}: {peer['message']}" for name, peer in result.get("peers", {}).items() if not peer["agrees"]]
    if differing:
        raise click.ClickException(f"answers differ from {'; '.join(differing)}")
    if wrong := sum(step["wrong"] for step in result.get("steps", ())):
        raise click.ClickException(f"{wrong} answers differ from the first one")


N = TypeVar("N", int, float)


def _numbers(option: str, text: str, kind: Callable[[str], N]) -> list[N]:
    """The numbers of a list with commas."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise click.UsageError(f"{option} is {text!r}; expected numbers above 0, with commas between them")
    return numbers


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
            *(_ms(engine[key]) for key in ("p50_ms", "p90_ms", "p99_ms")),
            engine["failed"],
        ]
        if name in peers:
            peer = peers[name]
            row += [f"{peer['ratio']:.2f}", f"{peer['max_difference']:.2e}", "agree" if peer["agrees"] else "DIFFER"]
        rows.append(row)
    table(columns, rows, numbers=numbers)
    if peers:
        click.echo(f"answers agree within {result['tolerance']:g} of an output's largest element")


def _ms(time: float) -> str:
    """Milliseconds to the microsecond, and below a tenth of one to three digits: small models take one microsecond."""
    return f"{time:.3f}" if time >= 0.1 or time == 0 else f"{time:#.3g}"


def _print_profile(result: Mapping[str, Any]) -> None:
    if "peaks" in result:
        peaks = result["peaks"]
        told = [f"{name} {peaks[name]:.0f} G/s" for name in ("float32", "bf16", "int8") if peaks[name]]
        read = [f"{name} {rate:.0f}" for name, rate in result["bandwidths"].items()]
        limit, spent = (sum(node[key] for node in result["profile"]) for key in ("limit_ms", "ms"))
        threads = f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}"
        click.echo(
            f"\nmeasured limits of this machine, {threads}: {', '.join(told)}; GB/s from {', '.join(read)}: "
            f"all nodes need {_ms(limit)} ms at least, {limit / spent:.0%} of their {_ms(spent)}\n"
        )
        columns = ("kernel", "nodes", "ms", "share", "", *WORK)
        rows = [(k["kernel"], k["nodes"], _ms(k["ms"]), *share_text(k["share"]), *_work(k)) for k in result["kernels"]]
        table(columns, rows, numbers=("nodes", "ms", "share", *WORK))
        click.echo()
    nodes: Sequence[Mapping[str, Any]] = result["profile"][:LONGEST]
    columns = ("node", "operator", "kernel", "ms", "share", "", *(WORK if "peaks" in result else ()))
    table(
        columns,
        [
            (_name(p["node"]), p["operator"], p["kernel"], _ms(p["ms"]), *share_text(p["share"]), *(_work(p) if "peaks" in result else ()))
            for p in nodes
        ],
        numbers=("ms", "share", *WORK),
    )  # fmt: skip
    left = len(result["profile"]) - len(nodes)
    if left:
        rest = sum(p["ms"] for p in result["profile"][LONGEST:])
        click.echo(f"and {left} more nodes, {_ms(rest)} ms together (--json has all)")


def _name(label: str) -> str:
    """A node's name out of "node 'name' (kind -> outputs)", or its outputs where it has none."""
    named = re.match(r"node '(.*)' \(", label)
    return named[1] if named else label.rpartition("-> ")[2].rstrip(")")


WORK = ("GFLOP/s", "GB/s", "of limit")


def _work(row: Mapping[str, Any]) -> tuple[object, ...]:
    """GFLOP/s, or GB/s where nothing is multiplied; and the share of the limit, red where most of the machine is unused."""
    from rich.text import Text

    share = row["of_limit"]
    color = "green" if share >= 0.6 else "yellow" if share >= 0.3 else "red"
    limit = Text(f"{share:.0%}", style=color) if share else Text("-")
    if row["gflops"] is None:
        return "", f"{row['gbytes']:.1f}", limit
    return f"{row['gflops']:.1f}", "", limit
