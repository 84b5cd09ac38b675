"""What a worker process does: it loads one model, proves it, and runs batches for the server that started it."""

import base64
import contextlib
import importlib
import json
import logging
import math
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import packs
from headrace.runtime.background import giving_way
from headrace.runtime.errors import HeadraceError, InputError
from headrace.serve import frames
from headrace.serve.datatypes import of_array, to_wire
from headrace.serve.frames import Frame, Inbox, Kind, Outbox
from headrace.serve.model import Model, proven

log = logging.getLogger("headrace.serve.worker")

TEXT_LIMIT = 4096


class Worker:
    """Answers the frames of one connection, in their order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._inbox, self._outbox = Inbox(), Outbox()
        self._model: Model | None = None
        self._path, self._proven = Path(), False
        self._gives_way = False  # while it loads and rehearses: requests are answered meanwhile

    def serve(self) -> None:
        """Until the server is gone."""
        while (frame := frames.receive(self._connection)) is not None:
            try:
                self._answer(frame)
            except Exception as error:
                self._fail(frame, error)

    def _answer(self, frame: Frame) -> None:
        if frame.kind is Kind.RUN:
            payload, descriptor = self._run(frame)
            frames.send(self._connection, Kind.RESULT, frame.number, payload, descriptor)
            self._outbox.sent()
        elif frame.kind is Kind.LOAD:
            asked = json.loads(frame.payload)
            self._gives_way = bool(asked["gives_way"])
            with giving_way(self._gives_way):
                facts, packed = self._load(asked, frame.descriptor)
            frames.send(self._connection, Kind.LOADED, frame.number, json.dumps(facts).encode(), packed)
        elif frame.kind is Kind.REHEARSE:
            with giving_way(self._gives_way):
                ended = self._rehearse(json.loads(frame.payload))
            self._send(Kind.REHEARSED, frame, json.dumps(ended).encode())
        elif frame.kind is Kind.UNLOAD:
            self._unload()
            self._send(Kind.UNLOADED, frame)

    def _send(self, kind: Kind, frame: Frame, payload: bytes = b"") -> None:
        frames.send(self._connection, kind, frame.number, payload)

    def _fail(self, frame: Frame, error: Exception) -> None:
        """Our own errors speak for themselves; others are logged here and told by kind."""
        text = str(error).splitlines()[0] if str(error) else ""
        if not isinstance(error, HeadraceError):
            log.error("a %s failed", frame.kind.name.lower(), exc_info=True)
            text = "ran out of memory" if isinstance(error, MemoryError) else f"failed with {type(error).__name__}"
        kind = "input" if isinstance(error, InputError) else "headrace" if isinstance(error, HeadraceError) else "other"
        self._send(Kind.FAILED, frame, json.dumps({"kind": kind, "text": text[:TEXT_LIMIT]}).encode())

    def _load(self, asked: dict[str, Any], given: int | None) -> tuple[dict[str, Any], int | None]:
        """Load and prove a model: what the server must know of it, and the descriptor of packed weights that others can
        map. `given` is such a one, of another worker."""
        self._unload()
        module, _, name = asked["loader"].partition(":")
        load = getattr(importlib.import_module(module), name)
        try:
            with packs.exchange(given) if asked["share"] else contextlib.nullcontext() as exchange:
                model: Model = load(Path(asked["path"]), **asked["options"])
        finally:
            if given is not None:
                os.close(given)
        try:
            report = proven(model)
            fed = getattr(model, "fed_rows", model.rows)
            facts = {
                "inputs": [_row(spec) for spec in model.inputs],
                "outputs": [_row(spec) for spec in model.outputs],
                "rows": [model.rows.independent, model.rows.reason],
                "fed_rows": [fed.independent, fed.reason],
                "states": [
                    [state.input, state.output, _constant(state.initial)] for state in getattr(model, "states", ())
                ],
                "properties": dict(model.properties),
                "weight_bytes": int(model.weight_bytes),
                "report": [report.ok, report.message, float(report.max_error), dict(report.outputs)],
            }
        except BaseException:
            model.close()
            raise
        self._model, self._path, self._proven = model, Path(asked["path"]), not math.isnan(report.max_error)
        return facts, None if exchange is None else exchange.made

    def _rehearse(self, config: dict[str, Any]) -> bool:
        from headrace.serve import warmup

        assert self._model is not None
        return warmup.rehearse(self._model, config, self._path, self._proven)

    def _unload(self) -> None:
        model, self._model = self._model, None
        self._inbox, self._outbox = Inbox(), Outbox()
        if model is not None:
            model.close()

    def _run(self, frame: Frame) -> tuple[bytes, int | None]:
        if self._model is None:
            raise HeadraceError("the worker has no model")
        arrays = self._inbox.read(frame)
        outputs = self._model.run({spec.name: array for spec, array in zip(self._model.inputs, arrays, strict=True)})
        return self._outbox.write([outputs[spec.name] for spec in self._model.outputs])


def _constant(array: Any) -> list[Any] | None:
    """A small array as text."""
    if array is None:
        return None
    array = np.asarray(array)
    return [of_array(array).name, list(array.shape), base64.b64encode(bytes(to_wire(array))).decode()]


def _row(spec: Any) -> list[Any]:
    """Dimensions as numbers, names and None."""
    shape = None if spec.shape is None else [d if d is None or isinstance(d, int) else str(d) for d in spec.shape]
    return [spec.name, spec.dtype, shape]
