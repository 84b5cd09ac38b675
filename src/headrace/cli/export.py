"""`headrace export`"""

from __future__ import annotations

import click

from headrace.cli.output import common, print_json, size_text


@click.command("export", short_help="Write a model as ONNX.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The .onnx file to write.")
@click.option("--opset", type=int, help="ai.onnx operator-set version (default: the lowest that fits, at least 20).")
@click.option(
    "--inline", is_flag=True, help="Write out headrace's own operators, for readers that know no ONNX functions."
)
@common
def command(model: str, output: str, opset: int | None, inline: bool, as_json: bool) -> None:
    """Write a package as an ONNX file that other runtimes read.

    \b
    headrace export net.hr -o net.onnx
    headrace export net.hr -o net.onnx --opset 18
    """
    from headrace.verbs.export import export

    facts = export(model, output, opset=opset, inline=inline)
    if as_json:
        print_json(facts)
    else:
        click.echo(
            f"{click.style('written', fg='green')}  {output}  {size_text(facts['bytes'])}, opset {facts['opset']}"
        )
