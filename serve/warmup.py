"""Runs of a model before it is ready, so that the first requests find plans, arenas and weights in place.

By default the golden inputs of the package, in batches of 1, of each preferred size and of the configured maximum; or samples
that the configuration describes. A sample that fails makes the load fail; the sizes stop where their time is over.
"""

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from headrace.serve.config import ConfigError, ModelConfig, WarmupInput, WarmupSample
from headrace.serve.datatypes import Array, Datatype, decode_bytes
from headrace.serve.model import Model
from headrace.serve.rows import batch_rows
from headrace.serve.validate import Interface, Port

TRIAL_SECONDS = 1.0  # for one run with zeros
TWICE = 2  # a shape that comes back gets its plan
MAX_BYTES = 1 << 30  # of the inputs of one run
FOLDER = "warmup"

Feeds = Mapping[str, Array]


class Pace(NamedTuple):
    """How many runs it were; what the quickest one took, and how many rows it had."""

    runs: int = 0
    seconds: float = math.inf
    rows: int = 1


def warm_up(
    model: Model, interface: Interface, config: ModelConfig, path: Path, clock: Callable[[], float] = time.perf_counter
) -> Pace:
    """Run the model in the file `path`. ConfigError for a sample that does not fit the interface, and what a run raises."""
    pace = Pace()
    end = math.inf if config.warmup.samples else clock() + config.warmup.seconds
    for feeds in _feeds(model, interface, config, path):
        began = clock()
        if began >= end:
            break
        model.run(feeds)
        took = clock() - began
        if took < pace.seconds:
            pace = Pace(pace.runs, took, _rows_of(feeds, interface))
        pace = pace._replace(runs=pace.runs + 1)
    return pace


def rehearse(model: Model, config: Mapping[str, Any], path: Path, ran: bool) -> bool:
    """The runs of `warm_up` in a process that may end of them, before a server does them; one with zeros where there is nothing
    to feed the model and it never `ran`. What a run raises does not count here: the server finds it itself. False: the run with
    zeros goes on, and is for nothing."""
    try:
        settings = msgspec.convert(config, ModelConfig)
        interface = Interface(model.inputs, model.outputs, batch_rows(model, settings)[0])
        if warm_up(model, interface, settings, path).runs or ran:
            return True
        feeds = {port.name: _zeros(port) for port in interface.inputs}
    except Exception:
        return True
    trial = threading.Thread(target=_try, args=(model, feeds), daemon=True)
    trial.start()
    trial.join(TRIAL_SECONDS)
    return not trial.is_alive()


def _zeros(port: Port) -> Array:
    dims = tuple(size if isinstance(size, int) else 1 for size in port.shape or ())
    return _array(port, WarmupInput(dims), (), ())


def _try(model: Model, feeds: Feeds) -> None:
    with contextlib.suppress(Exception):
        model.run(feeds)


def _rows_of(feeds: Feeds, interface: Interface) -> int:
    return len(next(iter(feeds.values()))) if interface.max_batch_size else 1


def _feeds(model: Model, interface: Interface, config: ModelConfig, path: Path) -> Iterator[Feeds]:
    """One for each run: those that the configuration describes, or the golden ones."""
    for sample in config.warmup.samples:
        feeds = _sample(sample, interface, (path.parent.parent / FOLDER, path.parent / FOLDER))
        yield from itertools.repeat(feeds, sample.count or TWICE)
    if not config.warmup.samples and config.warmup.mode != "off":
        for feeds in _golden(model, interface, config):
            yield from itertools.repeat(feeds, TWICE)


def _golden(model: Model, interface: Interface, config: ModelConfig) -> Iterator[Feeds]:
    """The first golden inputs, as they are or as batches of the sizes that will come."""
    golden = getattr(getattr(model, "golden", None), "inputs", None)
    if not golden:
        return
    feeds = golden[0]
    most = interface.max_batch_size
    if not most or any(not np.ndim(value) for value in feeds.values()):
        yield feeds
        return
    sizes = {1, *config.batching.preferred_sizes, max(1, config.batching.max_batch_size)}
    for size in sorted(size for size in sizes if size <= most):
        batch = {name: _rows(np.asarray(value), size) for name, value in feeds.items()}
        if all(array is not None for array in batch.values()):
            yield {name: array for name, array in batch.items() if array is not None}


def _rows(array: Array, count: int) -> Array | None:
    """So many rows: those that are there, again and again. None: there are none, or the batch would be huge."""
    if not array.shape[0] or array.nbytes // array.shape[0] * count > MAX_BYTES:
        return None
    batch: Array = array[np.arange(count) % array.shape[0]]
    return batch


def _sample(sample: WarmupSample, interface: Interface, folders: tuple[Path, ...]) -> Feeds:
    ports = {port.name: port for port in interface.inputs}
    for name in sample.inputs.keys() - ports.keys():
        raise ConfigError(f"warmup: the model has no input {name!r}; it has {', '.join(ports)}")
    for name in ports.keys() - sample.inputs.keys():
        raise ConfigError(f"warmup: the input {name!r} is given nothing")
    rows = (sample.batch_size or 1,) if interface.max_batch_size else ()
    if rows and not 1 <= rows[0] <= interface.max_batch_size:
        raise ConfigError(f"warmup: batch_size is {rows[0]}; allowed are numbers from 1 to {interface.max_batch_size}")
    return {name: _array(ports[name], value, rows, folders) for name, value in sample.inputs.items()}


def _array(port: Port, given: WarmupInput, rows: tuple[int, ...], folders: tuple[Path, ...]) -> Array:
    where, shape = f"warmup: input {port.name!r}", (*rows, *given.dims)
    fits = port.shape is None or (
        len(port.shape) == len(shape) and all(a == b for a, b in zip(port.shape, shape) if isinstance(a, int))
    )
    if not fits or min(shape, default=0) < 0:
        raise ConfigError(f"{where} has dims {list(given.dims)}; the model has {port.wire_shape[len(rows) :]}")
    kind, count = port.datatype, math.prod(shape)
    if count * max(kind.size, 1) > MAX_BYTES:
        raise ConfigError(f"{where} has more than {MAX_BYTES} bytes")
    if given.file:
        return _from_file(kind, given.file, shape, where, folders)
    if not kind.size:
        return np.full(shape, b"", object)
    if given.data == "zero":
        return np.zeros(shape, kind.dtype)
    raw = np.random.default_rng(0).random(shape)  # the same numbers at every load
    return (raw < 0.5) if kind.name == "BOOL" else (raw * 100).astype(kind.dtype)


def _from_file(kind: Datatype, name: str, shape: tuple[int, ...], where: str, folders: tuple[Path, ...]) -> Array:
    """Raw bytes as on the wire."""
    if Path(name).name != name:
        raise ConfigError(f"{where}: {name!r} is not the name of a file in the folder {FOLDER}")
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{where}: there is no file {name!r} in the folder {FOLDER} beside the model's versions")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    count = math.prod(shape)
    try:
        flat = np.frombuffer(data, kind.dtype) if kind.size else decode_bytes(data, count)
        return flat.reshape(shape)
    except ValueError:
        raise ConfigError(f"{where}: {name!r} does not hold {count} elements of {kind.name}") from None


__all__ = ["Pace", "rehearse", "warm_up"]
