"""csrc/move.cu: items arrive where NumPy puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.runtime.cuda import kernels

DTYPES = ("uint8", "float16", "float32", "int64")


def numbers(shape, dtype):
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose(bench, dtype):
    for shape, order in (
        ((3, 5), (1, 0)),
        ((2, 3, 4, 5), (0, 2, 3, 1)),
        ((2, 3, 1, 4), (3, 1, 0, 2)),
        ((2,) * 8, (7, 0, 6, 1, 5, 2, 4, 3)),
        ((), ()),
    ):
        x = numbers(shape, dtype)
        expected = np.ascontiguousarray(x.transpose(order))
        out = bench.out(expected.shape, dtype)
        kernels.transpose(bench.device, x.itemsize, bench.up(x), out.at, shape, order)
        np.testing.assert_array_equal(out.read(), expected)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_slices(forward, data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    x = numbers(shape, "int32")
    slices = [data.draw(st.slices(size)) for size in shape]
    expected = np.ascontiguousarray(x[tuple(slices)])
    out = forward.out(expected.shape, "int32")
    ranges = [range(*s.indices(size)) for s, size in zip(slices, shape)]
    starts, steps = [r.start if len(r) else 0 for r in ranges], [r.step for r in ranges]
    kernels.slice_(forward.device, 4, forward.up(x), out.at, shape, starts, [len(r) for r in ranges], steps)
    np.testing.assert_array_equal(out.read(), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_and_split(forward, axis):
    sizes = (2, 1, 4)
    parts = [numbers([size if i == axis else 3 for i in range(3)], "float32") + 100 * size for size in sizes]
    whole = np.concatenate(parts, axis)
    out = forward.out(whole.shape, "float32")
    kernels.concat(forward.device, 4, [(forward.up(part), part.shape) for part in parts], out.at, axis)
    np.testing.assert_array_equal(out.read(), whole)
    pieces = [forward.out(part.shape, "float32") for part in parts]
    kernels.split(
        forward.device,
        4,
        forward.up(whole),
        whole.shape,
        [(piece.at, size) for piece, size in zip(pieces, sizes)],
        axis,
    )
    for piece, part in zip(pieces, parts):
        np.testing.assert_array_equal(piece.read(), part)


def test_expand(forward):
    x = numbers((3, 1), "int64")
    out = forward.out((2, 3, 4), "int64")
    kernels.copy(forward.device, 8, forward.up(x), out.at, (2, 3, 4), (0, 1, 0))
    np.testing.assert_array_equal(out.read(), np.broadcast_to(x, (2, 3, 4)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather(forward, dtype):
    data, indices = numbers((3, 7, 5), dtype), np.array([[6, 0, -1], [-7, 3, 3]], np.int64)
    for axis in (0, 1, 2):
        picked = indices % data.shape[axis]
        expected = np.take(data, picked, axis)
        out, status = forward.out(expected.shape, dtype), forward.out(1, np.int32)
        forward.device.memset(status.at, 0, 4)
        outer, inner = int(np.prod(data.shape[:axis])), int(np.prod(data.shape[axis + 1 :]))
        kernels.gather(
            forward.device,
            data.itemsize,
            forward.up(data),
            forward.up(picked),
            out.at,
            outer,
            data.shape[axis],
            6,
            inner,
            status.at,
        )
        np.testing.assert_array_equal(out.read(), expected)
        assert status.read()[0] == 0


def test_an_index_outside_is_reported(forward):
    data, out, status = numbers((4, 2), "float32") + 1, forward.out((3, 2), "float32"), forward.out(1, np.int32)
    forward.device.memset(status.at, 0, 4)
    kernels.gather(
        forward.device, 4, forward.up(data), forward.up(np.array([-4, 4, -5])), out.at, 1, 4, 3, 2, status.at
    )
    np.testing.assert_array_equal(out.read(), [[1, 2], [0, 0], [0, 0]])
    assert status.read()[0] == 1
