"""Real models served in batches, beside the same batches run in process.

    python benchmarks/served.py --cases DIR [--only ocr_cls,file_type] [--batch 8] [--rounds 3] [--seconds 2]

DIR as in `real_models.py`. One process on the first core holds the server (one thread a model) and a copy of each model; the
load generator runs on the second core: 2 x batch callers, one row each, every answer compared with the first. In turns, the
process runs its copy on batches of that size by itself, and serves. The ratio of rows a second is the median over the
rounds, that of rows a second of processor time beside it (on a busy machine it is the one to look at); `batch` is what the server
merged on average.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from headrace import runtime
from headrace.serve import Client
from headrace.verbs.load import load_server

BATCHES = 50  # at least so many a round: the first and the last are not full
CHOSEN = "ocr_cls,ocr_rec,image_classification,sentence_embedding,file_type"


def rows_of(folder: Path, inputs: list[str]) -> dict[str, np.ndarray]:
    """The first row of the first recorded inputs."""
    return {name: np.load(folder / "set_0" / f"in_{i}.npy")[:1] for i, name in enumerate(inputs)}


def serve(repository: str, batch: int) -> None:
    """The server process: answers a line with a model and seconds by rows a second in process."""
    from headrace.serve import Server
    from headrace.serve.config import Drain, Listen, Log, RepositorySettings, Settings

    os.sched_setaffinity(0, {0})
    settings = Settings(
        listen=Listen("127.0.0.1", 0, -1, -1),
        drain=Drain(0, 5),
        log=Log(access="slow"),
        repository=RepositorySettings(threads=1),
    )
    models = {path.parent.parent.name: path for path in Path(repository).glob("*/1/model.onnx")}
    loaded = {name: runtime.load(path, threads=1) for name, path in models.items()}
    with Server(repository, settings=settings) as server:
        print(server.grpc_port, flush=True)
        for line in sys.stdin:
            if line == "cpu\n":
                print(time.process_time(), flush=True)
                continue
            name, seconds, folder = line.split()
            model = loaded[name]
            row = rows_of(Path(folder), [spec.name for spec in model.inputs])
            feeds = {key: np.concatenate([array] * batch) for key, array in row.items()}
            model.run(feeds), model.run(feeds)
            count, begin, cpu = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - begin < float(seconds):
                model.run(feeds)
                count += batch
            print(count / (time.perf_counter() - begin), count / (time.process_time() - cpu), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases")
    parser.add_argument("--only", default=CHOSEN)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.batch)
        return 0
    names, cases = given.only.split(","), Path(given.cases)
    results = []
    with tempfile.TemporaryDirectory() as repository:
        for name in names:
            folder = Path(repository, name, "1")
            folder.mkdir(parents=True)
            (folder / "model.onnx").symlink_to((cases / name / "model.onnx").resolve())
            (folder.parent / "config.toml").write_text(f"[batching]\nmax_batch_size = {given.batch}\n")
        command = [sys.executable, __file__, "--serve", repository, "--batch", str(given.batch)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
            assert server.stdin is not None and server.stdout is not None
            os.sched_setaffinity(0, {1})
            url = f"127.0.0.1:{server.stdout.readline().strip()}"
            for name in names:
                results.append(measure(name, url, cases / name, given, server))
                print(line(results[-1]), flush=True)
            server.stdin.close()
    if given.json:
        Path(given.json).write_text(json.dumps(results, indent=1))
    return 0


def processor_time(server: subprocess.Popen[str]) -> float:
    """Seconds of the server process so far."""
    assert server.stdin is not None and server.stdout is not None
    print("cpu", file=server.stdin, flush=True)
    return float(server.stdout.readline())


def measure(
    name: str, url: str, folder: Path, given: argparse.Namespace, server: subprocess.Popen[str]
) -> dict[str, object]:
    with Client(url) as client:
        row = rows_of(folder, [facts["name"] for facts in client.metadata(name)["inputs"]])
        rounds, merged = [], []
        for _ in range(given.rounds):
            print(name, given.seconds, folder, file=server.stdin, flush=True)
            alone, alone_cpu = map(float, server.stdout.readline().split())
            seconds = max(given.seconds, BATCHES * given.batch / alone)
            before, cpu = client.statistics(name)[0], processor_time(server)
            (step,) = load_server(url, name, row, clients=2 * given.batch, seconds=seconds, warmup=0.5)["steps"]
            after, cpu = client.statistics(name)[0], processor_time(server) - cpu
            if step["errors"] or step["wrong"]:
                raise SystemExit(f"{name}: {step}")
            runs = int(after["execution_count"]) - int(before.get("execution_count", 0))
            rows = int(after["inference_count"]) - int(before.get("inference_count", 0))
            merged.append(rows / runs)
            rounds.append((alone, step["per_second"], step["generator_cores"], rows / cpu / alone_cpu))
    middle = [statistics.median(column) for column in zip(*rounds)]
    ratio = statistics.median(served / alone for alone, served, *_ in rounds)
    return {
        "model": name,
        "alone": middle[0],
        "served": middle[1],
        "ratio": ratio,
        "batch": statistics.median(merged),
        "cores": middle[2],
        "cpu_ratio": middle[3],
    }


def line(row: dict[str, object]) -> str:
    return f"| {row['model']} | {row['alone']:,.0f} | {row['served']:,.0f} | {row['ratio']:.1%} | {row['cpu_ratio']:.1%} | {row['batch']:.1f} | {row['cores']:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
