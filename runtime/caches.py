"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_path(kind: str) -> str:
    """Where a folder in $HEADRACE_CACHE_DIR, else the user's cache folder, is or would be. RuntimeError without a home."""
    root = os.environ.get("HEADRACE_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache"), "headrace"
    )
    return os.path.join(root, kind)


def cache_folder(kind: str) -> Path:
    """The folder at `cache_path`, made if absent. OSError where it cannot be."""
    folder = cache_path(kind)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
    return Path(folder)
