"""`headrace pack`"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click

from headrace.cli.output import common, print_json, size_text


@click.command("pack", short_help="Turn a model into one checked .hr file.")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    default="model.hr",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The package to write.",
)
@click.option(
    "--example", type=click.Path(exists=True, dir_okay=False), help="Example inputs (.npz, in call order) for a Module."
)
@click.option(
    "--golden", default="4", show_default=True, help="How many golden cases to make, or an .npz file of golden inputs."
)
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False),
    help="Outputs (.npz) of somebody else for the --golden inputs.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of golden inputs that are made.")
@click.option(
    "--evaluate",
    type=click.Path(exists=True, dir_okay=False),
    help="Labelled data (.npz: inputs by name, and 'labels') to measure accuracy on.",
)
@click.option(
    "--preprocess",
    type=click.Path(exists=True, dir_okay=False),
    help="TOML file: how inputs are made of images and texts, as operators of the package.",
)
@click.option(
    "--rtol", default=1e-4, show_default=True, help="Relative bound of golden outputs (of the largest value)."
)
@click.option("--atol", default=1e-5, show_default=True, help="Absolute bound of golden outputs.")
@common
def command(model: str, as_json: bool, **options: Any) -> None:
    """Capture, check and pack MODEL, with golden inputs and outputs, and prove the file before it is put in place.

    MODEL is FILE.py:NAME, where NAME is a Module, a torch.nn.Module or a fitted estimator (scikit-learn, xgboost, lightgbm),
    or a function without arguments that answers one, or a pair (model, example inputs); or an .onnx or .hr file. FILE.py is
    your code and runs in a process of its own.

    \b
    headrace pack train.py:make_model -o net.hr
    headrace pack train.py:net --example in.npz --golden 8 --seed 1
    headrace pack model.onnx --golden in.npz --expect out.npz -o model.hr
    """
    if ".py:" in model or model.endswith(".py"):
        file, _, name = model.rpartition(":") if ".py:" in model else (model, "", "")
        if not name:
            raise click.UsageError(f"say which Module of {file} to pack: {file}:NAME")
        report = _in_subprocess(file, name, options)
    else:
        from headrace.cli.packer import pack_file

        report = pack_file(model, options)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _in_subprocess(file: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    click.echo(f"running {file} in a process of its own (it is your code)", err=True)
    job = json.dumps({"file": file, "name": name, "options": options})
    done = subprocess.run([sys.executable, "-m", "headrace.cli.packer"], input=job, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.rstrip("\n").split("\n")
    for line in lines[:-1]:  # what the user's file printed
        click.echo(line, err=True)
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except json.JSONDecodeError:
        raise click.ClickException(f"{file} ended with status {done.returncode} before the model was packed") from None
    if "error" in answer:
        raise click.ClickException(answer["error"])
    return answer


def _print(report: dict[str, Any]) -> None:
    click.echo(
        f"{click.style('packed', fg='green')}  {report['path']}  {size_text(report['bytes'])}, {report['operators']} operators"
    )
    for kind in ("inputs", "outputs"):
        for name, text in report[kind].items():
            click.echo(f"  {kind[:-1]:<7} {name}: {text}")
    click.echo(f"  golden  {report['golden']} cases, largest deviation from the origin {report['deviation']:.2e}")
    if report["accuracy"] is not None:
        click.echo(f"  accuracy {report['accuracy']:.2%}")
    for note in report["notes"]:
        click.echo(f"  note    {note}")
    click.echo(f"next: headrace verify {report['path']}   or   headrace serve {report['path']}")
