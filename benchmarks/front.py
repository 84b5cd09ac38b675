"""Speed of the fronts under h2load (Debian: nghttp2-client), beside a bare grpcio echo, in turns.

    python -m benchmarks.front [--seconds 1] [--rounds 2] [--kinds native,portable,echo,mlserver,triton] [--json F]

The server runs on the first core, the load on the second. The model is an identity over FP32 tensors, so what is measured is
the server: transport, validation, queue, batch, answer; in one case a perceptron 784-1024-1024-10. h2load counts statuses of HTTP,
not of gRPC, and compares no answers; before each run one request is checked in full, and after it the server's own counter must
have grown by what h2load counts. `serve_soak.py` compares every answer. MLServer and Triton run beside where `peers.py` finds them.
"""

import argparse
import contextlib
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import numpy as np
import onnx
from benchmarks import peers
from benchmarks.processes import INFER, cpu_seconds, echo
from onnx import TensorProto, helper

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client

HEAD = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
REST_REQUESTS = 5000  # h2load counts no successes of HTTP/1.1 where it runs for a time
CASES = {  # name -> (model, floats a request, connections, streams each)
    "64 concurrent": ("identity", 16, 8, 8),
    "1 concurrent": ("identity", 16, 1, 1),
    "600 KB, 8 concurrent": ("identity", 150_000, 8, 1),
    "perceptron, 64 concurrent": ("mlp", 784, 8, 8),
}
OURS = ("native", "portable")
KINDS = (*OURS, "echo", *peers.VARIABLES)


def serve(kind, folder):
    """The server process: prints its ports, stops when its input ends."""
    if kind == "echo":
        return echo(8, -1)
    from headrace.serve import Server
    from headrace.serve.config import Drain, Listen, Settings

    settings = Settings(listen=Listen("127.0.0.1", 0, 0, -1, front=kind), drain=Drain(0, 5))
    with Server(folder, settings=settings) as server:
        print(server.grpc_port, server.http_port, flush=True)
        sys.stdin.read()


def save(path, nodes, x, y, constants=()):
    path.parent.mkdir(parents=True)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "model", ports[:1], ports[1:], list(constants))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def perceptron(path, hidden=1024):
    """784 inputs, two hidden layers, 10 outputs; random weights."""
    random, constants, nodes, last = np.random.default_rng(1), [], [], "x"
    widths = (784, hidden, hidden, 10)
    for index, (rows, columns) in enumerate(itertools.pairwise(widths)):
        weights = random.standard_normal((rows, columns)).astype(np.float32) / np.float32(rows**0.5)
        for name, value in (("w", weights), ("b", np.zeros(columns, np.float32))):
            constants.append(onnx.numpy_helper.from_array(value, f"{name}{index}"))
        out = "y" if index == 2 else f"h{index}"
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [out]))
        if index < 2:
            nodes.append(helper.make_node("Relu", [out], [f"{out}r"]))
        last = f"{out}r"
    save(path, nodes, ["n", 784], ["n", 10], constants)


def repository(folder):
    root = Path(folder, "models")
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    save(root / "identity/1/model.onnx", identity, ["n", "k"], ["n", "k"])
    perceptron(root / "mlp/1/model.onnx")
    return root


def request(model, width):
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[1, width])
    message.raw_input_contents.append(np.arange(width, dtype=np.float32).tobytes())
    return message.SerializeToString()


def h2load(url, body, connections, streams, length, *options):
    """(requests a second, mean ms, largest ms, requests) by h2load on the second core; `length` as its option."""
    command = [
        "taskset",
        "-c",
        "1",
        "h2load",
        "-t",
        "1",
        "-c",
        str(connections),
        "-m",
        str(streams),
        *length,
        "-d",
        str(body),
        *options,
        url,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"([\d.]+) req/s", text).group(1))
    done, ok = map(int, re.search(r"(\d+) done, (\d+) succeeded", text).groups())
    if done != ok:
        raise SystemExit(f"h2load: {done - ok} of {done} requests failed\n{text}")
    _, largest, mean = re.search(r"time for request:\s+(\S+)\s+(\S+)\s+(\S+)", text).groups()
    return rate, _ms(mean), _ms(largest), done


