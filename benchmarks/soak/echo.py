"""A bare grpcio echo: what the transport and the client cost without a model."""

from benchmarks.processes import Beside, echo

THREADS = 8


class EchoProcess(Beside):
    """The echo as a process of its own, on the free port `grpc`."""

    def __init__(self):
        super().__init__("benchmarks.soak.echo")
        self.grpc = int(self._process.stdout.readline())


if __name__ == "__main__":
    echo(THREADS)
