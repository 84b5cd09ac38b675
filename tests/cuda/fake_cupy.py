"""A CuPy of the calls that `device.py` makes, over the emulator: the real device's code runs without a GPU.

It keeps CUDA's rules where they can be checked: copies and launches go to a stream, a capturing stream runs nothing, and what
is forbidden in a capture fails.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from headrace.runtime.cuda.emul import EmulDevice
from headrace.runtime.cuda.interface import Ptr


class CUDARuntimeError(RuntimeError):
    pass


def make(emulator: EmulDevice, cc: tuple[int, int] = (9, 0), free: int = 1 << 30) -> Any:
    """The module. `free`: bytes that can be allocated."""
    room = {"free": free}
    streams: dict[int, Stream] = {}

    class Memory:
        def __init__(self, size: int) -> None:
            if any(stream.capturing is not None for stream in streams.values()):
                raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported")
            if size > room["free"]:
                raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
            self.ptr, self.size = emulator.alloc(size), size
            room["free"] -= size

        def __del__(self) -> None:
            if "ptr" in self.__dict__:
                emulator.free(self.ptr)
                room["free"] += self.size

    class Stream:
        def __init__(self, non_blocking: bool = False) -> None:
            assert non_blocking
            self.ptr = 0x1000 + len(streams)
            self.capturing: list[Callable[[], None]] | None = None
            streams[self.ptr] = self

        def put(self, work: Callable[[], None]) -> None:
            work() if self.capturing is None else self.capturing.append(work)

        def synchronize(self) -> None:
            if self.capturing is not None:
                raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported")

        def record(self, event: Event) -> Event:
            return event

        def begin_capture(self, mode: int) -> None:
            assert mode == runtime.streamCaptureModeThreadLocal and self.capturing is None
            self.capturing = []

        def end_capture(self) -> Graph:
            works, self.capturing = self.capturing, None
            assert works is not None
            return Graph(works)

    class Event:
        def __init__(self, disable_timing: bool = False) -> None:
            self.disable_timing = disable_timing

        def synchronize(self) -> None: ...

    class Graph:
        def __init__(self, works: list[Callable[[], None]]) -> None:
            self.works, self.uploaded, self.launched = works, False, 0

        def upload(self, stream: Stream) -> None:
            self.uploaded = True

        def launch(self, stream: Stream) -> None:
            assert self.uploaded
            self.launched += 1
            graphs.append(self)
            for work in self.works:
                stream.put(work)

    class Function:
        def __init__(self, name: str) -> None:
            assert name in emulator.kernels
            self.name = name

        def __call__(
            self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, shared_mem: int = 0, stream: Any = None
        ) -> None:
            plain = [Ptr(int(arg)) if isinstance(arg, np.uint64) else arg for arg in args]
            stream.put(lambda: emulator.launch(self.name, grid, block, shared_mem, plain))  # type: ignore[arg-type]

    class Module:
        def load(self, image: bytes) -> None:
            assert isinstance(image, bytes)

        def get_function(self, name: str) -> Function:
            return Function(name)

    def memcpy(dst: int, src: int, size: int, kind: int, stream: int) -> None:
        assert kind in (1, 2, 3)
        streams[stream].put(lambda: ctypes.memmove(dst, src, size) and None)

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        memcpyDeviceToDevice=3,
        streamCaptureModeThreadLocal=1,
        setDevice=lambda index: None,
        memcpyAsync=memcpy,
        memsetAsync=lambda p, b, n, s: streams[s].put(lambda: ctypes.memset(p, b, n) and None),
        memGetInfo=lambda: (room["free"], free),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda index: {
            "name": b"Fake GPU", "major": cc[0], "minor": cc[1], "multiProcessorCount": 4, "totalGlobalMem": free,
        },
    )  # fmt: skip
    graphs: list[Graph] = []
    cuda = SimpleNamespace(
        runtime=runtime,
        Memory=Memory,
        Stream=Stream,
        Event=Event,
        function=SimpleNamespace(Module=Module),
        get_elapsed_time=lambda begin, end: 1.0,
    )
    return SimpleNamespace(cuda=cuda, __version__="0.fake", launched=graphs, streams=streams)
