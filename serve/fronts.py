"""Which fronts a server has, and on which ports: the native one for everything, or grpcio and h11 where it was not built or
is not wanted."""

import importlib.util
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headrace.serve.config import ConfigError, Settings
from headrace.serve.dataplane import DataPlane
from headrace.serve.grpc_methods import Methods
from headrace.serve.guard import Guard
from headrace.serve.tls import Certificates

RESERVED_THREADS = 16  # of each front, never taken by inferences, so that health and metadata do not wait behind them


@dataclass(slots=True)
class Fronts:
    """What listens, to be started; a port is -1 where a listener is switched off."""

    fronts: list[Any] = field(default_factory=list)
    grpc_port: int = -1
    http_port: int = -1
    metrics_port: int = -1


def open_fronts(
    plane: DataPlane, settings: Settings, certificates: Certificates | None = None, guard: Guard | None = None
) -> Fronts:
    """Take the ports. OSError naming the one that cannot be taken; nothing is left open then."""
    opened = Fronts()
    try:
        (_open_native if _is_native(settings) else _open_portable)(plane, settings, certificates, guard, opened)
    except BaseException:
        for front in opened.fronts:
            front.stop(0)
        raise
    return opened


def _is_native(settings: Settings) -> bool:
    if settings.listen.front == "portable":
        return False
    built = _is_built()
    if settings.listen.front == "native" and not built:
        raise ConfigError("listen.front is native, but this build has no native front; allowed: auto, portable")
    return built


def _is_built() -> bool:
    return importlib.util.find_spec("headrace.serve._native") is not None


def _open_native(
    plane: DataPlane, settings: Settings, certificates: Certificates | None, guard: Guard | None, opened: Fronts
) -> None:
    from headrace.serve.native_front import NativeFront
    from headrace.serve.routes import Routes

    listen, limits = settings.listen, settings.limits
    methods = Methods(plane, listen, limits, guard) if listen.grpc_port >= 0 else None
    routes = Routes(plane.manager, guard)
    threads = limits.grpc_threads + limits.http_threads
    front = NativeFront(methods, limits, threads, routes, certificates, plane.rejections)
    opened.fronts.append(front)
    plane.tracer.follow(routes.set_tracing)
    if methods is not None:
        opened.grpc_port = take(
            "gRPC", settings, listen.grpc_port, lambda: front.listen_grpc(listen.host, listen.grpc_port)
        )
    if listen.http_port >= 0:
        rest = _rest(plane, settings, guard)
        opened.http_port = take(
            "REST",
            settings,
            listen.http_port,
            lambda: front.listen_http(listen.host, listen.http_port, rest, rest=True),
        )
    if listen.metrics_port >= 0:
        page = _metrics(plane, certificates, guard)
        opened.metrics_port = take(
            "metrics", settings, listen.metrics_port, lambda: front.listen_http(listen.host, listen.metrics_port, page)
        )


def _open_portable(
    plane: DataPlane, settings: Settings, certificates: Certificates | None, guard: Guard | None, opened: Fronts
) -> None:
    listen, limits = settings.listen, settings.limits

    def add(front: Any) -> int:
        opened.fronts.append(front)
        if hasattr(front, "rejections"):
            plane.rejections.follow(front.rejections.show)
        return int(front.port)

    if listen.grpc_port >= 0:
        from headrace.serve.grpc_front import GrpcFront

        routes = None
        if _is_built():
            from headrace.serve.routes import Routes

            routes = Routes(plane.manager, guard)
            plane.beside["grpc"] = lambda: routes.waiting
        opened.grpc_port = take(
            "gRPC",
            settings,
            listen.grpc_port,
            lambda: add(GrpcFront(plane, listen, limits, certificates, guard, routes)),
        )
    if listen.http_port >= 0:
        from headrace.serve.http_server import HttpServer

        rest = _rest(plane, settings, guard)
        opened.http_port = take(
            "REST",
            settings,
            listen.http_port,
            lambda: add(HttpServer(rest, listen.host, listen.http_port, limits, certificates=certificates)),
        )
    if listen.metrics_port >= 0:
        from headrace.serve.http_server import HttpServer

        page, port = _metrics(plane, certificates, guard), listen.metrics_port
        opened.metrics_port = take(
            "metrics", settings, port, lambda: add(HttpServer(page, listen.host, port, limits, 2, certificates))
        )


def take(name: str, settings: Settings, port: int, listen: Callable[[], int]) -> int:
    """The port that `listen` takes; OSError naming the flag that chooses another."""
    try:
        return listen()
    except OSError as error:
        flag = {"gRPC": "--grpc-port", "REST": "--http-port", "metrics": "--metrics-port"}[name]
        why = error.strerror or "another process has it, or it is not allowed"
        host = settings.listen.host
        if not _is_here(host):
            raise OSError(f"{host!r} is no address of this machine ({why}); choose another with --host") from None
        where = f"{name} port {port} of {host}"
        raise OSError(f"{where} cannot be taken ({why}); choose another with {flag} (0: any free one)") from None


def _rest(plane: DataPlane, settings: Settings, guard: Guard | None) -> Any:
    from headrace.serve.rest_front import RestFront

    return RestFront(plane, settings.limits, guard)


def _metrics(plane: DataPlane, certificates: Certificates | None, guard: Guard | None) -> Any:
    from headrace.serve.metrics_page import MetricsPage

    return MetricsPage(plane, certificates, guard)


def _is_here(host: str) -> bool:
    """Whether something could listen at that address at all."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
