"""The CUDA device: `headrace.runtime.load(path, device="cuda")`.

`why_unavailable()` says in one line why there is none here and what to do; cupy is imported only when a device is
asked for. `device="emulated"` runs the same plans on the same kernels, compiled for the host (emul.py): slow, for tests.
"""

from __future__ import annotations

from headrace.runtime.errors import LoadError


def is_available() -> bool:
    """Whether `device="cuda"` can run here."""
    return not why_unavailable()


def why_unavailable() -> str:
    """ "" where a GPU can be used, else the cause and the next step."""
    from headrace.runtime.cuda.device import probe

    try:
        probe()
    except LoadError as error:
        return str(error)
    return ""
