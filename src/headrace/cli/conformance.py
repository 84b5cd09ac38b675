"""`headrace conformance`"""

from __future__ import annotations

from typing import Any

import click

from headrace.cli.output import common, print_json, progress, table
from headrace.cli.secure import secure, timeout_option


@click.command("conformance", short_help="Compare a server with the protocol.")
@click.argument("address", metavar="HOST:PORT")
@click.option("--rest", default="", metavar="HOST:PORT", help="Its REST port; without, REST is not looked at.")
@click.option("--model", default="", help="The model to ask.  [default: the first that is ready]")
@click.option("--core", is_flag=True, help="Only what every server of the protocol does, not Triton's extensions.")
@timeout_option(10.0)
@secure
@click.option("--all", "everything", is_flag=True, help="List what passes, too.")
@common
def command(
    address: str,
    rest: str,
    model: str,
    core: bool,
    timeout: float,
    everything: bool,
    tls: Any,
    token: str,
    as_json: bool,
) -> None:
    """Compare any server with the Open Inference Protocol v2: its descriptors where it has reflection, and live calls.
    Nothing is loaded, unloaded or changed. Exit status 1: something differs.

    \b
    headrace conformance 127.0.0.1:8001 --rest 127.0.0.1:8000
    headrace conformance 127.0.0.1:8081 --core --json
    headrace conformance models.example:8001 --rest models.example:8000 --ca ca.pem --token-file token
    """
    from headrace.verbs.conformance import conformance

    with progress("checks", quiet=as_json) as step:
        result = conformance(
            address, rest=rest, model=model, core=core, timeout=timeout, tls=tls, token=token, progress=step
        )
    if as_json:
        print_json(result)
    else:
        from rich.text import Text

        styles = {"pass": "green", "differs": "red", "skip": "yellow"}
        rows = [
            (
                Text(row["outcome"], style=styles[row["outcome"]]),
                row["protocol"],
                row["part"],
                row["name"],
                row["detail"],
            )
            for row in result["checks"]
            if everything or row["outcome"] != "pass"
        ]
        if rows:
            table(("", "protocol", "part", "what must hold", "instead"), rows)
        click.echo(f"{result['passed']} hold, {result['differing']} differ, {result['skipped']} could not be looked at")
    if result["differing"]:
        raise SystemExit(1)
