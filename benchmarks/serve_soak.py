"""Soak the gRPC front: concurrent closed-loop clients, every answer compared, beside a bare grpcio echo.

    python -m benchmarks.serve_soak --seconds 60 --clients 64

Every request carries its own numbers; the answer must be exactly twice them plus one, under the same id. A lost,
wrong or mixed-up answer is counted and makes the exit status 1. The echo is a grpcio server whose handler returns its
message: the cost of the transport alone, with the same clients on the same cores. The server runs on the first core
and the clients on the others, unless --no-pin.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import onnx
from benchmarks.processes import INFER, cpu_seconds, echo
from onnx import TensorProto, helper

from headrace.protos import inference_pb2 as pb

WIDTH = 16
KINDS = ("echo", "portable", "headrace")  # headrace: the native front where it was built


def double(path):
    """The served model: y = 2 x + 1, rows independent."""
    node, tensor = helper.make_node, helper.make_tensor_value_info
    constants = [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in (("two", 2), ("one", 1))]
    nodes = [node("Mul", ["x", "two"], ["h"]), node("Add", ["h", "one"], ["y"])]
    x, y = (tensor(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy")
    graph = helper.make_graph(nodes, "double", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def serve(kind, threads):
    """The server process: prints its port, stops when its input ends."""
    if kind == "echo":
        return echo(threads)
    from headrace.serve import Server
    from headrace.serve.config import Drain, Listen, Settings

    with tempfile.TemporaryDirectory() as root:
        place = Path(root, "double", "1")
        place.mkdir(parents=True)
        double(place / "model.onnx")
        front = {"headrace": "auto"}.get(kind, kind)
        settings = Settings(listen=Listen("127.0.0.1", 0, -1, -1, front=front), drain=Drain(lame_duck_s=0))
        with Server(root, settings=settings) as server:
            print(server.grpc_port, flush=True)
            sys.stdin.read()
            (version,) = server._manager.versions()
            counted = version.count().show()
        print(json.dumps(counted), flush=True)


def request(client, turn):
    x = np.arange(WIDTH, dtype=np.float32)[None] + np.float32(client * 7919 % 4096) + np.float32(turn % 65536)
    message = pb.ModelInferRequest(model_name="double", id=f"{client}-{turn}", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return message, x


def right(kind, data, sent, x):
    if kind == "echo":
        return data == sent.SerializeToString()
    answer = pb.ModelInferResponse.FromString(data)
    return (
        answer.id == sent.id
        and len(answer.raw_output_contents) == 1
        and answer.raw_output_contents[0] == (x * np.float32(2) + np.float32(1)).tobytes()
    )


def drive(kind, port, clients, first, seconds, results, core):
    """One client process: `clients` callers, each with one call at a time, over four connections."""
    if core is not None:
        os.sched_setaffinity(0, core)
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(min(4, clients))]
    times, wrong, lost = [[] for _ in range(clients)], [0] * clients, [0] * clients

    def caller(index):
        call = channels[index % len(channels)].unary_unary(INFER)
        end, turn = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            message, x = request(first + index, turn)
            turn += 1
            begin = time.perf_counter()
            try:
                data = call(message.SerializeToString(), timeout=30)
            except grpc.RpcError:
                lost[index] += 1
                continue
            times[index].append(time.perf_counter() - begin)
            wrong[index] += not right(kind, data, message, x)

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.savez(results, times=np.concatenate([np.array(own) for own in times]), wrong=sum(wrong), lost=sum(lost))


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(kind, options):
    cores = sorted(os.sched_getaffinity(0))
    pin = options.pin and len(cores) > 1
    command = [sys.executable, "-m", "benchmarks.serve_soak", "--role", kind, "--threads", str(options.threads)]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    port = int(server.stdout.readline())
    ready, idle = time.perf_counter() - began, resident(server.pid)
    if pin:
        for thread in os.listdir(f"/proc/{server.pid}/task"):
            os.sched_setaffinity(int(thread), cores[:1])
    rest = set(cores[1:]) if pin else None
    context = multiprocessing.get_context("spawn")
    share = [len(part) for part in np.array_split(range(options.clients), options.processes)]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{i}.npz")) for i in range(options.processes)]
        cpu, begin = cpu_seconds(server.pid), time.perf_counter()
        drivers = [
            context.Process(target=drive, args=(kind, port, n, 1000 * i, options.seconds, file, rest))
            for i, (n, file) in enumerate(zip(share, files))
        ]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        cpu, after = cpu_seconds(server.pid) - cpu, resident(server.pid)
        parts = [np.load(file) for file in files]
        times = np.concatenate([part["times"] for part in parts])
        wrong, lost = (int(sum(part[key] for part in parts)) for key in ("wrong", "lost"))
    tail, _ = server.communicate("")
    del begin
    row = {
        "server": kind,
        "requests": len(times),
        "per_second": len(times) / options.seconds,
        "p50_ms": float(np.percentile(times, 50) * 1e3),
        "p99_ms": float(np.percentile(times, 99) * 1e3),
        "max_ms": float(times.max() * 1e3),
        "server_cpu_us": cpu / len(times) * 1e6,
        "lost": lost,
        "wrong": wrong,
        "start_s": ready,
        "idle_mib": idle,
        "after_mib": after,
    }
    if kind != "echo":
        shown = json.loads(tail)
        row["mean_batch"] = shown["inference_count"] / max(1, shown["execution_count"])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2, help="client processes")
    parser.add_argument("--threads", type=int, default=128, help="threads of the echo server")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        serve(options.role, options.threads)
        return
    rows = [measure(kind, options) for kind in KINDS]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        columns = (
            "server",
            "requests",
            "per_second",
            "p50_ms",
            "p99_ms",
            "max_ms",
            "server_cpu_us",
            "lost",
            "wrong",
            "start_s",
            "idle_mib",
            "after_mib",
        )
        print("".join(f"{name:>14}" for name in columns))
        for row in rows:
            print("".join(f"{row[n]:>14.2f}" if isinstance(row[n], float) else f"{row[n]:>14}" for n in columns))
        print(f"mean batch of headrace: {rows[-1]['mean_batch']:.2f}")
    sys.exit(any(row["lost"] or row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
