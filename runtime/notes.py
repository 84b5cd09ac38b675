"""Notes: what was found to be true on this host, each as a small file of a cache folder that is named by a digest of it.

A note that is not ours, that others may write, or whose text is not what it should be counts for nothing; one that cannot be
written costs finding out again. What is noted of a file is noted of its `identity`, which changes whenever somebody writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import time
from pathlib import Path

from headrace.runtime import atomic
from headrace.runtime.caches import cache_path

log = logging.getLogger("headrace.runtime")

KEPT, MOST = 768, 1024  # notes in a folder, when there are too many, and how many are too many
TEXT_LIMIT = 512  # bytes of a note
DAY_S = 86400.0  # for so long a file's bytes are taken as checked: a disk may lose bits without anybody writing them
SETTLED_NS = 2 * 10**9  # two writes within one tick of a file system's clock leave one time


class Notes:
    """The notes of one folder, which is made with the first of them; without a folder there are none."""

    def __init__(self, folder: Path | str | None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, kind: str) -> Notes:
        """Those of a folder in the cache folder; none where that cannot be."""
        try:
            return cls(cache_path(kind))
        except RuntimeError as error:
            log.debug("nothing is noted: %s", error)
            return cls(None)

    @property
    def anywhere(self) -> bool:
        """Whether notes can be kept at all."""
        return self._folder is not None

    def has(self, name: str, within_s: float | None = None) -> bool:
        """Whether it was noted, `within_s` seconds. That it was asked for is remembered: see `used`."""
        return self.said(name, within_s) is not None

    def said(self, name: str, within_s: float | None = None) -> str | None:
        """What was noted of it; None: nothing, or not within so many seconds."""
        if self._folder is None:
            return None
        try:
            descriptor = os.open(os.path.join(self._folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found = os.fstat(descriptor)
            age = time.time() - found.st_mtime
            if not is_ours(found) or not (within_s is None or 0 <= age < within_s):
                return None
            text = os.read(descriptor, TEXT_LIMIT)
            said = text[len(_text(name)) :].partition(b" ")[0].decode("ascii", "replace")
            if text != _text(name, said):
                return None
            with contextlib.suppress(OSError):
                os.utime(descriptor, ns=(time.time_ns(), found.st_mtime_ns))
            return said
        finally:
            os.close(descriptor)

    def used(self, name: str) -> float:
        """When it was noted or asked for last, in seconds since 1970; 0.0: there is none."""
        try:
            found = os.lstat(os.path.join(self._folder, name)) if self._folder is not None else None
        except OSError:
            found = None
        return 0.0 if found is None else max(found.st_atime, found.st_mtime)

    def add(self, name: str, said: str = "") -> None:
        """Note it, with a word, `said`."""
        if self._folder is None:
            return
        try:
            os.makedirs(self._folder, exist_ok=True, mode=0o700)
            atomic.replace(os.path.join(self._folder, name), [_text(name, said)], flush=False)
            notes = list(os.scandir(self._folder))
            if len(notes) <= MOST:
                return
            notes.sort(key=lambda note: note.stat(follow_symlinks=False).st_mtime)
            for note in notes[:-KEPT]:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(note.path)
        except OSError as error:
            log.debug("not noted: %s", error.strerror)


def name_of(*parts: str) -> str:
    """The name of a note that says these things."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def identity(found: os.stat_result) -> str:
    """What tells a file from every other one and from itself before any write, exchange or change of owner or mode."""
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return " ".join(map(str, (found.st_dev, found.st_ino, found.st_size, *times, found.st_mode, found.st_uid)))


def settled(found: os.stat_result) -> bool:
    """Whether a write from now on would change the `identity`: the last one was some time ago."""
    return time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) >= SETTLED_NS


def is_ours(found: os.stat_result) -> bool:
    """A regular file of this user that nobody else may write."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _text(name: str, said: str = "") -> bytes:
    text = f"found on this host: {name}\n"
    return (f"{text}{said} {name_of(name, said)}\n" if said else text).encode()
