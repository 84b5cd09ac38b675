"""Replacing a file so that every interruption leaves the old one whole or the new one whole."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

Buffer = bytes | bytearray | memoryview


def replace(path: str | os.PathLike[str], chunks: Iterable[Buffer]) -> None:
    """Write `chunks` under a temporary name beside `path`, flush to the disk, rename, flush the folder. What earlier
    writers of this file left behind when they died is removed. Raises OSError; then `path` is untouched."""
    path = Path(path)
    remove_stale(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            for chunk in chunks:
                _write_all(file, memoryview(chunk).cast("B"))
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


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
