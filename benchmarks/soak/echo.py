"""A bare grpcio server that answers a call with its own bytes: what the transport and the client cost without a model."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from benchmarks.soak.load import INFER

THREADS = 8


class EchoProcess:
    """The echo as a process of its own, on a free port. A context manager."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak.echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.grpc = int(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main():
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(lambda data, _: data)
    _, service, method = INFER.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
