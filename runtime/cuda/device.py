"""The CUDA device: what is here (`probe`), and memory, launches and capture through CuPy.

CuPy is imported here only, and only when a device is asked for. Everything is enqueued on one non-blocking stream.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headrace.runtime.cuda import driver, lt, tune
from headrace.runtime.cuda.images import image
from headrace.runtime.cuda.interface import Arg, Array, Dim3, Ptr
from headrace.runtime.errors import LoadError, RunError

LOWEST = (7, 5)  # Turing: the first with int8 tensor cores, and the oldest that CUDA 13 compiles for
INSTALL = "pip install 'headrace[cuda13]' (or [cuda12] for a CUDA 12 driver)"
_CAPTURE = threading.Lock()  # one capture at a time in the process


@dataclass(frozen=True)
class Caps:
    """What one GPU is: compute capability, multiprocessors, bytes of memory, versions as (major * 1000 + minor * 10)."""

    index: int
    name: str
    cc: tuple[int, int]
    multiprocessors: int
    memory: int
    driver: int
    runtime: int
    cupy: str
    cublaslt: int

    def path(self, dtype: str) -> str:
        """How matrix products of an element type run here."""
        match dtype:
            case "float32":
                return "cublasLt"
            case "int8":
                return "mma.sync"
            case "bfloat16" if self.cc >= (8, 0):
                return "cublasLt"
            case "float8_e4m3fn" if self.cc >= (8, 9):
                return "cublasLt"
        return "none"


def probe(index: int = 0) -> Caps:
    """Look for a usable GPU. LoadError names the first thing that is missing and the next step."""
    count = driver.devices()
    if index >= count:
        raise driver.unusable(
            f"there is no GPU {index}; this machine has {count}", f"use 'cuda:0' to 'cuda:{count - 1}'"
        )
    cupy = _import_cupy()
    try:
        runtime = cupy.cuda.runtime
        facts = runtime.getDeviceProperties(index)
        versions = int(runtime.driverGetVersion()), int(runtime.runtimeGetVersion())
    except RuntimeError as error:  # CUDARuntimeError: driver older than the libraries, device in use exclusively, ...
        raise driver.unusable(f"the CUDA runtime says {error}", f"update the driver, or {INSTALL}") from error
    cc = int(facts["major"]), int(facts["minor"])
    name = facts["name"].decode() if isinstance(facts["name"], bytes) else str(facts["name"])
    if cc < LOWEST:
        raise driver.unusable(
            f"{name} has compute capability {cc[0]}.{cc[1]}; the kernels need {LOWEST[0]}.{LOWEST[1]} or higher",
            "use another GPU",
        )
    try:
        version = lt.Library(lt.open_library()).version
    except LoadError as error:
        raise driver.unusable(str(error), "") from error
    return Caps(
        index, name, cc, int(facts["multiProcessorCount"]), int(facts["totalGlobalMem"]),
        *versions, str(cupy.__version__), version,
    )  # fmt: skip


def _import_cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        cause = "cupy is not installed" if isinstance(error, ModuleNotFoundError) else f"cupy cannot be used ({error})"
        raise driver.unusable(cause, INSTALL) from error


def open_device(index: int = 0) -> CudaDevice:
    """The GPU of that number with the compiled kernels. LoadError where it cannot be used."""
    caps = probe(index)
    return CudaDevice(caps, image(caps.cc))


class CudaDevice:
    """One GPU and one stream. Implements `interface.Device`, and what only a real device has: pinned memory, marks,
    capture, cuBLASLt."""

    def __init__(self, caps: Caps, kernels: bytes) -> None:
        """`kernels`: the compiled kernels (cubin, fatbin or PTX)."""
        self.caps, self.name = caps, f"cuda:{caps.index} ({caps.name})"
        self._cupy = _import_cupy()
        self._runtime = self._cupy.cuda.runtime
        self.use()
        self.stream = self._cupy.cuda.Stream(non_blocking=True)
        self._module = self._cupy.cuda.function.Module()
        self._module.load(kernels)
        self._functions: dict[str, Any] = {}
        self._memory: dict[int, Any] = {}
        self._capturing = False

    @property
    def stream_handle(self) -> int:
        return int(self.stream.ptr)

    @cached_property
    def blas(self) -> lt.Lt:
        """cuBLASLt with a workspace that belongs to this device's stream."""
        return lt.Lt(self.alloc(lt.WORKSPACE), tuner=self.tuner)

    @cached_property
    def tuner(self) -> tune.Tuner:
        return tune.Tuner(
            f"{self.caps.name} driver {self.caps.driver} cublasLt {self.caps.cublaslt}",
            lambda call: self.seconds(lambda: call(self.stream_handle), repeats=10),
        )

    def use(self) -> None:
        """Make this GPU the calling thread's: CUDA keeps that per thread."""
        self._runtime.setDevice(self.caps.index)

    def alloc(self, nbytes: int) -> int:
        self._not_capturing("allocate")
        try:
            memory = self._cupy.cuda.Memory(nbytes)
        except self._runtime.CUDARuntimeError as error:
            free, total = self._runtime.memGetInfo()
            raise RunError(f"{self.name}: no room for {nbytes:,} bytes; {free:,} of {total:,} are free") from error
        self._memory[memory.ptr] = memory  # freed with the object
        return int(memory.ptr)

    def free(self, ptr: int) -> None:
        self._not_capturing("free")
        self.stream.synchronize()
        del self._memory[ptr]

    def h2d(self, ptr: int, array: Array) -> None:
        self.upload(ptr, array)
        self.stream.synchronize()

    def d2h(self, array: Array, ptr: int) -> None:
        self.download(array, ptr)
        self.stream.synchronize()

    def upload(self, ptr: int, array: Array) -> None:
        """h2d that returns at once: the array, from `pinned`, must stay as it is until a later mark."""
        self._not_capturing("copy from the host")
        kind = self._runtime.memcpyHostToDevice
        self._runtime.memcpyAsync(ptr, array.ctypes.data, array.nbytes, kind, self.stream.ptr)

    def download(self, array: Array, ptr: int) -> None:
        """d2h that returns at once: the bytes are there after a later mark."""
        self._not_capturing("copy to the host")
        kind = self._runtime.memcpyDeviceToHost
        self._runtime.memcpyAsync(array.ctypes.data, ptr, array.nbytes, kind, self.stream.ptr)

    def d2d(self, dst: int, src: int, nbytes: int) -> None:
        self._runtime.memcpyAsync(dst, src, nbytes, self._runtime.memcpyDeviceToDevice, self.stream.ptr)

    def memset(self, ptr: int, byte: int, nbytes: int) -> None:
        self._runtime.memsetAsync(ptr, byte, nbytes, self.stream.ptr)

    def launch(self, kernel: str, grid: Dim3, block: Dim3, shared: int, args: Sequence[Arg]) -> None:
        function = self._function(kernel)
        plain = tuple(np.uint64(arg.address) if isinstance(arg, Ptr) else arg for arg in args)
        function(grid, block, plain, shared_mem=shared, stream=self.stream)

    def _function(self, kernel: str) -> Any:
        function = self._functions.get(kernel)
        if function is None:
            function = self._functions[kernel] = self._module.get_function(kernel)
        return function

    def synchronize(self) -> None:
        self._not_capturing("wait")
        self.stream.synchronize()

    def pinned(self, nbytes: int) -> Array:
        array: Array = importlib.import_module("cupyx").empty_pinned(nbytes, np.uint8)
        return array

    def mark(self) -> Callable[[], None]:
        wait: Callable[[], None] = self.stream.record(self._cupy.cuda.Event(disable_timing=True)).synchronize
        return wait

    def seconds(self, work: Callable[[], None], repeats: int) -> float:
        """The mean time of one `work`, by events around `repeats` of them."""
        begin, end = (self._cupy.cuda.Event() for _ in range(2))
        self.stream.record(begin)
        for _ in range(repeats):
            work()
        self.stream.record(end)
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) / 1e3 / repeats

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` enqueues as a CUDA graph; answers what replays it. Addresses are fixed in it: the caller
        keeps their memory. `work` must have run before, so that nothing is loaded lazily while it is recorded."""
        with _CAPTURE:
            self.stream.synchronize()
            self.stream.begin_capture(mode=self._runtime.streamCaptureModeThreadLocal)
            self._capturing = True
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # the stream must leave the capture, which may be broken already
                    self.stream.end_capture()
                raise
            finally:
                self._capturing = False
            graph = self.stream.end_capture()
            graph.upload(self.stream)
        return lambda: graph.launch(self.stream)

    def _not_capturing(self, what: str) -> None:
        if self._capturing:
            raise RunError(f"{self.name}: nothing may {what} while a graph is recorded")
