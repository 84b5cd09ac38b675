"""Fuzz target: the ONNX importer, then the graph as the native executor takes it."""

from __future__ import annotations

from headrace.runtime.model import Model
from headrace.serializer.onnx.load import open_program


def read(data: bytes) -> None:
    Model(open_program(data).program.main, threads=1)
