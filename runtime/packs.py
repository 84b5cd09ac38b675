"""Packed constants by key: one copy for all loads of an archive in this process, for other processes by descriptor, and in a
file for the next start, with the program itself where nothing of it needs Python.

What decides about them is in their key: the archive's digest, the entry point, passes, precision, the CPU's tier, the
version and the build, which is the linker's digest of all native code: no other layout can have the same. Whatever does not fit is told in one line
of the log and not used: constants are then packed as always.

A file is read in full and its checksums compared before it is used, unless it was within a day and nobody has written it since
(`notes`). All files together have a limit; those that nobody used for the longest time go first, those of the last hour stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import logging
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace import __version__
from headrace.runtime import atomic
from headrace.runtime.caches import cache_folder, cache_path
from headrace.runtime.facts import Facts
from headrace.runtime.notes import DAY_S, Notes, identity, is_ours, name_of

if TYPE_CHECKING:
    from headrace.runtime._native import Packing, PackStore, Program, Recipe

log = logging.getLogger("headrace.runtime")  # gets texts: a kept record of an exception would keep what its frames hold

LIMIT = 8 << 30  # bytes of all files
SPARE = 20  # one part in so many of a disk stays free
IDLE_S = 3600.0  # a file that was used since then stays: several models of one start must not remove each other's
FOLDER, SUFFIX = "packed", ".packed"
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Shared:
    """What loads of one key have in common. It lives as long as one of them."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.lock = threading.Lock()  # while it is filled
        self.store: PackStore | None = None

    @property
    def size(self) -> int:
        """Bytes of constants that are shared."""
        return 0 if self.store is None else self.store.size

    @property
    def mapped(self) -> int:
        """Bytes of them that are pages of a file: the system can drop them, and every process that maps it has the same."""
        return self.size if self.store is not None and self.store.mapped and self.store.descriptor < 0 else 0

    @property
    def file(self) -> str:
        """Where they are kept for the next start; empty: nowhere."""
        with contextlib.suppress(OSError, RuntimeError):
            return str(path) if (path := _path(self.key)).is_file() else ""
        return ""


_shelf: weakref.WeakValueDictionary[str, Shared] = weakref.WeakValueDictionary()
_shelf_lock = threading.Lock()


class Exchange:
    """Packed constants from and for other processes: `given` is the descriptor of a sealed memfd, `made` that of one that a
    load filled because it had none that fits, and did not find or keep a file. Descriptors stay their owners'; `made` lives as long as the model."""

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


class Made(NamedTuple):
    """A program, the recipe that it was made of where that can be kept, and what is kept with it."""

    program: Program
    recipe: Recipe | None
    facts: Facts


class Loaded(NamedTuple):
    """A program, what its model says of itself (bytes: as it was kept), and what must live as long as it."""

    program: Any
    facts: Facts | bytes
    shared: Shared | None


class Packs:
    """The packed constants of one archive. `identity`: all that decides about them beside the entry point and what this
    machine is; `limit`: they are kept in files of the cache folder, which have at most so many bytes in all, and programs that
    need no Python with them; `archive`: its bytes, which constants of programs stay in; `proof` raises where
    the archive is damaged: nothing is shared before."""

    def __init__(
        self,
        identity: str,
        limit: int = 0,
        proof: Callable[[], None] = lambda: None,
        archive: memoryview | None = None,
    ) -> None:
        self._identity, self._proof, self._archive = identity, proof, archive
        self._limit = limit if _build() else 0

    @property
    def keeps(self) -> bool:
        """Whether something is kept for the next start."""
        return self._limit > 0

    def load(self, entry: str, threads: int, make: Callable[[Packing | None], Made]) -> Loaded:
        """The program of an entry point as it was kept; else the one that `make` makes, with constants that were packed before
        where there are any."""
        from headrace.runtime._native import Packing

        shared = _on_shelf(self._key(entry))
        with shared.lock:
            if shared.store is None:
                shared.store = self._found(shared.key)
            store = shared.store
            if store is None:
                return self._filled(shared, make)
        if self._limit and (data := store.facts) is not None:
            if (again := self._again(shared, store, data, threads)) is not None:
                return again
            shared = _on_shelf(shared.key)
            with shared.lock:
                return self._filled(shared, make)
        packing = Packing(store)
        made = make(packing)
        if packing.fits:
            return Loaded(made.program, made.facts, shared)
        log.warning("packed constants of another program were under the key %s; packing again", shared.key[:16])
        _off_shelf(shared)
        return Loaded(make(None).program, made.facts, None)

    def _again(self, shared: Shared, store: PackStore, facts: bytes, threads: int) -> Loaded | None:
        """What an earlier start kept. None where it does not fit; it is then kept no more."""
        from headrace.runtime._native import Packing, Recipe
        from headrace.runtime.lower import made_again

        packing = Packing(store)
        try:
            program = made_again(Recipe.read(store, self._archive), threads, packing)
            if packing.fits:
                return Loaded(program, facts, shared)
            why = "packed constants beside it are of other nodes"
        except ValueError as error:
            why = str(error)
        log.warning("the program kept under the key %s is not used: %s; making it again", shared.key[:16], why)
        _off_shelf(shared)
        with contextlib.suppress(OSError, RuntimeError):
            _path(shared.key).unlink(missing_ok=True)
        return None

    def _filled(self, shared: Shared, make: Callable[[Packing | None], Made]) -> Loaded:
        from headrace.runtime._native import Packing, PackStore

        asked = _exchange.get()
        store = PackStore(shared.key, asked is not None)
        made = make(Packing(store))
        self._proof()
        if self._limit and made.recipe is not None:
            made.recipe.keep(store, self._archive, made.facts.encode())
        store.finish()
        shared.store = store
        if self._limit and (store.blocks or made.recipe is not None):
            _keep(shared.key, store, self._limit)
        if asked is not None and asked.made is None and store.blocks and store.descriptor >= 0:
            asked.made = store.descriptor  # who does not find the file
        return Loaded(made.program, made.facts, shared)

    def _key(self, entry: str) -> str:
        return hashlib.sha256("\n".join((self._identity, entry, *_machine())).encode()).hexdigest()

    def _found(self, key: str) -> PackStore | None:
        """From another process or from a file; None where neither fits."""
        asked = _exchange.get()
        if asked is not None and asked.given is not None:
            given, asked.given = asked.given, None
            if (store := _from_process(key, given)) is not None:
                return store
        return _from_file(key) if self._limit else None


