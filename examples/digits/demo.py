"""The whole stack in one run: train, pack, quantize, verify, serve, call over gRPC and REST, compare.

python examples/digits/demo.py [--epochs 20] [--keep FOLDER]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from model import digits, train

import headrace
from headrace.serve import Client

console = Console(highlight=False)


def step(text):
    console.print(f"\n[bold cyan]{text}[/]")


def train_with_bar(epochs):
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=epochs, loss=float("nan"))
        return train(epochs, progress=lambda done, total, loss: bar.update(task, completed=done, loss=loss))


def ask(client, name, images, labels, calls=200):
    """Labels for a few images, the accuracy over all, the median and 99th percentile of single-image latency in ms."""
    answers = [client.infer(name, **{INPUT: images[i : i + 32]})[OUTPUT] for i in range(0, len(images), 32)]
    guesses = np.concatenate(answers).argmax(1)
    times = []
    for i in range(calls):
        start = time.perf_counter()
        client.infer(name, **{INPUT: images[i % len(images)][None]})
        times.append(1e3 * (time.perf_counter() - start))
    return guesses, (guesses == labels).mean(), np.percentile(times, 50), np.percentile(times, 99)


def picture(image):
    shades = " ░▒▓█"
    return ["".join(shades[min(4, int(v * 4.99))] * 2 for v in row) for row in image[0]]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--keep", help="folder for the packages (default: a temporary one)")
options = parser.parse_args()
began = time.perf_counter()
(x_train, y_train), (x_test, y_test) = digits()

with tempfile.TemporaryDirectory(prefix="headrace-demo-") as scratch:
    store = Path(options.keep or scratch)
    float_file, int8_file = store / "digits" / "1" / "model.hr", store / "digits-int8" / "1" / "model.hr"
    for file in (float_file, int8_file):
        file.parent.mkdir(parents=True, exist_ok=True)

    step("1  Train a CNN on 1,437 handwritten digits")
    model, accuracy = train_with_bar(options.epochs)
    console.print(f"test accuracy in training: {accuracy:.2%} of {len(y_test)}")

    step("2  Pack it, with golden inputs, outputs and an accuracy figure")
    example = x_train[:4]
    report = headrace.pack(model, example, float_file, golden=8, evaluate=({"x": x_test}, y_test))
    INPUT, OUTPUT = next(iter(report.inputs)), next(iter(report.outputs))
    console.print(
        f"{report.operators} operators, {report.bytes / 1e3:.0f} kB, accuracy {report.accuracy:.2%}, deviation from training {report.deviation:.1e}"
    )

    step("3  Quantize to int8, calibrated on training images")
    quantized = headrace.quantize(
        float_file,
        int8_file,
        method="static",
        calibration=[{INPUT: x_train[i : i + 32]} for i in range(0, 512, 32)],
        labels=({INPUT: x_test}, y_test),
    )
    cost = quantized.report["accuracy"]
    console.print(f"accuracy {cost['float']:.2%} -> {cost['quantized']:.2%}, {int8_file.stat().st_size / 1e3:.0f} kB")

    step("4  Verify both: every digest, and the golden outputs re-run")
    for file in (float_file, int8_file):
        verified = headrace.verify(file)
        console.print(f"{'ok ' if verified.ok else 'BAD'} {file.parent.parent.name}: {verified.message}")
        assert verified.ok

    step("5  Serve the folder on free ports, and call it over gRPC and REST")
    command = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        str(store),
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        "--json",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            line = server.stdout.readline()
            if not line:
                sys.exit("the server did not start")
            text += line
        ports = json.loads(text)
        table = Table("model", "protocol", "accuracy", "p50 ms", "p99 ms", box=None, header_style="bold")
        for name in ("digits", "digits-int8"):
            for protocol, url in (
                ("gRPC", f"127.0.0.1:{ports['grpc']}"),
                ("REST", f"http://127.0.0.1:{ports['http']}"),
            ):
                with Client(url) as client:
                    guesses, right, p50, p99 = ask(client, name, x_test, y_test)
                table.add_row(name, protocol, f"{right:.2%}", f"{p50:.2f}", f"{p99:.2f}")
        for rows in zip(*(picture(image) for image in x_test[:4])):
            console.print("  " + "   ".join(rows))
        console.print(
            "  "
            + "   ".join(f"{f'label {guess}, truth {truth}':<16}" for guess, truth in zip(guesses[:4], y_test[:4]))
            + "\n"
        )
        console.print(table)
    finally:
        server.terminate()
        status = server.wait(40)
    console.print(f"\nserver stopped with status {status}; whole demo {time.perf_counter() - began:.1f} s")
