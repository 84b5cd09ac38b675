"""Serving: repository, scheduler, one data plane, gRPC and REST fronts, and a client.

`Server` and `Client` are imported on first use, so that a client process does not pay for the server.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.serve.client import Client
    from headrace.serve.server import Server

__all__ = ["Client", "Server"]

_PLACES = {"Client": "headrace.serve.client", "Server": "headrace.serve.server"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'headrace.serve' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
