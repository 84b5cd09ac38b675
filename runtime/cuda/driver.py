"""Whether there is a GPU at all, asked of the driver before anything else of CUDA is imported."""

from __future__ import annotations

import ctypes

from headrace.runtime.errors import LoadError


def unusable(cause: str, step: str) -> LoadError:
    steps = [step] if step else []
    return LoadError("no CUDA device can be used: " + "; ".join([cause, *steps, "or load with device='cpu'"]))


def devices() -> int:
    """How many GPUs the driver shows; asked without CuPy, so that a missing driver is told from a missing CuPy."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise unusable("no NVIDIA driver (libcuda.so.1 is not found)", "install the driver of the GPU") from None
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        cause = "the NVIDIA driver finds no GPU" if status in (0, 100) else f"the NVIDIA driver answers error {status}"
        raise unusable(cause, "check nvidia-smi and CUDA_VISIBLE_DEVICES")
    return count.value
