"""Processes beside a benchmark: modules of this package that run on their own, a bare echo, and what a process takes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

INFER = "/inference.GRPCInferenceService/ModelInfer"


class Beside:
    """A module of this package as a process of its own, spoken to by lines; it ends with its input. A context manager."""

    def __init__(self, module, *arguments):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def echo(threads, *more):
    """Serve a bare grpcio server that answers a call with its own bytes: prints its port and `more`, stops when its input ends."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(threads), options=options)
    handler = grpc.unary_unary_rpc_method_handler(lambda data, _: data)
    _, service, method = INFER.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), *more, flush=True)
    server.start()
    sys.stdin.read()
    server.stop(1).wait()


def cpu_seconds(pid):
    """Processor time of a process, its threads and the processes that it has started, those that have ended included."""
    stat = _text(Path(f"/proc/{pid}/stat"))
    if not stat:
        return 0.0
    fields = stat.rsplit(")", 1)[1].split()
    children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _text(task / "children").split()]
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


def _text(path):
    """Nothing where the process, or the thread, has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
