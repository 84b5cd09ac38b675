"""System shared memory: tensors that stay in a region which the client made on this machine, and are named, not sent.

Off unless the settings allow it. The server never maps a region: a file that shrinks under a mapping kills the reader, so
it reads and writes by offset, after looking at the size that the region has now. A region must belong to the server's own
user, and one that a request uses cannot be unregistered.
"""

import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headrace.runtime.spans import inside
from headrace.serve.config import SharedMemory as Settings
from headrace.serve.datatypes import Buffer, to_wire
from headrace.serve.errors import (
    Meaning,
    ServeError,
    bad_argument,
    forbidden,
    not_found,
    overloaded,
    quoted,
    unavailable,
    unsupported,
)
from headrace.serve.rejections import REGIONS
from headrace.serve.request import InferRequest, InferResponse, Parameter, Parameters

REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
FOLDER = Path("/dev/shm")
OWN_PREFIX = "headrace"  # no client registers what this server made
MAX_NAME_BYTES = 256
_KEY = re.compile(r"/?[A-Za-z0-9._-]{1,200}")
_MOST = 2**63 - 1


@dataclass(slots=True)
class Region:
    """A registered part of a shared memory object."""

    name: str
    key: str
    offset: int
    byte_size: int
    file: int
    users: int = 0

    def show(self) -> dict[str, str | int]:
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    region: Region
    offset: int
    size: int
    where: str  # of which tensor, for errors

    def read(self) -> bytearray:
        """Its bytes. bad_argument where the object has become too short."""
        self._check()
        data = bytearray(self.size)
        view, at = memoryview(data), 0
        while at < self.size:
            count = os.preadv(self.region.file, [view[at:]], self.region.offset + self.offset + at)
            if not count:
                raise bad_argument(f"{self.where}: the shared memory has become shorter than its region")
            at += count
        return data

    def write(self, data: Buffer) -> None:
        """Put the bytes there. bad_argument where they do not fit."""
        view = memoryview(data).cast("B")
        if len(view) > self.size:
            raise bad_argument(
                f"{self.where}: the tensor has {len(view)} bytes, its place in shared memory {self.size}"
            )
        self._check()
        at = 0
        while at < len(view):
            at += os.pwrite(self.region.file, view[at:], self.region.offset + self.offset + at)

    def _check(self) -> None:
        if self.region.offset + self.offset + self.size > os.fstat(self.region.file).st_size:
            raise bad_argument(f"{self.where}: the shared memory has become shorter than its region")


@dataclass(slots=True)
class Placed:
    """A request without its shared memory: what to do with the outputs that stay there."""

    outputs: dict[str, Place] = field(default_factory=dict)

    def keep(self, response: InferResponse) -> InferResponse:
        """Write outputs to their places; the answer then names these instead."""
        for tensor in response.outputs:
            place = self.outputs.get(tensor.name)
            if place is not None:
                data = to_wire(tensor.array)
                place.write(data)
                named: dict[str, Parameter] = {REGION: place.region.name, SIZE: len(data)}
                tensor.placed = named | ({OFFSET: place.offset} if place.offset else {})
        return response


