#!/usr/bin/env python3
"""Whether a row of a model has the same bits alone and in a batch, at any place and with any number of threads.

    python benchmarks/batch_rows.py FOLDER [--only resnet50,lstm] [--rows 5] [--draws 3] [--threads 1,2,3]

FOLDER is that of benchmarks/models.py. For every file, and the float32 ones in bf16 as well: whether its rows are proven
independent; if so each of `--rows` rows runs alone, then drawn batches of them run with each number of threads, and every
answer is compared bit for bit. Ends with 1 where a proven model differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from feeds import feeds_of

import headrace.runtime as runtime


def rows_of(answers: dict[str, np.ndarray], rows: int) -> list[list[bytes]]:
    """For each row, the bytes of every output."""
    return [[np.ascontiguousarray(value[i]).tobytes() for value in answers.values()] for i in range(rows)]


def check(path: Path, inputs: list[Any], precision: str | None, options: argparse.Namespace) -> str:
    models = [runtime.load(path, device="cpu", threads=n, precision=precision) for n in options.threads]
    if not models[0].rows.independent:
        return f"not proven: {models[0].rows.reason}"
    feeds, rng = feeds_of(inputs, options.rows), np.random.default_rng(1)
    scales = np.exp(rng.uniform(-3, 3, options.rows)).astype(np.float32)  # so that a scale over the batch would show
    for name, value in feeds.items():
        if value.dtype == np.float32:
            feeds[name] = value * scales.reshape(-1, *[1] * (value.ndim - 1))
    alone = []
    for i in range(options.rows):
        alone += rows_of(models[0].run({name: value[i : i + 1] for name, value in feeds.items()}), 1)
    differ = compared = 0
    for _ in range(options.draws):
        picked = rng.integers(0, options.rows, rng.integers(2, options.rows + 1))
        for model in models:
            answers = rows_of(model.run({name: value[picked] for name, value in feeds.items()}), len(picked))
            compared += len(picked)
            differ += sum(answer != alone[i] for answer, i in zip(answers, picked))
    return f"{differ} of {compared} rows differ"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", default="1,2,3", type=lambda text: [int(n) for n in text.split(",")])
    options = parser.parse_args(argv)
    meta, failed = json.loads((options.folder / "meta.json").read_text()), False
    print("| model | precision | rows |\n|---|---|---|")
    for name, entry in meta.items():
        if options.only and name not in options.only.split(","):
            continue
        for suffix, precision in ((".onnx", None), (".onnx", "bf16"), (".int8.onnx", None)):
            path = options.folder / f"{name}{suffix}"
            if not path.exists():
                continue
            verdict = check(path, entry["inputs"], precision, options)
            failed = failed or not verdict.startswith(("0 ", "not proven"))
            print(f"| {name} | {'int8' if '.int8' in suffix else precision or 'float32'} | {verdict} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
