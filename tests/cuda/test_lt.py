"""cuBLASLt's descriptors, which need the library but no GPU; and the choice among algorithms, which needs neither."""

from __future__ import annotations

import json
from ctypes import c_int32, c_int64, c_uint64, sizeof
from pathlib import Path

import pytest

from headrace.runtime.cuda import lt
from headrace.runtime.cuda.tune import Tuner
from headrace.runtime.errors import LoadError, RunError

LAYOUT = {"type": (0, c_int32), "rows": (2, c_uint64), "columns": (3, c_uint64), "ld": (4, c_int64)}


@pytest.fixture(scope="module")
def library() -> lt.Library:
    try:
        return lt.Library(lt.open_library())
    except LoadError:
        pytest.skip("cuBLASLt is not installed (pip install nvidia-cublas, about 0.5 GB)")


def layout(library: lt.Library, at: object) -> dict[str, int]:
    return {key: library.read("MatrixLayout", at, *where) for key, where in LAYOUT.items()}  # type: ignore[arg-type]


def test_structures_have_the_sizes_of_the_header() -> None:
    assert sizeof(lt.Algorithm) == 64 and sizeof(lt.Heuristic) == 96


def test_row_major_products_are_the_library_s_transposed_ones(library: lt.Library) -> None:
    plain = lt.Descriptors(library, lt.Problem(3, 5, 7))
    assert layout(library, plain.first) == {"type": 0, "rows": 5, "columns": 7, "ld": 5}  # our B [7, 5]
    assert layout(library, plain.second) == {"type": 0, "rows": 7, "columns": 3, "ld": 7}  # our A [3, 7]
    assert layout(library, plain.result) == {"type": 0, "rows": 5, "columns": 3, "ld": 5}
    turned = lt.Descriptors(library, lt.Problem(3, 5, 7, trans_a=True, trans_b=True))
    assert layout(library, turned.first) == {"type": 0, "rows": 7, "columns": 5, "ld": 7}
    assert layout(library, turned.second) == {"type": 0, "rows": 3, "columns": 7, "ld": 3}
    assert [library.read("MatmulDesc", turned.operation, key, c_int32) for key in (lt.TRANSA, lt.TRANSB)] == [1, 1]


def test_batches_have_counts_and_strides(library: lt.Library) -> None:
    at = lt.Descriptors(library, lt.Problem(3, 5, 7, batch=4, stride_b=0))
    for part, stride in ((at.first, 0), (at.second, 21), (at.result, 15)):
        assert library.read("MatrixLayout", part, lt.BATCH_COUNT, c_int32) == 4
        assert library.read("MatrixLayout", part, lt.STRIDED_BATCH_OFFSET, c_int64) == stride


@pytest.mark.parametrize(
    ("bias", "relu", "epilogue"), [(False, False, 1), (False, True, 2), (True, False, 4), (True, True, 6)]
)
def test_epilogues(library: lt.Library, bias: bool, relu: bool, epilogue: int) -> None:
    at = lt.Descriptors(library, lt.Problem(3, 5, 7, bias=bias, relu=relu))
    assert library.read("MatmulDesc", at.operation, lt.EPILOGUE, c_int32) == epilogue


def test_addresses_are_set(library: lt.Library) -> None:
    at = lt.Descriptors(library, lt.Problem(16, 16, 32, a="float8_e4m3fn", out="bfloat16", trans_b=True, bias=True))
    at.point(0x1100, scales=(0x2200, 0x3300))
    names = (lt.BIAS_POINTER, lt.B_SCALE_POINTER, lt.A_SCALE_POINTER)
    assert [library.read("MatmulDesc", at.operation, name, c_uint64) for name in names] == [0x1100, 0x2200, 0x3300]


@pytest.mark.parametrize(("dtype", "compute", "scale"), [("float32", 69, 0), ("int8", 72, 10), ("bfloat16", 68, 0)])
def test_computation_types(library: lt.Library, dtype: str, compute: int, scale: int) -> None:
    out = {"int8": "int32"}.get(dtype, dtype)
    at = lt.Descriptors(library, lt.Problem(16, 16, 16, a=dtype, out=out, trans_b=True))
    assert [library.read("MatmulDesc", at.operation, key, c_int32) for key in (0, 1)] == [compute, scale]


def test_integers_need_the_layout_of_the_tensor_cores(library: lt.Library) -> None:
    with pytest.raises(RunError, match=r"needs A \[m, k\] and B stored as \[n, k\]"):
        lt.Descriptors(library, lt.Problem(3, 5, 7, a="int8", out="int32"))


def test_a_failing_call_says_which_and_why(library: lt.Library) -> None:
    at = lt.Descriptors(library, lt.Problem(3, 5, 7))
    with pytest.raises(RunError, match="cublasLtMatmulDescSetAttribute: status 7, invalid value"):
        library.put("MatmulDesc", at.operation, lt.TRANSA, c_int64(0))  # eight bytes where four are due


class Clock:
    """Seconds of a call by its name; counts."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self, call: object) -> float:
        self.calls += 1
        return self.seconds[call]  # type: ignore[index]


def test_the_fastest_is_taken_and_remembered(tmp_path: Path) -> None:
    clock = Clock(a=3.0, b=1.0, c=2.0)
    pairs = [(name, name) for name in "abc"]
    assert Tuner("gpu 1", clock, tmp_path).pick("key", pairs) == "b"  # type: ignore[arg-type]
    measured = clock.calls
    assert Tuner("gpu 1", clock, tmp_path).pick("key", pairs) == "b" and clock.calls == measured  # type: ignore[arg-type]
    assert Tuner("gpu 2", Clock(a=1.0, b=2.0, c=3.0), tmp_path).pick("key", pairs) == "a"  # type: ignore[arg-type]
    assert Tuner("gpu 1", clock, tmp_path).pick("key", [("a", "a"), ("c", "c")]) == "c"  # type: ignore[arg-type,list-item]


def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path) -> None:
    tuner = Tuner("gpu", Clock(a=2.0, b=1.0), tmp_path)
    for damage in ("", "[]", '{"machine": "gpu"}', json.dumps({"machine": "other", "chosen": {"key": "a"}})):
        tuner.path.write_text(damage)
        assert Tuner("gpu", Clock(a=2.0, b=1.0), tmp_path).pick("key", [("a", "a"), ("b", "b")]) == "b"  # type: ignore[arg-type,list-item]
