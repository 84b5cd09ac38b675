"""Speed of the fronts under h2load (Debian: nghttp2-client), beside a bare grpcio echo, in turns.

    python benchmarks/front.py [--seconds 2] [--rounds 3] [--json F]

The server runs on the first core, the load on the second. The model is an identity over FP32 tensors, so what is measured is
the server: transport, validation, queue, batch, answer. h2load counts statuses of HTTP, not of gRPC, and compares no answers;
before each run one request is checked in full, and after it the server's own counter must have grown by what h2load counts.
`serve_soak.py` compares every answer.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client

INFER = "/inference.GRPCInferenceService/ModelInfer"
HEAD = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
REST_REQUESTS = 5000  # h2load counts no successes of HTTP/1.1 where it runs for a time
CASES = {  # name -> (floats a request, connections, streams each)
    "64 concurrent": (16, 8, 8),
    "1 concurrent": (16, 1, 1),
    "600 KB, 8 concurrent": (150_000, 8, 1),
}


def serve(kind, folder):
    """The server process: prints its ports, stops when its input ends."""
    if kind == "echo":
        server = grpc.server(
            ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        )
        handler = grpc.unary_unary_rpc_method_handler(lambda data, _: data)
        service = INFER.split("/")[1]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),))
        print(server.add_insecure_port("127.0.0.1:0"), -1, flush=True)
        server.start()
        sys.stdin.read()
        server.stop(1).wait()
        return
    from headrace.serve import Server
    from headrace.serve.config import Drain, Listen, Settings

    settings = Settings(listen=Listen("127.0.0.1", 0, 0, -1, front=kind), drain=Drain(0, 5))
    with Server(folder, settings=settings) as server:
        print(server.grpc_port, server.http_port, flush=True)
        sys.stdin.read()


def model(folder):
    path = Path(folder, "identity", "1", "model.onnx")
    path.parent.mkdir(parents=True)
    tensor = helper.make_tensor_value_info
    x, y = tensor("x", TensorProto.FLOAT, ["n", "k"]), tensor("y", TensorProto.FLOAT, ["n", "k"])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def request(width):
    message = pb.ModelInferRequest(model_name="identity")
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


def measure(kind, folder, case, seconds):
    width, connections, streams = CASES[case]
    with subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, __file__, "--serve", kind, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        port, http = map(int, server.stdout.readline().split())
        url, rest = f"http://127.0.0.1:{port}{INFER}", f"http://127.0.0.1:{http}/v2/models/identity/infer"
        data = request(width)
        body = Path(folder, "body.bin")
        body.write_bytes(b"\0" + len(data).to_bytes(4, "big") + data)
        if kind != "echo":
            with Client(f"127.0.0.1:{port}") as client:
                x = np.arange(width, dtype=np.float32)[None]
                assert np.array_equal(client.infer("identity", x=x)["y"], x)
                before = client.statistics("identity")[0]["inference_count"]
        warm = h2load(url, body, connections, streams, ["-D", "1"], *HEAD)[3]
        rate, mean, largest, done = h2load(url, body, connections, streams, ["-D", str(seconds)], *HEAD)
        row = {
            "kind": kind,
            "case": case,
            "rate": rate,
            "mean_ms": mean,
            "largest_ms": largest,
            "mb_s": rate * width * 4 / 1e6,
        }
        if kind != "echo":
            with Client(f"127.0.0.1:{port}") as client:
                grown = client.statistics("identity")[0]["inference_count"] - before
            assert grown >= warm + done, (grown, warm, done)
            if case == "64 concurrent":
                text = Path(folder, "body.json")
                text.write_text(
                    json.dumps(
                        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, width], "data": list(range(width))}]}
                    )
                )
                row["rest_rate"], row["rest_mean_ms"], _, _ = h2load(
                    rest, text, 64, 1, ["-n", str(REST_REQUESTS)], "--h1"
                )
        server.stdin.close()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="native,portable,echo")
    parser.add_argument("--json")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    if not shutil.which("h2load"):
        raise SystemExit("this benchmark needs h2load: on Debian or Ubuntu, apt-get install nghttp2-client")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model(folder)
        for case in CASES:
            for _ in range(arguments.rounds):
                rows += [measure(kind, folder, case, arguments.seconds) for kind in arguments.kinds.split(",")]
    print(
        "| case | server | requests/s | mean ms | largest ms | MB/s | REST (JSON) requests/s |\n|---|---|--:|--:|--:|--:|--:|"
    )
    for case in CASES:
        for kind in arguments.kinds.split(","):
            mine = [row for row in rows if (row["case"], row["kind"]) == (case, kind)]
            middle = {
                key: statistics.median(row[key] for row in mine if key in row)
                for key in mine[0]
                if key not in ("kind", "case")
            }
            rest = f"{middle['rest_rate']:,.0f}" if "rest_rate" in middle else ""
            print(
                f"| {case} | {kind} | {middle['rate']:,.0f} | {middle['mean_ms']:.2f} | {middle['largest_ms']:.2f} | {middle['mb_s']:,.0f} | {rest} |"
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
