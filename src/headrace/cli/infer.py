"""`headrace infer`"""

from __future__ import annotations

from typing import Any

import click

from headrace.cli.output import common, print_json, table
from headrace.cli.secure import secure, timeout_option


@click.command("infer", short_help="Send one inference request to a server.")
@click.argument("url")
@click.argument("model")
@click.argument("inputs", type=click.Path(exists=True, dir_okay=False))
@click.option("--version", "version", default="", help="Version of the model (default: the server's choice).")
@timeout_option(30.0)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the outputs to this .npz file.")
@secure
@common
def command(
    url: str,
    model: str,
    inputs: str,
    version: str,
    timeout: float,
    output: str | None,
    tls: Any,
    token: str,
    as_json: bool,
) -> None:
    """Send the arrays of INPUTS (.npz, one per input name) to MODEL at URL (host:port for gRPC, http://host:port or
    https://host:port for REST). With --ca, or --cert and --key, the gRPC connection has TLS, too.

    \b
    headrace infer 127.0.0.1:8001 digits in.npz
    headrace infer http://127.0.0.1:8000 digits in.npz -o out.npz
    headrace infer models.example:8001 digits in.npz --ca ca.pem --token-file token
    """
    from headrace.serve.client import Client
    from headrace.verbs.run import read_arrays

    with Client(url, timeout=timeout, tls=tls, token=token) as client:
        feeds: dict[str, Any] = dict(read_arrays(inputs))
        outputs = client.infer(model, feeds, version=version)
    if output:
        from headrace.verbs.files import write_npz

        write_npz(output, outputs)
    if as_json:
        print_json({name: {"dtype": str(a.dtype), "shape": list(a.shape), "data": a} for name, a in outputs.items()})
    else:
        from headrace.cli.run import _preview

        table(
            ("output", "dtype", "shape", "values"),
            [(n, a.dtype, list(a.shape), _preview(a)) for n, a in outputs.items()],
        )
