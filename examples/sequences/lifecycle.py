"""What each example does with its trained model: capture, pack, verify, export, serve, call. The examples only train."""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import headrace
from headrace.serve import Client, Server


def options(description, steps):
    """The command line of an example: how long to train, and where to keep the files."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help=f"training steps (default {steps})")
    parser.add_argument("--keep", type=Path, help="folder for the model store (default: a temporary one)")
    return parser.parse_args()


def ship(name, model, example, keep=None, ask=None, dynamic=None):
    """Capture `model`, pack it with golden data, export it to ONNX, serve it, and call it through the client.

    example: the arrays that forward is called with; dimension 0 is the batch.
    dynamic: other dimensions that may change from call to call, as {input: {dimension: name}}.
    ask: a function of `call` (arrays by name -> outputs by name, over gRPC) for what only the served model can show.
    Answers the figures: the largest differences of each form of the model from the model itself.
    """
    with tempfile.TemporaryDirectory(prefix=f"headrace-{name}-") as scratch:
        store = Path(keep or scratch)
        package, onnx_file = store / name / "1" / "model.hr", store / f"{name}.onnx"
        package.parent.mkdir(parents=True, exist_ok=True)

        # Trace runs the model once and keeps the operators that ran as a graph.
        captured = headrace.jit.trace(model, example, dynamic=dynamic)
        feeds = {value.name: array for value, array in zip(captured.graph.inputs, example)}
        (expected,) = captured.eager(*example)
        # Pack writes the graph with golden inputs and outputs, and compares what it wrote with the model's own answers.
        report = headrace.pack(captured, path=package, golden=[feeds])
        print(f"packed    {report.operators} operators, {report.bytes:,} bytes, deviation {report.deviation:.1e}")
        verified = headrace.verify(package)
        if not verified.ok:
            raise SystemExit(verified.message)
        # Export reads the file back and runs it here and, where it is installed, in onnxruntime.
        exported = headrace.onnx.export(captured, example, onnx_file)
        print(
            f"exported  {exported.nodes} nodes; " + ", ".join(f"{k} within {v:.1e}" for k, v in exported.errors.items())
        )

        with Server(store) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:

            def call(**arrays):
                return client.infer(name, **arrays)

            served = call(**feeds)[next(iter(report.outputs))]
            print(f"served    {name} over gRPC, within {np.abs(served - expected).max():.1e} of the model")
            if ask is not None:
                ask(call)
        return {"package": report.deviation, **exported.errors, "served": float(np.abs(served - expected).max())}
