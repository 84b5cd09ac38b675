"""Fuzz target: bodies of REST inferences, JSON with raw tensors behind it. A first line says how much of it is JSON."""

from __future__ import annotations

from headrace.serve.rest_codec import read_infer


def read(data: bytes) -> None:
    line, _, body = data.partition(b"\n")
    read_infer("model", "", body, int(line) if line.isdigit() and len(line) < 8 else None)
