"""What `optimize` leaves out because nothing could come of it."""

import numpy as np

from headrace.runtime import infer, passes
from headrace.runtime.check import check
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.types import TensorType


def chain() -> Graph:
    """relu(relu(x) + 0): a pass drops the addition."""
    kind = TensorType("float32", (2, 3))
    x, a, b, y = Value("x", kind), Value("a"), Value("b"), Value("y")
    graph = Graph(Block([x], [], [y]))
    zero = graph.constant("zero", np.zeros((), np.float32))
    graph.block.nodes += [Node("Relu", [x], [a]), Node("Add", [a, zero], [b]), Node("Relu", [b], [y])]
    return graph


def counted(monkeypatch, graph: Graph) -> dict[str, list[Graph]]:
    """Which graphs each pass was asked to rewrite."""
    asked: dict[str, list[Graph]] = {}

    def watched(name, run):
        def call(graph):
            asked.setdefault(name, []).append(graph)
            return run(graph)

        return call

    table = tuple((name, watched(name, run)) for name, run in passes.portable())
    monkeypatch.setattr(passes, "portable", lambda: table)
    passes.optimize(graph)
    return asked


def test_no_pass_is_asked_again_about_a_graph_that_it_left_alone(monkeypatch):
    asked = counted(monkeypatch, chain())
    assert len(asked) > 5 and max(map(len, asked.values())) > 1  # something changed: some were asked again
    for name, graphs in asked.items():
        assert len({id(graph) for graph in graphs}) == len(graphs), name


def test_a_checked_graph_is_inferred_once_less_and_answers_the_same(monkeypatch):
    graph, calls, original = chain(), [], infer.infer_graph
    check(graph)
    monkeypatch.setattr(infer, "infer_graph", lambda graph: calls.append(graph) or original(graph))
    texts, counts = [], []
    for checked in (False, True):
        calls.clear()
        texts.append(str(passes.optimize(graph, checked=checked)))
        counts.append(len(calls))
    assert texts[0] == texts[1] and "Add" not in texts[0]
    assert counts[1] == counts[0] - 1
