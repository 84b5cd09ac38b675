"""`headrace quantize`"""

from __future__ import annotations

from typing import Any

import click

from headrace.cli.output import common, print_json, progress, size_text, table


@click.command("quantize", short_help="Make a quantized package, with a report.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The package to write.")
@click.option(
    "--method",
    type=click.Choice(["static", "dynamic", "weight-only"]),
    help="static needs --calibration (the default with it); dynamic and weight-only need nothing.",
)
@click.option(
    "--calibration", type=click.Path(exists=True), help="Representative inputs: an .npz file, or a folder of them."
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="Labelled data (.npz: inputs by name, and 'labels') for accuracy before and after.",
)
@click.option(
    "--observer",
    type=click.Choice(["minmax", "moving-average", "percentile", "entropy", "mse"]),
    default="minmax",
    show_default=True,
    help="How activation ranges are taken.",
)
@click.option(
    "--max-drop",
    type=float,
    help="Largest accuracy loss allowed, in percentage points; else nothing is written. Needs --labels.",
)
@click.option("--bits", type=click.Choice(["4", "8"]), help="Bits of a weight, for weight-only.  [default: 4]")
@click.option(
    "--group", type=click.Choice(["16", "32", "64", "128", "256"]), help="Weights that share a scale.  [default: 32]"
)
@click.option("--symmetric", is_flag=True, help="Weights without zero points, for weight-only.")
@click.option(
    "--rows",
    type=click.Choice(["int8", "float32"]),
    help="Activations that meet weights of weight-only: rounded to int8 in groups, or as they are.  [default: int8]",
)
@common
def command(model: str, output: str, as_json: bool, **options: Any) -> None:
    """Quantize MODEL (.hr or .onnx) and report what it costs.

    \b
    headrace quantize net.hr -o net-int8.hr --calibration samples.npz
    headrace quantize net.hr -o net-int8.hr --method dynamic
    headrace quantize net.hr -o net-int4.hr --method weight-only --bits 4 --group 32
    headrace quantize net.hr -o net-int8.hr --calibration samples.npz --labels test.npz --max-drop 0.5
    """
    from headrace.quantization import Blocks, quantize
    from headrace.verbs.run import read_arrays

    labels = None
    if options["labels"]:
        data = read_arrays(options["labels"])
        if "labels" not in data:
            raise click.UsageError(f"{options['labels']} has no array 'labels'; it has {', '.join(data)}")
        labels = (data, data.pop("labels"))
    if options["max_drop"] is not None and labels is None:
        raise click.UsageError(
            "--max-drop needs --labels FILE.npz (inputs by name, and 'labels') to measure accuracy on"
        )
    if options["method"] == "static" and not options["calibration"]:
        raise click.UsageError("--method static needs --calibration FILE.npz (inputs by name); dynamic needs no data")
    method = options["method"] or ("static" if options["calibration"] else "dynamic")
    blocks: dict[str, Any] = {key: int(options[key]) for key in ("bits", "group") if options[key]}
    blocks |= {key: options[key] for key in ("symmetric", "rows") if options[key]}
    if blocks and method != "weight-only":
        raise click.UsageError(f"--{next(iter(blocks))} is for --method weight-only")
    with progress("calibrating", quiet=as_json) as step:
        result = quantize(
            model, output, method=method, calibration=options["calibration"], labels=labels,
            observer=options["observer"], max_drop=options["max_drop"], blocks=Blocks(**blocks) if blocks else None, progress=step,
        )  # fmt: skip
    report = result.report if isinstance(result.report, dict) else result.report.as_dict()
    if as_json:
        print_json(report)
    else:
        _print(output, report)


def _print(output: str, report: dict[str, Any]) -> None:
    sizes = report.get("bytes", {})
    change = f"  {size_text(sizes['float'])} -> {size_text(sizes['quantized'])}" if sizes else ""
    click.echo(f"{click.style('quantized', fg='green')}  {output}{change}")
    rows = [
        (o["name"], f"{o['max_abs']:.4g}", f"{o['relative']:.2%}", f"{o['cosine']:.6f}")
        for o in report.get("outputs", [])
    ]
    if rows:
        table(("output", "largest error", "relative", "cosine"), rows)
    accuracy = report.get("accuracy")
    if accuracy:
        click.echo(
            f"accuracy  {accuracy['float']:.2%} -> {accuracy['quantized']:.2%}  (drop {accuracy['drop_points']:+.2f} points, {accuracy['samples']} samples)"
        )
    kept = report.get("kept_float", [])
    if kept:
        click.echo(f"left in float32: {', '.join(kept)}")
    click.echo(f"next: headrace verify {output}")
