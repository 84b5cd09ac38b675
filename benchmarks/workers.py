"""One load on threads of the server and on worker processes: throughput, times, processor time, memory.

    python -m benchmarks.workers [--workers 0,1,2] [--seconds 3] [--rounds 3] [--hidden 1024] [--batch 1] [--json F]

The model is a perceptron (784, hidden, hidden, 10) of one thread a run; callers are grpcio clients, each with one call at a time, every
answer compared with the first. Servers take turns, medians over the rounds. The load generator takes processor time of the same
machine: `generator` is how many cores of it.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.front import perceptron
from benchmarks.processes import cpu_seconds
from benchmarks.soak.server import ServerProcess

from headrace.verbs.load import load_server


def measure(workers, root, options):
    with ServerProcess(root, "--workers", str(workers), "--threads", "1") as server:
        x = np.random.default_rng(1).standard_normal((options.batch, 784), np.float32)
        url = f"127.0.0.1:{server.grpc}"
        load_server(url, "mlp", {"x": x}, clients=options.clients, seconds=0.5, warmup=0.5)
        pids = [server.pid, *server.children()]
        before = sum(map(cpu_seconds, pids))
        (step,) = load_server(url, "mlp", {"x": x}, clients=options.clients, seconds=options.seconds, warmup=0.0)[
            "steps"
        ]
        if step["errors"] or step["wrong"]:
            raise SystemExit(f"workers {workers}: {step}")
        requests = step["per_second"] * options.seconds
        return {
            "workers": workers,
            "per_second": step["per_second"],
            "p50_ms": step["p50_ms"],
            "p99_ms": step["p99_ms"],
            "server_cpu_us": (sum(map(cpu_seconds, pids)) - before) / requests * 1e6,
            "generator": step["generator_cores"],
            "mib": server.sample()[0],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1, help="rows a request")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts = [int(count) for count in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as root:
        perceptron(Path(root, "mlp", "1", "model.onnx"), options.hidden)
        rows = [measure(count, root, options) for _ in range(options.rounds) for count in counts]
    columns = [key for key in rows[0] if key != "workers"]
    print("| workers | requests/s | p50 ms | p99 ms | server CPU us a request | generator cores | MiB, all processes |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for count in counts:
        mine = [row for row in rows if row["workers"] == count]
        middle = [statistics.median(row[key] for row in mine) for key in columns]
        print(
            f"| {count} | " + " | ".join(f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in middle) + " |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
