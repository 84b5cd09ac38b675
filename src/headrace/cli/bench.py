"""`headrace bench`"""

from __future__ import annotations

import click

from headrace.cli.output import common, print_json, progress, table


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
@click.option("--seconds", default=3.0, show_default=True, help="How long to measure.")
@click.option("--clients", default=8, show_default=True, help="Concurrent callers (a server only).")
@click.option("--compare", help="Also run this peer on the same .onnx file, in turns: onnxruntime.")
@click.option("--profile", is_flag=True, help="Time per operator (a file only).")
@common
def command(
    target: str, model: str | None, inputs: str | None, seed: int, batch: int, threads: int, device: str, precision: str | None, seconds: float,
    clients: int, compare: str | None, profile: bool, as_json: bool,
) -> None:  # fmt: skip
    """Time TARGET: a model file here, or MODEL on a running server (host:port, or http://host:port).

    \b
    headrace bench net.hr
    headrace bench model.onnx --compare onnxruntime --threads 1
    headrace bench 127.0.0.1:8001 digits --clients 64 --seconds 10
    """
    from pathlib import Path

    from headrace.verbs.bench import bench_file, bench_server

    if Path(target).is_file():
        result = bench_file(
            target,
            inputs,
            seed=seed,
            batch=batch,
            threads=threads,
            device=device,
            precision=precision,
            seconds=seconds,
            compare=compare,
            profile=profile,
        )
    elif model is None:
        raise click.UsageError(
            f"{target} is not a file; to load a server, name the model: headrace bench {target} MODEL"
        )
    else:
        with progress("requests", quiet=as_json) as step:
            result = bench_server(
                target, model, inputs, seed=seed, batch=batch, clients=clients, seconds=seconds, progress=step
            )
    if as_json:
        print_json(result)
        return
    engines = result["engines"]
    columns = ("", "calls", "per second", "p50 ms", "p90 ms", "p99 ms", "failed")
    table(
        columns,
        [
            (
                name,
                e["calls"],
                f"{e['per_second']:.1f}",
                *(f"{e[p]:.3f}" for p in ("p50_ms", "p90_ms", "p99_ms")),
                e["failed"],
            )
            for name, e in engines.items()
        ],
    )
    if "ratio" in result:
        click.echo(
            f"{compare} time / headrace time: {result['ratio']:.2f}   largest output difference {result['max_difference']:.2e}"
        )
    if profile:
        table(
            ("node", "operator", "kernel", "ms", "share"),
            [
                (p["node"], p["operator"], p["kernel"], f"{p['ms']:.3f}", f"{p['share']:.1%}")
                for p in result["profile"][:25]
            ],
        )
