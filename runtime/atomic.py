"""Replacing a file so that every interruption leaves the old one whole or the new one whole."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

Buffer = bytes | bytearray | memoryview


def replace(
    path: str | os.PathLike[str],
    chunks: Iterable[Buffer],
    *,
    flush: bool = True,
    replaced: Callable[[int], object] | None = None,
) -> None:
    """Write `chunks` under a temporary name beside `path`, flush to the disk, rename, flush the folder. What earlier
    writers of this file left behind when they died is removed. Raises OSError; then `path` is untouched.

    flush=False is for what readers check: only a computer that fails may then leave what was not written. `replaced` is
    called with a descriptor of the new file, which is closed afterwards."""
    path = Path(path)
    remove_stale(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}")
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            for chunk in chunks:
                _write_all(file, memoryview(chunk).cast("B"))
            if flush:
                os.fsync(file)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if flush:
            _sync_folder(path.parent)
        if replaced is not None:
            replaced(file)
    finally:
        os.close(file)


def remove_stale(path: Path) -> None:
    """Remove temporary files of `path` that this user's dead processes left."""
    pattern = re.compile(re.escape(path.name) + r"\.tmp-(\d{1,10})-[0-9a-f]{8}")
    for entry in os.scandir(path.parent):
        match = pattern.fullmatch(entry.name)
        if match and entry.stat(follow_symlinks=False).st_uid == os.getuid() and not _alive(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data[: 1 << 30]) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