class Regions:
    """The registered regions, by name. Safe for use by several threads."""

    def __init__(self, settings: Settings, folder: Path = FOLDER) -> None:
        self._settings, self._folder = settings, folder
        self._lock = threading.Lock()
        self._regions: dict[str, Region] = {}

    @property
    def enabled(self) -> bool:
        return self._settings.enabled

    def check_enabled(self) -> None:
        """ServeError (unsupported) where it is off: said before anything about a request."""
        if not self.enabled:
            raise unsupported("shared memory is switched off; the operator allows it by --allow-shared-memory")

    def status(self, name: str) -> dict[str, dict[str, str | int]]:
        """The region `name`, or all ("")."""
        with self._lock:
            if name and name not in self._regions:
                raise not_found(f"shared memory region {quoted(name)} is not registered")
            return {region.name: region.show() for region in self._regions.values() if name in ("", region.name)}

    def register(self, name: str, key: str, offset: int, byte_size: int, trusted: bool) -> None:
        """Open an object and remember a part of it under `name`."""
        self.check_enabled()
        if not trusted:
            raise forbidden(
                "shared memory is registered from the server's own machine only, or with a token of the role manage"
            )
        if not name or len(name) > MAX_NAME_BYTES:
            raise bad_argument(f"the name of a region has 1 to {MAX_NAME_BYTES} characters")
        if not _KEY.fullmatch(key) or key.strip("/").startswith((OWN_PREFIX, ".")):
            raise bad_argument(
                f"shared memory key {quoted(key)} is not a name of A-Z a-z 0-9 . _ - (or is the server's own)"
            )
        if not 0 <= offset <= _MOST or not 1 <= byte_size <= _MOST:
            raise bad_argument(
                f"region {quoted(name)}: offset {offset}, byte_size {byte_size}: allowed are 0 and more, 1 and more"
            )
        file = self._open(name, key)
        try:
            size = os.fstat(file).st_size
            if not inside(offset, byte_size, size):
                raise bad_argument(
                    f"region {quoted(name)}: {byte_size} bytes at {offset}, the shared memory has {size}"
                )
            with self._lock:
                if name in self._regions:
                    raise ServeError(Meaning.EXISTS, f"shared memory region {quoted(name)} is registered already")
                if len(self._regions) >= self._settings.max_regions:
                    raise overloaded(
                        f"{self._settings.max_regions} regions are registered, the most this server takes", REGIONS
                    )
                self._regions[name] = Region(name, key, offset, byte_size, file)
        except BaseException:
            os.close(file)
            raise

    def unregister(self, name: str) -> None:
        """Forget the region `name`, or all (""). One that is not there is no error; one in use is unavailable."""
        with self._lock:
            chosen = [region for region in self._regions.values() if name in ("", region.name)]
            used = next((region for region in chosen if region.users), None)
            if used is not None:
                raise unavailable(f"shared memory region {quoted(used.name)} is in use by a request")
            for region in chosen:
                del self._regions[region.name]
                os.close(region.file)

    def close(self) -> None:
        """Forget everything; for the end of the server."""
        with self._lock:
            for region in self._regions.values():
                os.close(region.file)
            self._regions = {}

    @contextlib.contextmanager
    def placed(self, request: InferRequest) -> Iterator[Placed]:
        """Read the inputs that lie in shared memory into the request, and take the parameters that say so away. The regions
        are in use until the end of the block."""
        held: list[Region] = []
        try:
            found = Placed()
            for tensor in request.inputs:
                if REGION in tensor.parameters:
                    where = f"input {quoted(tensor.name)}"
                    tensor.data = self._place(tensor.parameters, where, held).read()
                    tensor.parameters = _without(tensor.parameters)
            for output in request.outputs:
                if REGION in output.parameters:
                    where = f"output {quoted(output.name)}"
                    if "classification" in output.parameters:
                        raise bad_argument(f"{where}: classification and shared memory exclude each other")
                    found.outputs[output.name] = self._place(output.parameters, where, held)
                    output.parameters = _without(output.parameters)
            yield found
        finally:
            with self._lock:
                for region in held:
                    region.users -= 1

    def _place(self, parameters: Parameters, where: str, held: list[Region]) -> Place:
        if not self.enabled:
            raise unsupported(f"{where}: shared memory is switched off")
        name, size, offset = parameters[REGION], parameters.get(SIZE), parameters.get(OFFSET, 0)
        if type(size) is not int or type(offset) is not int or size < 0 or offset < 0:
            raise bad_argument(f"{where}: {SIZE} and {OFFSET} must be whole numbers from 0")
        with self._lock:
            region = self._regions.get(name) if isinstance(name, str) else None
            if region is None:
                raise not_found(f"{where}: shared memory region {quoted(str(name))} is not registered")
            if not inside(offset, size, region.byte_size):
                raise bad_argument(
                    f"{where}: {size} bytes at {offset}, the region {quoted(region.name)} has {region.byte_size}"
                )
            region.users += 1
        held.append(region)
        return Place(region, offset, size, where)

    def _open(self, name: str, key: str) -> int:
        try:
            file = os.open(self._folder / key.lstrip("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            raise bad_argument(
                f"region {quoted(name)}: there is no shared memory {quoted(key)} that the server may open"
            ) from None
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            os.close(file)
            raise forbidden(
                f"region {quoted(name)}: the shared memory {quoted(key)} belongs to another user than the server"
            )
        return file


def _without(parameters: Parameters) -> dict[str, Parameter]:
    return {key: value for key, value in parameters.items() if key not in (REGION, SIZE, OFFSET)}


__all__ = ["Placed", "Regions"]
