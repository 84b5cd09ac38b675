"""Packed constants by key: one copy for all loads of an archive in this process, for other processes by descriptor, and in a
file for the next start.

What decides about packed constants is in their key: the archive's digest, the entry point, passes, precision, the build and
the CPU's tier. Whatever does not fit is told in one line of the log and not used: constants are then packed as always.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.runtime import atomic
from headrace.runtime.caches import cache_folder

if TYPE_CHECKING:
    from headrace.runtime._native import Packing, PackStore, Program

log = logging.getLogger("headrace.runtime")  # gets texts: a kept record of an exception would keep what its frames hold

KEPT = 32  # files
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Shared:
    """What loads of one key have in common. It lives as long as one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # while it is filled
        self.store: PackStore | None = None

    @property
    def size(self) -> int:
        """Bytes of constants that are shared."""
        return 0 if self.store is None else self.store.size


_shelf: weakref.WeakValueDictionary[str, Shared] = weakref.WeakValueDictionary()
_shelf_lock = threading.Lock()


class Exchange:
    """Packed constants from and for other processes: `given` is the descriptor of a sealed memfd, `made` that of one that a
    load filled because it had none that fits. Descriptors stay their owners'; `made` lives as long as the model."""

    def __init__(self, given: int | None = None) -> None:
        self.given: int | None = given
        self.made: int | None = None


_exchange: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextlib.contextmanager
def exchange(given: int | None = None) -> Iterator[Exchange]:
    """Within, the first program that a load makes packs into memory that other processes can map, or maps theirs."""
    found = Exchange(given)
    token = _exchange.set(found)
    try:
        yield found
    finally:
        _exchange.reset(token)


class Packs:
    """The packed constants of one archive. `identity`: all that decides about them beside the entry point and what this
    machine is; `cache`: they are kept in files of the cache folder; `proof` raises where the archive is damaged: nothing is
    shared before."""

    def __init__(self, identity: str, cache: bool = False, proof: Callable[[], None] = lambda: None) -> None:
        self._identity, self._cache, self._proof = identity, cache, proof

    def lower(self, entry: str, lower: Callable[[Packing | None], Program]) -> tuple[Program, Shared | None]:
        """The program that `lower` makes, with constants that were packed before where there are any. What is answered
        beside it must live as long as the program."""
        from headrace.runtime._native import Packing

        key = self._key(entry)
        with _shelf_lock:
            shared = _shelf.get(key)
            if shared is None:
                shared = _shelf[key] = Shared()
        with shared.lock:
            if shared.store is None:
                shared.store = self._found(key)
            if shared.store is None:
                return self._filled(key, shared, lower), shared
            packing = Packing(shared.store)
        program = lower(packing)
        if packing.fits:
            return program, shared
        log.warning("packed constants of another program were under the key %s; packing again", key[:16])
        with _shelf_lock:
            if _shelf.get(key) is shared:
                del _shelf[key]
        return lower(None), None

    def _filled(self, key: str, shared: Shared, lower: Callable[[Packing | None], Program]) -> Program:
        from headrace.runtime._native import Packing, PackStore

        asked = _exchange.get()
        store = PackStore(key, asked is not None)
        program = lower(Packing(store))
        self._proof()
        store.finish()
        shared.store = store
        if asked is not None and asked.made is None and store.blocks:
            asked.made = store.descriptor
        if self._cache and store.blocks:
            _keep(key, store)
        return program

    def _key(self, entry: str) -> str:
        return hashlib.sha256("\n".join((self._identity, entry, *_machine())).encode()).hexdigest()

    def _found(self, key: str) -> PackStore | None:
        """From another process or from a file; None where neither fits."""
        asked = _exchange.get()
        if asked is not None and asked.given is not None:
            given, asked.given = asked.given, None
            if (store := _from_process(key, given)) is not None:
                return store
        return _from_file(key) if self._cache else None


def _from_process(key: str, descriptor: int) -> PackStore | None:
    from headrace.runtime._native import PackStore

    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise ValueError("its memory is not sealed")
        return PackStore.open(descriptor, key, False)
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("packed constants of another process are not used: %s; packing again", str(error))
        return None


def _from_file(key: str) -> PackStore | None:
    from headrace.runtime._native import PackStore

    try:
        path = _path(key)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        log.warning("packed constants are not used: %s; packing again", str(error))
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise ValueError("it is not ours, or others may write it")
        store = PackStore.open(descriptor, key, True)
        with contextlib.suppress(OSError):
            os.utime(descriptor)  # used now: the last to be removed
        return store
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("packed constants of %s are not used: %s; packing again", path, str(error))
        return None
    finally:
        os.close(descriptor)


def _keep(key: str, store: PackStore) -> None:
    """Write the file for the next start. A folder that cannot be written costs packing the next time, nothing else."""
    try:
        path = _path(key)
        atomic.replace(path, store.pieces())
        files = sorted(path.parent.glob("*.packed"), key=lambda file: file.stat().st_mtime)
        for file in files[:-KEPT]:
            file.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        log.warning("packed constants are not kept for the next start: %s", str(error))


def _path(key: str) -> Path:
    folder = cache_folder("packed")
    folder.chmod(0o700)
    return folder / f"{key}.packed"


def _machine() -> tuple[str, ...]:
    """What else decides about packed constants here."""
    from headrace.runtime import _native
    from headrace.runtime.passes import fingerprint

    found = os.stat(_native.__file__ or "")
    return _native.cpu_tier(), f"{found.st_size} {found.st_mtime_ns}", fingerprint(machine=True)