def _ms(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


@contextlib.contextmanager
def serving(kind, root, folder):
    """A server on the first core: (process, gRPC port, HTTP port or -1)."""
    if kind in peers.VARIABLES:
        with peers.serving(kind, folder, 0) as (process, port):
            yield process, port, -1
        return
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.front", "--serve", kind, str(root)]
    pipe, log = subprocess.PIPE, Path(folder, "log")  # h2load leaves calls open at its end, and the server says so
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        try:
            ports = process.stdout.readline().split()
            if not ports:
                raise SystemExit(f"{kind} did not start: {log.read_text()}")
            yield process, *map(int, ports)
        finally:
            process.stdin.close()


def checked(kind, port, model, data):
    """One request in full: an identity answers its input."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]) as channel:
        answer = channel.unary_unary(INFER)(data, timeout=30)
    if kind != "echo":
        given, got = pb.ModelInferRequest.FromString(data), pb.ModelInferResponse.FromString(answer)
        if model == "identity" and list(got.raw_output_contents) != list(given.raw_input_contents):
            raise peers.Unusable(f"{kind} answers an identity with other bytes")


def counted(port, model):
    with Client(f"127.0.0.1:{port}") as client:
        return client.statistics(model)[0]["inference_count"]


def measure(kind, root, folder, seconds):
    """Every case on one server."""
    rows = []
    with serving(kind, root, folder) as (server, port, http):
        for case, (model, width, connections, streams) in CASES.items():
            if model != "identity" and kind not in OURS:
                continue
            data, body = request(model, width), Path(folder, "body.bin")
            body.write_bytes(b"\0" + len(data).to_bytes(4, "big") + data)
            url = f"http://127.0.0.1:{port}{INFER}"
            checked(kind, port, model, data)
            before = counted(port, model) if kind in OURS else 0
            warm = h2load(url, body, connections, streams, ["-D", "1"], *HEAD)[3]
            cpu = cpu_seconds(server.pid)
            rate, mean, largest, done = h2load(url, body, connections, streams, ["-D", str(seconds)], *HEAD)
            row = {"kind": kind, "case": case, "rate": rate, "mean_ms": mean, "largest_ms": largest}
            row |= {"cpu_us": (cpu_seconds(server.pid) - cpu) / done * 1e6, "mb_s": rate * width * 4 / 1e6}
            if kind in OURS:
                grown = counted(port, model) - before
                assert grown >= warm + done, (grown, warm, done)
            if http >= 0 and case == "64 concurrent":
                row["rest_rate"] = rest(http, folder, width)
            rows.append(row)
    return rows


def rest(port, folder, width):
    text = Path(folder, "body.json")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, width], "data": list(range(width))}
    text.write_text(json.dumps({"inputs": [tensor]}))
    url = f"http://127.0.0.1:{port}/v2/models/identity/infer"
    return h2load(url, text, 64, 1, ["-n", str(REST_REQUESTS)], "--h1")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    if not shutil.which("h2load"):
        raise SystemExit("this benchmark needs h2load: on Debian or Ubuntu, apt-get install nghttp2-client")
    kinds = arguments.kinds.split(",")
    for kind in [kind for kind in kinds if kind in peers.VARIABLES and peers.why_not(kind)]:
        print(f"without {kind}: {peers.why_not(kind)}", file=sys.stderr)
        kinds.remove(kind)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = repository(folder)
        for _ in range(arguments.rounds):
            for kind in list(kinds):
                try:
                    rows += measure(kind, root, folder, arguments.seconds)
                except peers.Unusable as error:
                    if kind not in peers.VARIABLES:
                        raise
                    print(f"without {kind}: {error}", file=sys.stderr)
                    kinds.remove(kind)
    print("| case | server | requests/s | mean ms | largest ms | server CPU us | MB/s | REST (JSON) requests/s |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for case in CASES:
        for kind in kinds:
            mine = [row for row in rows if (row["case"], row["kind"]) == (case, kind)]
            if mine:
                print(line(mine))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def line(rows):
    """Medians of one case on one server."""
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key not in ("kind", "case")}
    rate = f"{middle['rest_rate']:,.0f}" if "rest_rate" in middle else ""
    times = f"{middle['mean_ms']:.2f} | {middle['largest_ms']:.2f} | {middle['cpu_us']:.0f} | {middle['mb_s']:,.0f}"
    return f"| {rows[0]['case']} | {rows[0]['kind']} | {middle['rate']:,.0f} | {times} | {rate} |"


if __name__ == "__main__":
    sys.exit(main())
