"""A worker process: `python -m headrace.serve.worker_process SOCKET BEAT PARENT`, the numbers of two inherited descriptors
and of a process.

It talks to nobody else, and ends with its parent: the system kills it, or it meets the end of the socket.
"""

import ctypes
import mmap
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from headrace.serve import startup

BEAT_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Serve the socket until it ends."""
    descriptor, beat, parent = map(int, arguments)
    _die_with(parent)
    Path("/proc/self/oom_score_adj").write_text("500")  # where memory ends, a worker goes before its server
    with startup.quick():
        import logging

        from headrace.serve import warmup  # noqa: F401  # else the first rehearsal would import it
        from headrace.serve.frames import Segment
        from headrace.serve.worker import Worker

        logging.basicConfig(format="%(asctime)s %(levelname)s worker %(process)d: %(message)s")
        threading.Thread(target=_beat, args=(Segment(beat, 4096, writable=True).memory, parent), daemon=True).start()
        startup.prepare_loading()
    Worker(socket.socket(fileno=descriptor)).serve()
    os._exit(0)  # threads of the runtime need no farewell


def _die_with(parent: int) -> None:
    """Be killed when the thread that started us ends, which the server keeps to its own end."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _beat(count_of: mmap.mmap, parent: int) -> None:
    """Count, as long as this process is scheduled and its interpreter lock is given away."""
    count = 0
    while os.getppid() == parent:
        count += 1
        count_of[:8] = count.to_bytes(8, "little")
        time.sleep(BEAT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
