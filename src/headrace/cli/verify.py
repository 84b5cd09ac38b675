"""`headrace verify`"""

from __future__ import annotations

import click

from headrace.cli.output import common, print_json


@click.command("verify", short_help="Check digests and re-run golden data here.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda or auto.")
@common
def command(model: str, device: str, as_json: bool) -> None:
    """Check every byte of a package against its digests, then re-run its golden inputs on this machine.

    Exits with 1 where a digest is wrong or an output is out of bound.

    \b
    headrace verify net.hr
    """
    from headrace.verbs.verify import verify

    report = verify(model, device=device)
    if as_json:
        print_json(vars(report))
    else:
        mark = click.style("verified", fg="green") if report.ok else click.style("NOT verified", fg="red")
        click.echo(f"{mark}  {model}: {report.message}")
    if not report.ok:
        raise SystemExit(1)
