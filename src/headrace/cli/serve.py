"""`headrace serve`"""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import click

from headrace.cli.output import common, print_json


@click.command("serve", short_help="Serve a folder of models, or files.")
@click.argument("models", nargs=-1, metavar="[REPOSITORY | FILE | NAME=FILE ...]")
@click.option("--model-store", "store", type=click.Path(exists=True), help="The same as REPOSITORY.")
@click.option("--model-name", help="Name of the model where a single file is served.")
@click.option("--grpc-port", type=int, help="gRPC port (0: any free one).  [default: 8001]")
@click.option("--http-port", type=int, help="REST port (0: any free one).  [default: 8000]")
@click.option("--metrics-port", type=int, help="Prometheus port (0: any free one).  [default: 8002]")
@click.option("--allow-grpc", type=bool, help="false: no gRPC port.  [default: true]")
@click.option("--allow-http", type=bool, help="false: no REST port.  [default: true]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--tls-certificate", metavar="FILE", help="PEM certificate for every port, with the chain above it.")
@click.option("--tls-key", metavar="FILE", help="PEM key of the certificate.")
@click.option("--tls-authority", metavar="FILE", help="PEM authority of the certificates that clients must show.")
@click.option(
    "--tokens", metavar="FILE", help="TOML file of digests of bearer tokens, with roles; every call needs one."
)
@click.option("--restricted", metavar="FILE", help="TOML file of groups of calls that need a header.")
@click.option("--threads", type=int, help="Threads that a model computes with (0: as many as allowed).")
@click.option(
    "--keep-packed/--no-keep-packed",
    default=None,
    help="Keep weights in the order of kernels in files of the cache folder, which this and the next start map.  [default: keep]",
)
@click.option("--workers", type=int, help="Processes that each model runs in (0: threads of the server).  [default: 0]")
@click.option(
    "--control",
    type=click.Choice(["explicit", "poll", "off"]),
    help="Changes are loaded on request, by looking for them, or never.  [default: explicit]",
)
@click.option(
    "--access-log",
    metavar="LEVEL",
    help="Requests that are logged: off, errors, slow, sampled:N or all.  [default: slow]",
)
@click.option(
    "--allow-shared-memory",
    is_flag=True,
    default=None,
    help="Clients on this machine may leave tensors in system shared memory.",
)
@click.option("--device", help="cpu, cuda, cuda:N, or auto: a GPU where there is one.  [default: auto]")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="A headrace.toml.")
@common
def command(models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Serve models over gRPC and REST (Open Inference Protocol v2) until SIGTERM or Ctrl-C.
    SIGUSR1 writes every thread's stack and the queues to stderr.

    A repository is a folder NAME/VERSION/model.hr (or model.onnx), with an optional NAME/config.toml.

    \b
    headrace serve models/
    headrace serve net.hr
    headrace serve digits=net.hr digits-int8=net-int8.hr --grpc-port 9000
    """
    from headrace.serve import startup

    store = options.pop("store")
    for kind in ("grpc", "http"):
        if options.pop(f"allow_{kind}") is False:
            options[f"{kind}_port"] = -1
    sources = list(models) + ([store] if store else [])
    with contextlib.ExitStack() as stack:
        with startup.quick():
            from headrace.serve.config import settings_from
            from headrace.serve.server import Server
            from headrace.serve.signals import catching, dumping

            settings = settings_from({key: value for key, value in options.items() if value is not None})
            wait = stack.enter_context(catching(signal.SIGTERM, signal.SIGINT))
            server = stack.enter_context(Server(sources, settings=settings))
        _announce(server, as_json)
        with dumping(signal.SIGUSR1, server.queues):
            wait()
        if not as_json:
            click.echo("stopping: finishing what was accepted", err=True)


def _announce(server: Any, as_json: bool) -> None:
    host = server.host
    if as_json:
        print_json({"grpc": server.grpc_port, "http": server.http_port, "metrics": server.metrics_port, "host": host})
        return
    for line in server.describe():
        click.echo(line)
    click.echo(_bounds(server.settings))
    http = "https" if server.settings.tls.certificate else "http"
    at = f"[{host}]" if ":" in host else host
    places = (
        ("gRPC ", server.grpc_port, f"{at}:{server.grpc_port}"),
        ("REST ", server.http_port, f"{http}://{at}:{server.http_port}/v2"),
        ("metrics ", server.metrics_port, f"{http}://{at}:{server.metrics_port}/metrics"),
    )
    click.echo("   ".join(name + place for name, port, place in places if port >= 0))
    click.echo(f"{'ready' if server.ready else 'not ready, as not every model is'}; Ctrl-C stops")


def _bounds(settings: Any) -> str:
    """What models may compute with here, and the limits that clients meet first."""
    from headrace.runtime import _native

    threads, limits = settings.repository.threads or _native.usable_threads(), settings.limits
    quota = ", a CPU quota: idle threads do not spin" if _native.has_cpu_quota() else ""
    return (
        f"{_native.cpu_tier()}, {threads} thread{'s' if threads != 1 else ''}{quota}; at most {limits.max_message_bytes >> 10:,} KiB "
        f"a message, {limits.max_connections} connections, {limits.max_concurrent_streams} calls on each; "
        "headrace config show lists every limit"
    )
