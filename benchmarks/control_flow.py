"""What one trip of a Loop, one entry of a Scan and one If cost, beside onnxruntime, on one thread.

    python benchmarks/control_flow.py [--trips 10000]

Bodies are of a few small nodes over 16 numbers, so that the time is that of the control flow. Prints microseconds a trip,
medians of runs in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper

from headrace import runtime


def value(name: str, kind: int, *dims: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def loop() -> onnx.ModelProto:
    """h = tanh(h) + x and its sum, trip after trip."""
    nodes = [
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Add", ["t", "x"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["total"], keepdims=0),
        helper.make_node("Identity", ["going"], ["still"]),
    ]
    inputs = [value("trip", T.INT64), value("going", T.BOOL), value("h", T.FLOAT, 16)]
    outputs = [value("still", T.BOOL), value("next", T.FLOAT, 16), value("total", T.FLOAT)]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    node = helper.make_node("Loop", ["trips", "", "x"], ["y", "totals"], body=body)
    return model([node], [value("y", T.FLOAT, 16), value("totals", T.FLOAT, "n")])


def branches() -> onnx.ModelProto:
    """The loop, with an If in its body."""
    made = loop()
    body = made.graph.node[0].attribute[0].g
    yes, no = (
        helper.make_graph([helper.make_node(op, ["h"], [op])], op, [], [value(op, T.FLOAT, 16)])
        for op in ("Tanh", "Neg")
    )
    body.node[0].CopyFrom(helper.make_node("If", ["going"], ["t"], then_branch=yes, else_branch=no))
    return made


def model(nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value("trips", T.INT64), value("x", T.FLOAT, 16)], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trips", type=int, default=10_000)
    trips = parser.parse_args().trips
    feeds = {"trips": np.array(trips), "x": np.ones(16, np.float32)}
    print("| a trip of | headrace µs | onnxruntime µs |\n|---|--:|--:|")
    for name, proto in (("Loop", loop()), ("Loop with an If inside", branches())):
        ours = runtime.load(proto, threads=1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        theirs = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in theirs.get_outputs()]
        for key, wanted in zip(names, theirs.run(None, feeds)):
            np.testing.assert_allclose(ours.run(feeds)[key], wanted, rtol=1e-5)
        times: tuple[list[float], list[float]] = ([], [])
        runs = partial(ours.run, feeds), partial(theirs.run, None, feeds)
        for _ in range(15):
            for run, kept in zip(runs, times):
                start = time.perf_counter()
                run()
                kept.append((time.perf_counter() - start) / trips * 1e6)
        print(f"| {name} | " + " | ".join(f"{statistics.median(kept):.2f}" for kept in times) + " |")


if __name__ == "__main__":
    main()
