"""The emulated device: csrc/ compiled by g++ into a library whose CUDA threads are fibers of one OS thread.

It shows that kernels are right (the same text that nvcc compiles), never how fast they are. Blocks run one after another,
threads in a chosen order; shared and device memory is poisoned, buffers end at a page that may not be touched, and a
deadlock, a divergent barrier, a misaligned or stray access ends the launch with a message.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.caches import cache_folder
from headrace.runtime.cuda.interface import Arg, Array, Dim3, Ptr
from headrace.runtime.cuda.sources import digest, texts

HOST = "hr_host.cpp"
ORDERS = ("forward", "reverse", "shuffled")
# No contraction: a fused multiply-add would round once where the reference rounds twice. No STB_GNU_UNIQUE symbols: two
# libraries (a mutant beside the real one) must not share their statics.
OPTIONS = (
    "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-fcf-protection=none",
    "-DHR_HOST", "-Wall", "-Wextra", "-Wno-unknown-pragmas",
)  # fmt: skip


class EmulationError(RuntimeError):
    """A kernel did what hardware does not allow, or the emulator could not be built."""


def compiler() -> str | None:
    """A C++17 compiler: $CXX, g++ or clang++."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def build(
    files: Mapping[str, str] | None = None, only: Sequence[str] | None = None, options: Sequence[str] = ("-O2",)
) -> Path:
    """The library of all kernels (or of the .cu files `only`), compiled where the cache has it not yet. `files`: csrc's
    texts by name, where other than those on disk. Options: -O0 compiles fastest; -DHR_ARCH=750 has Turing's instructions;
    -DHR_PORTABLE switches stacks by ucontext, as processors other than x86-64 do."""
    sources = dict(files or texts())
    found = compiler()
    if found is None:
        raise EmulationError("the emulator needs a C++17 compiler: install g++, or name one in $CXX")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    units = [HOST, *(only or sorted(name for name in sources if name.endswith(".cu")))]
    # The emulator's own part is always optimised, so that it is compiled once for all mutants.
    defines = [option for option in options if option.startswith("-D")]
    given = {unit: (*OPTIONS, *(("-O2", *defines) if unit == HOST else options)) for unit in units}
    keys = {unit: digest(unit, sources, version, *given[unit])[:24] for unit in units}
    folder = cache_folder("emulator")
    library = folder / f"{digest('', {}, *keys.values())[:24]}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name, text in sources.items():
            (Path(scratch) / name).write_text(text)

        def compiled(unit: str) -> str:
            target = folder / f"{keys[unit]}.o"
            if not target.exists():
                fresh = Path(scratch) / f"{unit}.o"
                _run([found, *given[unit], "-x", "c++", "-c", str(Path(scratch) / unit), "-o", str(fresh)], unit)
                fresh.replace(target)
            return str(target)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(compiled, units))
        fresh = Path(scratch) / "emulator.so"
        _run([found, "-shared", "-pthread", *objects, "-o", str(fresh)], "the library")
        fresh.replace(library)
    return library


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EmulationError(f"{what} does not compile:\n{done.stderr}")


