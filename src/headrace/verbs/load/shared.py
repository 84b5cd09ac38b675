"""Inputs in shared memory that the server reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from headrace.serve.client import Client
from headrace.serve.client_types import SharedTensor
from headrace.serve.datatypes import of_array, to_wire


@contextlib.contextmanager
def shared_inputs(client: Client, feeds: Mapping[str, Any]) -> Iterator[dict[str, SharedTensor]]:
    """`feeds` in one registered region, for the length of the block. ServeError where the server does not take it."""
    if not feeds:
        yield {}
        return
    arrays = {name: np.asarray(array) for name, array in feeds.items()}
    data = {name: bytes(to_wire(array)) for name, array in arrays.items()}
    memory = SharedMemory(create=True, size=sum(map(len, data.values())) or 1)
    assert memory.buf is not None
    try:
        tensors, at = {}, 0
        for name, part in data.items():
            memory.buf[at : at + len(part)] = part
            datatype = of_array(arrays[name]).name
            tensors[name] = SharedTensor(memory.name, datatype, arrays[name].shape, at, len(part))
            at += len(part)
        client.share(memory.name, f"/{memory.name}", memory.size)
        try:
            yield tensors
        finally:
            client.unshare(memory.name)
    finally:
        memory.close()
        memory.unlink()


__all__ = ["shared_inputs"]
