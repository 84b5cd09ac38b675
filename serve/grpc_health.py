"""The standard gRPC health service: of the server, and of each model by its name."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from headrace.protos import health_pb2
from headrace.serve.dataplane import DataPlane
from headrace.serve.errors import ServeError, bad_argument, not_found, overloaded
from headrace.serve.rejections import WATCHERS

HEALTH_SERVICE = "grpc.health.v1.Health"
WATCH_SECONDS = 0.2  # how often a watcher looks
MAX_WATCHERS = 8  # each holds a thread


class Health:
    """`service` is the inference service's name, which stands for the server as "" does."""

    def __init__(self, plane: DataPlane, service: str) -> None:
        self._plane = plane
        self._server = ("", service)
        self._watchers = threading.BoundedSemaphore(MAX_WATCHERS)
        self._stopping = threading.Event()

    def check(self, data: bytes) -> bytes:
        """A HealthCheckResponse; not_found for a name that is neither the server nor a model."""
        status = self._status(_service(data))
        if status is None:
            raise not_found("the service is unknown; known are the server ('') and the names of models")
        return _message(status)

    def watch(self, data: bytes, is_active: Callable[[], bool]) -> Iterator[bytes]:
        """The status now and at every change; a name that is unknown may become known."""
        service, last = _service(data), -1
        if not self._watchers.acquire(blocking=False):
            self._plane.rejections.add(WATCHERS)
            raise overloaded(f"{MAX_WATCHERS} watchers are open, the most this server takes", WATCHERS)
        try:
            while is_active():
                found = self._status(service)
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if found is None else found
                if status != last:
                    last = status
                    yield _message(status)
                if self._stopping.wait(WATCH_SECONDS):
                    return
        finally:
            self._watchers.release()

    def stop(self) -> None:
        """End every watch."""
        self._stopping.set()

    def _status(self, service: str) -> Any:
        """A ServingStatus, None for an unknown service."""
        if service in self._server:
            ready = self._plane.server_ready()["ready"]
        else:
            try:
                ready = self._plane.model_ready(service, "")["ready"]
            except ServeError:
                return None
            if not ready and all(row[0] != service for row in self._plane.manager.index()):
                return None
        states = health_pb2.HealthCheckResponse
        return states.SERVING if ready else states.NOT_SERVING


def _service(data: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(data).service)
    except (DecodeError, ValueError):
        raise bad_argument("the message is not a valid grpc.health.v1.HealthCheckRequest") from None


def _message(status: Any) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