def _on_shelf(key: str) -> Shared:
    with _shelf_lock:
        shared = _shelf.get(key)
        if shared is None:
            shared = _shelf[key] = Shared(key)
        return shared


def _off_shelf(shared: Shared) -> None:
    with _shelf_lock:
        if _shelf.get(shared.key) is shared:
            del _shelf[shared.key]


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
        path = os.path.join(cache_path(FOLDER), key + SUFFIX)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        log.warning("packed constants are not used: %s; packing again", str(error))
        return None
    try:
        found = os.fstat(descriptor)
        if not is_ours(found):
            raise ValueError("it is not ours, or others may write it")
        known = Notes.of("checked").has(_note(key, found), DAY_S)
        store = PackStore.open(descriptor, key, not known)
        if not known:
            _note_when_written(key, found, descriptor)
        return store
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("packed constants of %s are not used: %s; packing again", path, str(error))
        return None
    finally:
        os.close(descriptor)


def _keep(key: str, store: PackStore, limit: int) -> None:
    """Write the file for the next start, and use it instead of memory. A folder that cannot be written, or a full
    disk, costs packing the next time, nothing else."""
    kept: list[int] = []
    try:
        path, pieces = _path(key), store.pieces()
        _make_room(path.parent, sum(map(len, pieces)), limit)
        atomic.replace(path, pieces, flush=False, replaced=lambda file: kept.append(os.dup(file)))
    except (OSError, RuntimeError) as error:
        log.info("packed constants are not kept for the next start: %s", str(error))
        return
    (descriptor,) = kept
    try:
        store.rest_in(descriptor)
        _note_when_written(key, os.fstat(descriptor), descriptor)
    finally:
        os.close(descriptor)


def _note_when_written(key: str, found: os.stat_result, descriptor: int) -> None:
    """Note, when the disk has it, that the file as it was `found` is right. Nobody waits for that but the process's end."""
    descriptor = os.dup(descriptor)

    def work() -> None:
        try:
            os.fsync(descriptor)
            if identity(os.fstat(descriptor)) == identity(found):
                Notes.of("checked").add(_note(key, found))
        except OSError as error:
            log.debug("packed constants are not noted: %s", error.strerror)
        finally:
            os.close(descriptor)

    try:
        threading.Thread(target=work, name="headrace-packs").start()
    except RuntimeError:  # the process is ending
        os.close(descriptor)


def _note(key: str, found: os.stat_result) -> str:
    return name_of("packed constants", key, identity(found))


def _make_room(folder: Path, wanted: int, limit: int) -> None:
    """Remove what nobody used for the longest time until `wanted` more bytes fit. OSError where they do not."""
    import shutil  # loads do without

    notes, disk, now = Notes.of("checked"), shutil.disk_usage(folder), time.time()
    held, idle = 0, []
    for path in folder.iterdir():
        base, temporary, _ = path.name.partition(".tmp-")
        if temporary:
            atomic.remove_stale(folder / base)
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            held += found.st_size
            used = max(found.st_mtime, notes.used(_note(path.name.removesuffix(SUFFIX), found)))
            if path.suffix == SUFFIX and now - used >= IDLE_S:
                idle.append((used, found.st_size, path))
    over = max(held + wanted - limit, wanted + disk.total // SPARE - disk.free)
    if over > sum(size for _, size, _ in idle):
        raise OSError(errno.ENOSPC, f"{wanted >> 20} MiB are more than there is room for")
    for _, size, path in sorted(idle):
        if over > 0:
            path.unlink(missing_ok=True)
            over -= size


def _path(key: str) -> Path:
    folder = cache_folder(FOLDER)
    folder.chmod(0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(errno.EPERM, f"{folder} is no folder of this user")
    return folder / f"{key}{SUFFIX}"


@functools.cache
def _build() -> str:
    """The build of the kernels; empty where the linker was told to leave that out: then no file can be told from another
    build's."""
    from headrace.runtime import _native

    return _native.build_id()


def _machine() -> tuple[str, ...]:
    """What else decides about packed constants here."""
    from headrace.runtime import _native
    from headrace.runtime.passes import fingerprint

    return _native.cpu_tier(), _build(), fingerprint(machine=True), __version__
