"""Sockets of this process that a library owns."""

import contextlib
import os
import socket


def taken(what: str, host: str, port: int) -> str:
    """The text of an error about a port that cannot be listened on."""
    flag = {"gRPC": "--grpc-port", "REST": "--http-port", "metrics": "--metrics-port"}[what]
    return (
        f"{what} port {port} of {host} cannot be taken: another process has it, or it is not allowed; "
        f"choose another with {flag} (0: any free one)"
    )


def close_sockets(port: int) -> None:
    """Shut down the TCP sockets of this process on its own `port`, the listening one first, so that no client comes
    back before the server is gone (Linux; elsewhere a no-op)."""
    folder = "/proc/self/fd"
    found: list[tuple[bool, socket.socket]] = []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"{folder}/{name}").startswith("socket:"):
                copy = socket.socket(fileno=os.dup(int(name)))
                listening = bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                found.append((not listening, copy))
    for _, copy in sorted(found, key=lambda item: item[0]):
        with contextlib.suppress(OSError), copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
                copy.shutdown(socket.SHUT_RDWR)
