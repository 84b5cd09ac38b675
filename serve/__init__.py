"""Serving: repository, scheduler, one data plane, gRPC and REST fronts, and clients.

`Server` and the clients are imported on first use, so that a client process does not pay for the server.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.serve.client import Client, ClientTls, Retry, SharedTensor
    from headrace.serve.client_async import AsyncClient
    from headrace.serve.server import Server

__all__ = ["AsyncClient", "Client", "ClientTls", "Retry", "Server", "SharedTensor"]

_PLACES = {
    **dict.fromkeys(("Client", "ClientTls", "Retry", "SharedTensor"), "headrace.serve.client"),
    "AsyncClient": "headrace.serve.client_async",
    "Server": "headrace.serve.server",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'headrace.serve' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
