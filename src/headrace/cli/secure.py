"""Options of verbs that call a server, which may ask for TLS or a token."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(exists=True, dir_okay=False)


def secure(function: Any) -> Any:
    """--ca, --cert, --key and --token-file, which `function` gets as `tls` (a ClientTls or None) and `token` ("": none)."""

    @click.option("--ca", type=FILE, help="Authority (PEM) of the server's certificate.")
    @click.option("--cert", type=FILE, help="Certificate (PEM) to show to the server.")
    @click.option("--key", type=FILE, help="Key (PEM) of that certificate.")
    @click.option("--token-file", type=click.File(), help="File with the bearer token to send.")
    @functools.wraps(function)
    def command(*, ca: str | None, cert: str | None, key: str | None, token_file: Any, **options: Any) -> Any:
        from headrace.serve.client_types import ClientTls

        if key and not cert:
            raise click.UsageError("--key is that of a certificate; give --cert, too")
        tls = ClientTls(ca or "", cert or "", key or "") if ca or cert else None
        return function(tls=tls, token=token_file.read().strip() if token_file is not None else "", **options)

    return command


def timeout_option(seconds: float) -> Callable[[F], F]:
    """--timeout, which a function gets as `timeout`."""
    positive = click.FloatRange(min=0, min_open=True)
    return click.option(
        "--timeout", type=positive, default=seconds, show_default=True, help="Seconds to wait for an answer."
    )


__all__ = ["secure", "timeout_option"]
