"""`headrace run`"""

from __future__ import annotations

import click

from headrace.cli.output import common, print_json, table


@click.command("run", short_help="Run a model file on inputs from an .npz file.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.argument("inputs", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the outputs to this .npz file.")
@click.option("--random", "seed", type=int, help="Make inputs from this seed instead of reading them.")
@click.option("--threads", default=0, show_default=True, help="Threads to compute with (0: as many as allowed).")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    help="bf16: products of rounded factors, where the CPU has them.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N, auto or emulated.")
@common
def command(
    model: str,
    inputs: str | None,
    output: str | None,
    seed: int | None,
    threads: int,
    precision: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Run a model once. INPUTS is an .npz file with one array per input name.

    \b
    headrace run net.hr in.npz -o out.npz
    headrace run model.onnx --random 0
    """
    from headrace.verbs.run import run

    if (inputs is None) == (seed is None):
        raise click.UsageError("give either INPUTS (an .npz file) or --random SEED")
    outputs = run(model, inputs, output=output, seed=seed, threads=threads, precision=precision, device=device)
    if as_json:
        print_json({name: {"dtype": str(a.dtype), "shape": list(a.shape), "data": a} for name, a in outputs.items()})
        return
    table(
        ("output", "dtype", "shape", "values"), [(n, a.dtype, list(a.shape), _preview(a)) for n, a in outputs.items()]
    )
    if output:
        click.echo(f"written to {output}")


def _preview(array: object) -> str:
    import numpy as np

    flat = np.asarray(array).ravel()
    text = ", ".join(f"{x:.4g}" if flat.dtype.kind == "f" else str(x) for x in flat[:6])
    return text + (", ..." if flat.size > 6 else "")
