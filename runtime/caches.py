"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """$HEADRACE_CACHE_DIR, else the user's cache folder; made if absent. OSError where it cannot be, RuntimeError without a
    home."""
    root = os.environ.get("HEADRACE_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache"), "headrace"
    )
    folder = os.path.join(root, kind)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
    return Path(folder)
