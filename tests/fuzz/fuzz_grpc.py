"""Fuzz target: messages of gRPC inferences; long ones are scanned before they become objects."""

from __future__ import annotations

from headrace.serve.grpc_codec import read_infer


def read(data: bytes) -> None:
    read_infer(data)