class EmulDevice:
    """A `Device` without a GPU. `order` of a block's threads: forward, reverse, or shuffled by `seed` anew at each barrier.
    Buffers are aligned to 256 bytes as CUDA's are; with 16 the forbidden page begins nearer to their end."""

    def __init__(
        self, library: Path | None = None, order: str = "forward", seed: int = 0, alignment: int = 256
    ) -> None:
        self.name = "emulated"
        self.order, self.seed, self.alignment = ORDERS.index(order), seed, alignment
        self._library = _load(library or build())
        self._sizes: dict[int, int] = {}
        self._bases: list[int] = []

    @property
    def kernels(self) -> list[str]:
        return str(self._library.hr_kernels().decode()).split()

    def alloc(self, nbytes: int) -> int:
        found = self._library.hr_alloc(nbytes, self.alignment)
        if not found:
            raise MemoryError(f"no memory for {nbytes} bytes")
        self._sizes[found] = nbytes
        bisect.insort(self._bases, found)
        return int(found)

    def free(self, ptr: int) -> None:
        self._sizes.pop(ptr, None)
        if ptr in self._bases:
            self._bases.remove(ptr)
        match self._library.hr_free(ptr):
            case 1:
                raise EmulationError(f"{ptr:#x} is no buffer, or was freed before")
            case 2:
                raise EmulationError(f"bytes just outside of the buffer {ptr:#x} were written")

    def h2d(self, ptr: int, array: Array) -> None:
        source = np.ascontiguousarray(array)
        ctypes.memmove(self._checked(ptr, source.nbytes), source.ctypes.data, source.nbytes)

    def d2h(self, array: Array, ptr: int) -> None:
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError("the array to read into must be C-contiguous and writable")
        ctypes.memmove(array.ctypes.data, self._checked(ptr, array.nbytes), array.nbytes)

    def d2d(self, dst: int, src: int, nbytes: int) -> None:
        ctypes.memmove(self._checked(dst, nbytes), self._checked(src, nbytes), nbytes)

    def memset(self, ptr: int, byte: int, nbytes: int) -> None:
        ctypes.memset(self._checked(ptr, nbytes), byte, nbytes)

    def launch(self, kernel: str, grid: Dim3, block: Dim3, shared: int, args: Sequence[Arg]) -> None:
        signature = self._library.hr_signature(kernel.encode())
        if signature is None:
            raise EmulationError(f"no kernel {kernel}; there are {', '.join(self.kernels)}")
        held = [_argument(arg) for arg in args]
        given, wanted = [kind for kind, _ in held], signature.decode().split()
        if given != wanted:
            raise EmulationError(
                f"{kernel} takes {' '.join(wanted)}, not {' '.join(given)} (P pointer, i int32, l int64, f float32, S bytes)"
            )
        if block[1:] != (1, 1):
            raise EmulationError(f"{kernel}: blocks have one dimension, not {block}")
        pointers = (ctypes.c_void_p * len(held))(*(value.ctypes.data for _, value in held))
        message = ctypes.create_string_buffer(600)
        status = self._library.hr_launch(
            kernel.encode(),
            pointers,
            (ctypes.c_uint * 3)(*grid),
            block[0],
            shared,
            self.order,
            self.seed,
            message,
            len(message),
        )
        if status:
            raise EmulationError(f"{kernel}: {message.value.decode()}")

    def synchronize(self) -> None:
        """Launches are done on return."""

    def _checked(self, ptr: int, nbytes: int) -> int:
        at = bisect.bisect_right(self._bases, ptr) - 1
        if nbytes and (at < 0 or ptr + nbytes > self._bases[at] + self._sizes[self._bases[at]]):
            raise EmulationError(f"{nbytes} bytes at {ptr:#x} do not lie in one buffer")
        return ptr


def _argument(arg: Arg) -> tuple[str, Array]:
    """(kind, its bytes as an array)."""
    if isinstance(arg, Ptr):
        return "P", np.array(arg.address, np.uint64)
    if isinstance(arg, np.ndarray):
        return f"S{arg.nbytes}", np.ascontiguousarray(arg)
    kind = {np.int32: "i", np.int64: "l", np.float32: "f"}.get(type(arg))
    if kind is not None:
        return kind, np.array(arg)
    raise TypeError(
        f"a kernel's argument is a Ptr, int32, int64, float32 or an array by value, not {type(arg).__name__}"
    )


def _load(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    library.hr_kernels.restype = library.hr_signature.restype = text
    library.hr_signature.argtypes = [text]
    library.hr_alloc.argtypes, library.hr_alloc.restype = [size, size], pointer
    library.hr_free.argtypes = [pointer]
    library.hr_launch.argtypes = [text, pointer, pointer, ctypes.c_uint, size, ctypes.c_int, ctypes.c_uint, text, size]
    return library
