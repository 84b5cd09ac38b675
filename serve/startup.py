"""What makes a start short: of a server, and of the processes that it starts."""

import contextlib
import gc
import importlib
import os
from collections.abc import Iterator

ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1"
}  # of NumPy's own products, which only references use: threads that nobody needs


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """For the start of a process, before NumPy is imported. What is made meanwhile stays for good: it is not searched for
    garbage, now or later."""
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def prepare_loading() -> None:
    """Load a model of one node, which imports all that loading needs: another one then only has itself to load."""
    from headrace import runtime
    from headrace.runtime.builder import Builder
    from headrace.runtime.graph import Block, Graph
    from headrace.runtime.shapes import symbol
    from headrace.runtime.types import TensorType

    for name in ("runtime.learnt", "serializer.archive"):
        importlib.import_module(f"headrace.{name}")
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("n"),)))
    graph.block.outputs += build.node("Relu", [x], outputs=["y"])
    runtime.load(graph).close()
