"""The emulator itself: what hardware would hide ends a launch with a message."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.cuda import emul, sources
from headrace.runtime.cuda.interface import Ptr

WRONG = r"""
#include "hr.cuh"
extern "C" __global__ void divergent(int*) { if (threadIdx.x < 7) __syncthreads(); else hr::shfl_xor(1, 1); }
HR_EXPORT(divergent)
extern "C" __global__ void two_places(int*) {
    if (threadIdx.x < 32) __syncthreads();
    else
        __syncthreads();
}
HR_EXPORT(two_places)
extern "C" __global__ void early_end(int*) { if (threadIdx.x != 3) hr::shfl_xor(1, 1); }
HR_EXPORT(early_end)
extern "C" __global__ void misaligned(int*) {
    HR_SHARED(unsigned char, s);
    uint32_t r[4];
    hr::ldmatrix_x4(r, s + 8);
}
HR_EXPORT(misaligned)
extern "C" __global__ void stray(int* x) { x[threadIdx.x + 1024] = 1; }
HR_EXPORT(stray)
extern "C" __global__ void slack(uint8_t* x) { if (threadIdx.x == 0) x[9] = 1; }
HR_EXPORT(slack)
extern "C" __global__ void unread(int* x) { HR_SHARED(int, s); x[threadIdx.x] = s[threadIdx.x]; }
HR_EXPORT(unread)
extern "C" __global__ void late(uint32_t* x, int wait) {
    HR_SHARED(uint32_t, s);
    for (int stage = 0; stage < 2; stage++) {
        if (threadIdx.x == 0) hr::cp_async16(s + 4 * stage, x, 16);
        hr::cp_async_commit();
    }
    if (wait) hr::cp_async_wait<0>(); else hr::cp_async_wait<1>();
    if (threadIdx.x == 0) x[4] = s[0], x[5] = s[4];
}
HR_EXPORT(late)
"""


@pytest.fixture(scope="module")
def wrong():
    files = {**sources.texts(), "wrong.cu": WRONG}
    return emul.EmulDevice(emul.build(files, ["wrong.cu"]), alignment=16)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent", "deadlock: 32 of 64 threads wait"),
        ("two_places", "threads wait for each other at different places"),
        ("early_end", "a lane ended while others of its warp wait at shfl_xor"),
        ("misaligned", "ldmatrix: the row address is misaligned"),
        ("stray", "an access outside of every buffer"),
    ],
)
def test_mistakes_end_the_launch(wrong, kernel, message):
    buffer = wrong.alloc(4096)
    for _ in range(2):  # and the emulator goes on
        with pytest.raises(emul.EmulationError, match=f"{kernel}: {message}.*block \\(0, 0, 0\\), thread"):
            wrong.launch(kernel, (1, 1, 1), (64, 1, 1), 256, [Ptr(buffer)])
    wrong.free(buffer)


def test_bytes_beside_a_buffer(wrong):
    buffer = wrong.alloc(9)
    wrong.launch("slack", (1, 1, 1), (32, 1, 1), 0, [Ptr(buffer)])
    with pytest.raises(emul.EmulationError, match="just outside"):
        wrong.free(buffer)


def test_memory_is_poisoned(wrong):
    x = np.zeros(32, np.int32)
    buffer = wrong.alloc(x.nbytes)
    wrong.d2h(x, buffer)
    assert (x == 0x7F7F7F7F).all()
    wrong.h2d(buffer, np.zeros(32, np.int32))
    wrong.launch("unread", (1, 1, 1), (32, 1, 1), 128, [Ptr(buffer)])
    wrong.d2h(x, buffer)
    assert (x == 0x7F7F7F7F).all()
    wrong.free(buffer)


def test_copies_happen_at_the_wait(wrong):
    buffer = wrong.alloc(24)
    for wait, second in ((1, 7), (0, 0x7F7F7F7F)):
        wrong.h2d(buffer, np.array([7, 0, 0, 0, 0, 0], np.uint32))
        wrong.launch("late", (1, 1, 1), (32, 1, 1), 128, [Ptr(buffer), np.int32(wait)])
        x = np.zeros(6, np.uint32)
        wrong.d2h(x, buffer)
        assert list(x[4:]) == [7, second]
    wrong.free(buffer)


def test_launches_are_checked(forward):
    device = forward.device
    with pytest.raises(emul.EmulationError, match=r"no kernel nothing; there are .*unary_f32"):
        device.launch("nothing", (1, 1, 1), (32, 1, 1), 0, [])
    good = [Ptr(0), Ptr(0), np.int64(0), np.int32(0), np.float32(0), np.float32(0)]
    with pytest.raises(emul.EmulationError, match="unary_f32 takes P P l i f f, not P P i i f f"):
        device.launch("unary_f32", (1, 1, 1), (32, 1, 1), 0, [*good[:2], np.int32(0), *good[3:]])
    for grid, threads, shared, message in (
        ((1, 70000, 1), 32, 0, "a grid of 1 x 70000 x 1"),
        ((1, 1, 1), 33, 0, "33 threads; allowed: multiples of 32"),
        ((1, 1, 1), 32, 50000, "50000 bytes of shared memory"),
    ):
        with pytest.raises(emul.EmulationError, match=message):
            device.launch("unary_f32", grid, (threads, 1, 1), shared, good)


def test_copies_are_checked(forward):
    device = forward.device
    buffer = forward.up(np.arange(4, dtype=np.int32))
    half = np.zeros(2, np.int32)
    device.d2h(half, buffer + 8)
    assert list(half) == [2, 3]
    with pytest.raises(emul.EmulationError, match=r"8 bytes at .* do not lie in one buffer"):
        device.d2h(half, buffer + 12)
    device.memset(buffer, 0, 8)
    device.d2d(buffer + 8, buffer, 8)
    whole = np.ones(4, np.int32)
    device.d2h(whole, buffer)
    assert not whole.any()
    with pytest.raises(emul.EmulationError, match="is no buffer"):
        device.free(buffer + 4)
