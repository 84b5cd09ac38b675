"""Sockets of this process that a library owns."""

import contextlib
import os
import socket


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
