"""cuBLASLt through ctypes: matrix products with a bias and an activation, in f32, bf16, int8 and fp8.

The library takes raw pointers and a stream, so nothing else is needed. Matrices are row major here; the library's are
column major, so it is told the transposed problem D' = B' A' and the two operands change places. Descriptors can be made
and read without a GPU; a handle, algorithms and runs need one.

Sources: cublasLt.h and library_types.h of CUDA 13 (names of the constants below without their prefix).
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from headrace.runtime.cuda.tune import Tuner
from headrace.runtime.errors import LoadError, RunError

SONAMES = ("libcublasLt.so.13", "libcublasLt.so.12")
WORKSPACE = 32 << 20  # bytes; what the library's manual advises for Hopper, more than enough before it

# cudaDataType_t, cublasComputeType_t
TYPES = {"float32": 0, "float16": 2, "int8": 3, "int32": 10, "bfloat16": 14, "float8_e4m3fn": 28}
COMPUTE_32F, COMPUTE_32F_PEDANTIC, COMPUTE_32I = 68, 69, 72
# cublasLtMatmulDescAttributes_t
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER, A_SCALE_POINTER, B_SCALE_POINTER = 3, 4, 7, 8, 17, 18
# cublasLtEpilogue_t, as the sum of what is asked for. GELU (32) is the tanh form, which ours is not: never asked for.
DEFAULT, RELU, BIAS = 1, 2, 4
# cublasLtMatrixLayoutAttribute_t, cublasLtMatmulPreferenceAttributes_t
BATCH_COUNT, STRIDED_BATCH_OFFSET = 5, 6
MAX_WORKSPACE_BYTES = 1
CANDIDATES = 4  # algorithms that are timed for one problem

STATUS = {
    1: "not initialized (no usable driver)", 3: "allocation failed", 7: "invalid value", 8: "architecture mismatch",
    11: "mapping error", 13: "execution failed", 14: "internal error", 15: "not supported",
}  # fmt: skip


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: opaque."""

    _fields_ = [("data", c_uint64 * 8)]


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", Algorithm), ("workspace", c_size_t), ("state", c_int), ("waves", c_float), ("reserved", c_int * 4),
    ]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """D [batch, m, n] = relu?(alpha * A [batch, m, k] @ B [batch, k, n] + bias [n]), all row major and dense.

    trans_a: A is stored [k, m]; trans_b: B is stored [n, k]. A stride of 0 reads one matrix for every batch. int8 and
    fp8 take trans_b only (the layout of the tensor cores); int8 gives int32, fp8 gives bfloat16, with `scaled` by two
    factors in device memory.
    """

    m: int
    n: int
    k: int
    batch: int = 1
    a: str = "float32"
    out: str = "float32"
    trans_a: bool = False
    trans_b: bool = False
    stride_a: int | None = None  # elements between the matrices of a batch; None: dense
    stride_b: int | None = None
    bias: bool = False
    relu: bool = False
    alpha: float = 1.0

    @property
    def compute(self) -> int:
        if self.a == "int8":
            return COMPUTE_32I
        return COMPUTE_32F_PEDANTIC if self.a == "float32" else COMPUTE_32F


def find() -> str:
    """The library's path in an installed `nvidia` package, or its soname for the loader."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for soname in SONAMES:
            for path in Path(root).glob(f"*/lib/{soname}"):
                return str(path)
    return SONAMES[0]


def open_library() -> ctypes.CDLL:
    """Load cuBLASLt. LoadError where it is absent."""
    failures = []
    for name in dict.fromkeys((find(), *SONAMES)):
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            failures.append(str(error))
    raise LoadError(f"cuBLASLt is missing ({failures[0]}); install it with: pip install 'headrace[cuda13]'")


class Library:
    """The calls that are used, typed; a status that is not 0 is a RunError with its meaning."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cublasLtGetVersion.restype = c_size_t
        self.version = int(library.cublasLtGetVersion())

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, "cublasLt" + name)(*arguments)
        if status:
            raise RunError(f"cublasLt{name}: status {status}, {STATUS.get(status, 'unknown')}")

    def make(self, kind: str, *arguments: Any) -> c_void_p:
        made = c_void_p()
        self.call(f"{kind}Create", byref(made), *arguments)
        return made

    def put(self, kind: str, at: c_void_p, attribute: int, value: Any) -> None:
        self.call(f"{kind}SetAttribute", at, c_int(attribute), byref(value), c_size_t(sizeof(value)))

    def read(self, kind: str, at: c_void_p, attribute: int, type: Any) -> Any:
        """An attribute back, as the ctypes type `type`."""
        value, written = type(), c_size_t()
        self.call(f"{kind}GetAttribute", at, c_int(attribute), byref(value), c_size_t(sizeof(value)), byref(written))
        return value.value


class Descriptors:
    """Everything that the library must know of one problem but the pointers. Needs no GPU. `first` and `second` are the
    library's operands A and B: our B and our A."""

    def __init__(self, library: Library, problem: Problem) -> None:
        if problem.a in ("int8", "float8_e4m3fn") and (problem.trans_a or not problem.trans_b):
            raise RunError(f"a product of {problem.a} needs A [m, k] and B stored as [n, k]")
        self.library, self.problem = library, problem
        p = problem
        scale = TYPES["int32"] if p.a == "int8" else TYPES["float32"]
        self.operation = library.make("MatmulDesc", c_int(p.compute), c_int(scale))
        self._put(TRANSA, c_int32(p.trans_b))
        self._put(TRANSB, c_int32(p.trans_a))
        self._put(EPILOGUE, c_uint32(((RELU if p.relu else 0) | (BIAS if p.bias else 0)) or DEFAULT))
        self.first = self._layout(p.a, p.k if p.trans_b else p.n, p.n if p.trans_b else p.k, p.stride_b)
        self.second = self._layout(p.a, p.m if p.trans_a else p.k, p.k if p.trans_a else p.m, p.stride_a)
        self.result = self._layout(p.out, p.n, p.m, None)

    def _put(self, attribute: int, value: Any) -> None:
        self.library.put("MatmulDesc", self.operation, attribute, value)

    def _layout(self, dtype: str, rows: int, columns: int, stride: int | None) -> c_void_p:
        """A dense column-major matrix, which is our row-major one read by columns."""
        at = self.library.make("MatrixLayout", c_int(TYPES[dtype]), c_uint64(rows), c_uint64(columns), c_int64(rows))
        if self.problem.batch > 1:
            self.library.put("MatrixLayout", at, BATCH_COUNT, c_int32(self.problem.batch))
            offset = c_int64(rows * columns if stride is None else stride)
            self.library.put("MatrixLayout", at, STRIDED_BATCH_OFFSET, offset)
        return at

    def point(self, bias: int = 0, scales: tuple[int, int] | None = None) -> None:
        """Set the device addresses of the bias [n], and of the factors of A and B (fp8)."""
        if bias:
            self._put(BIAS_POINTER, c_void_p(bias))
        if scales is not None:
            self._put(B_SCALE_POINTER, c_void_p(scales[0]))
            self._put(A_SCALE_POINTER, c_void_p(scales[1]))

    def __del__(self) -> None:
        for name, kind in (("operation", "MatmulDesc"), *((n, "MatrixLayout") for n in ("first", "second", "result"))):
            at = self.__dict__.get(name)
            if at is not None:
                self.library.call(f"{kind}Destroy", at)


class Product:
    """One planned product: descriptors, the library's choice of algorithm, and the call."""

    def __init__(self, lt: Lt, descriptors: Descriptors, chosen: Heuristic) -> None:
        self._lt, self._descriptors, self.chosen = lt, descriptors, chosen
        integer = descriptors.problem.a == "int8"  # alpha and beta have the scale's type
        self._alpha = c_int32(int(descriptors.problem.alpha)) if integer else c_float(descriptors.problem.alpha)
        self._zero = c_int32(0) if integer else c_float(0)

    def __call__(self, a: int, b: int, d: int, stream: int) -> None:
        """Enqueue on a stream; device addresses."""
        self._lt.library.call(
            "Matmul", self._lt.handle, self._descriptors.operation, byref(self._alpha),
            c_void_p(b), self._descriptors.first, c_void_p(a), self._descriptors.second, byref(self._zero),
            c_void_p(d), self._descriptors.result, c_void_p(d), self._descriptors.result,
            byref(self.chosen.algorithm), c_void_p(self._lt.workspace), c_size_t(self._lt.workspace_bytes),
            c_void_p(stream),
        )  # fmt: skip


class Lt:
    """A handle with a workspace of its own: products that share it run on one stream. Needs a GPU."""

    def __init__(
        self,
        workspace: int,
        workspace_bytes: int = WORKSPACE,
        library: Library | None = None,
        tuner: Tuner | None = None,
    ) -> None:
        self.library = library or Library(open_library())
        self.handle = c_void_p()
        self.library.call("Create", byref(self.handle))
        self.workspace, self.workspace_bytes, self.tuner = workspace, workspace_bytes, tuner

    def plan(
        self, problem: Problem, a: int, b: int, d: int, bias: int = 0, scales: tuple[int, int] | None = None
    ) -> Callable[[int], None]:
        """A function that enqueues the product of these device addresses on a stream. With a tuner the fastest of the
        library's first proposals, which are run on these addresses; else the first. RunError where it has none."""
        descriptors = Descriptors(self.library, problem)
        descriptors.point(bias, scales)
        calls = [
            (bytes(chosen.algorithm).hex(), partial(Product(self, descriptors, chosen), a, b, d))
            for chosen in self._algorithms(descriptors, CANDIDATES if self.tuner is not None else 1)
        ]
        return calls[0][1] if self.tuner is None else self.tuner.pick(repr(problem), calls)

    def _algorithms(self, at: Descriptors, wanted: int) -> list[Heuristic]:
        preference = self.library.make("MatmulPreference")
        found, count = (Heuristic * wanted)(), c_int()
        try:
            self.library.put("MatmulPreference", preference, MAX_WORKSPACE_BYTES, c_uint64(self.workspace_bytes))
            self.library.call(
                "MatmulAlgoGetHeuristic", self.handle, at.operation, at.first, at.second, at.result, at.result,
                preference, c_int(wanted), found, byref(count),
            )  # fmt: skip
        finally:
            self.library.call("MatmulPreferenceDestroy", preference)
        usable = [one for one in found[: count.value] if not one.state]
        if not usable:
            raise RunError(f"cuBLASLt has no algorithm for {at.problem}")
        return usable
