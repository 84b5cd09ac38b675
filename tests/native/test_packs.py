"""Packed constants shared by loads of one archive in a process, and kept in a file for the next start."""

from __future__ import annotations

import errno
import gc
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from test_memory import MIB, anonymous, growth, kept, network, saved

from headrace.runtime import _native, atomic, load, notes, packs
from headrace.runtime.errors import LoadError
from headrace.runtime.graph import Program
from headrace.runtime.model import Model
from headrace.serializer import archive
from headrace.serializer.onnx import save as onnx_save

SIZE = 1024  # a weight of 4 MiB
X = np.random.default_rng(1).standard_normal((2, SIZE)).astype(np.float32)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(network(SIZE, 2), tmp_path / "net.hr")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(packs, "SPARE", 1 << 60)  # the disk that tests run on may be full
    return tmp_path / "cache" / "packed"


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[_native.Packing]:
    """Every walk through a store that a load makes. They keep their stores: a test that waits for an end empties the list."""
    made: list[_native.Packing] = []
    real = _native.Packing

    def packing(store: _native.PackStore) -> _native.Packing:
        made.append(real(store))
        return made[-1]

    monkeypatch.setattr(_native, "Packing", packing)
    return made


def opened(path: Path, cache: bool | int = False, threads: int = 1, **options: str) -> Model:
    return load(path, device="cpu", threads=threads, cache=cache, **options)


def answer(model: Model) -> np.ndarray:
    (found,) = model.run({"x": X}).values()
    return np.asarray(found)


def shared(model: Model) -> int:
    return model.memory()["shared"]


@kept
def test_a_second_load_shares_what_the_first_one_packed(net: Path, packings: list[_native.Packing]) -> None:
    opened(net).close()  # what making the file left goes back to the system
    del packings[:]
    before = anonymous()
    with opened(net) as first:
        wanted, one = answer(first), anonymous()
        with opened(net) as second:
            np.testing.assert_array_equal(answer(second), wanted)
            assert anonymous() - one < 2 * MIB
            assert shared(second) == shared(first) >= 8 * MIB
            assert [packing.reused for packing in packings] == [0, shared(first)]
    del packings[:]
    assert anonymous() - before < 2 * MIB


def test_the_first_load_may_end_before_the_second(net: Path) -> None:
    first = opened(net)
    wanted, second = answer(first), opened(net)
    first.close()
    gc.collect()
    np.testing.assert_array_equal(answer(second), wanted)


def test_loads_at_once_pack_once(net: Path, packings: list[_native.Packing]) -> None:
    barrier = threading.Barrier(4)

    def one(_: int) -> Model:
        barrier.wait()
        return opened(net)

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(one, range(4)))
    assert len({answer(model).tobytes() for model in models}) == 1
    assert sorted(packing.reused for packing in packings) == [0, *[shared(models[0])] * 3]


def test_nothing_is_shared_by_other_passes_archives_and_formats(net: Path, tmp_path: Path) -> None:
    other = saved(network(SIZE, 1), tmp_path / "other.hr")
    onnx_save.save(network(SIZE, 2), tmp_path / "net.onnx")
    models = [opened(net), opened(other), load(net, device="cpu", without=["fuse_matmul"])]
    assert len({id(model._shared) for model in models}) == 3
    with load(tmp_path / "net.onnx", device="cpu") as model:
        assert shared(model) == 0


def test_entries_have_their_own(tmp_path: Path, folder: Path) -> None:
    archive.save(Program({"main": network(SIZE, 1), "twice": network(SIZE, 2)}), tmp_path / "net.hr")
    with opened(tmp_path / "net.hr", cache=True) as main, main.entry("twice") as twice:
        assert shared(twice) > shared(main) > 0
        assert len(list(folder.iterdir())) == 2


@kept
def test_200_loads_with_a_file_leave_nothing(tmp_path: Path, folder: Path) -> None:
    path, x = saved(network(256, 2), tmp_path / "net.hr"), np.ones((4, 256), np.float32)

    def cycle() -> None:
        with opened(path, cache=True) as model:
            model.run({"x": x})

    assert growth(cycle) < 4 * MIB
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if ".packed" in line]


@kept
def test_the_next_start_maps_the_file(net: Path, folder: Path, packings: list[_native.Packing]) -> None:
    with opened(net, cache=True) as model:
        wanted, size = answer(model), shared(model)
    del packings[:]
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0o044 and folder.stat().st_mode & 0o077 == 0
    before = anonymous()
    with opened(net, cache=True) as model:
        np.testing.assert_array_equal(answer(model), wanted)
        assert packings[-1].reused == shared(model) == size
        assert anonymous() - before < 2 * MIB
        assert file.name in Path("/proc/self/maps").read_text()
    del packings[:]
    assert file.name not in Path("/proc/self/maps").read_text()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


def link(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "harm, why",
    [
        (flip, "block . is damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "was written with"),
        (lambda file: file.write_bytes(b""), "no file of packed constants"),
        (lambda file: file.write_bytes(os.urandom(1 << 16)), "does not begin"),
        (lambda file: file.chmod(0o666), "others may write it"),
        (link, "symbolic links"),
    ],
)
def test_a_file_that_is_not_right_is_packed_again(
    harm: Callable[[Path], object],
    why: str,
    net: Path,
    folder: Path,
    packings: list[_native.Packing],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with opened(net, cache=True) as model:
        wanted, size = answer(model), shared(model)
    del packings[:]
    (file,) = folder.iterdir()
    good = file.read_bytes()
    harm(file)
    with caplog.at_level(logging.WARNING), opened(net, cache=True) as model:
        np.testing.assert_array_equal(answer(model), wanted)
        assert packings[-1].reused == 0
    (record,) = caplog.records
    assert record.getMessage().endswith("; packing again")
    assert re.search(why, record.getMessage())
    assert file.read_bytes() == good and not file.is_symlink()
    with opened(net, cache=True) as model:
        assert packings[-1].reused == size


def test_a_file_of_another_archive_is_refused(
    net: Path, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = saved(network(SIZE, 3), tmp_path / "other.hr")
    with opened(other, cache=True) as model:
        wanted = answer(model)
    (theirs,) = folder.iterdir()
    with opened(net, cache=True):
        (ours,) = set(folder.iterdir()) - {theirs}
    theirs.write_bytes(ours.read_bytes())
    with caplog.at_level(logging.WARNING), opened(other, cache=True) as model:
        np.testing.assert_array_equal(answer(model), wanted)
    assert "another archive, build or CPU" in caplog.text


def test_a_program_that_asks_for_other_blocks_packs_its_own(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if two programs had one key."""
    other = saved(network(SIZE, 3), tmp_path / "other.hr")
    with opened(other) as model:
        wanted = answer(model)
    monkeypatch.setattr(packs.Packs, "_key", lambda self, entry: "the same")
    with opened(net), caplog.at_level(logging.WARNING), opened(other) as model:
        np.testing.assert_array_equal(answer(model), wanted)
    assert "of another program" in caplog.text


def test_a_tier_has_its_own(net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tier in _native.cpu_tiers()[:2]:
        monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
        opened(net, cache=True).close()
    assert len(list(folder.iterdir())) == len(_native.cpu_tiers()[:2])


def test_a_folder_that_cannot_be_written_costs_only_time(
    net: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")
    with caplog.at_level(logging.INFO), opened(net, cache=True) as model:
        assert answer(model).shape == X.shape
    assert "are not kept for the next start" in caplog.text


def written() -> None:
    """Wait for what is noted when the disk has it."""
    for thread in threading.enumerate():
        if thread.name == "headrace-packs":
            thread.join()


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each file that is opened, whether its checksums are compared."""
    seen: list[bool] = []
    real = _native.PackStore

    class Seen:
        def __new__(cls, key: str, shared: bool) -> _native.PackStore:  # type: ignore[misc]
            return real(key, shared)

        @staticmethod
        def open(descriptor: int, key: str, verify: bool) -> _native.PackStore:
            seen.append(verify)
            return real.open(descriptor, key, verify)

    monkeypatch.setattr(_native, "PackStore", Seen)
    return seen


@kept
def test_the_first_load_rests_in_the_file_that_it_writes(net: Path, folder: Path) -> None:
    with opened(net) as model:
        wanted = answer(model)
    gc.collect()
    before = anonymous()
    with opened(net, cache=True) as model:
        assert anonymous() - before < 2 * MIB
        (file,) = folder.iterdir()
        assert file.name in Path("/proc/self/maps").read_text()
        np.testing.assert_array_equal(answer(model), wanted)
        file.unlink()
        np.testing.assert_array_equal(answer(model), wanted)


def test_a_file_is_read_in_full_once_a_day_and_after_every_write(
    net: Path, folder: Path, verified: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    def again() -> bool:
        gc.collect()
        opened(net, cache=True).close()
        written()
        return verified.pop()

    opened(net, cache=True).close()
    written()
    assert not again() and not again()
    for note in folder.with_name("checked").iterdir():
        os.utime(note, (os.stat(note).st_atime, os.stat(note).st_mtime - 90000))
    assert again() and not again()
    (file,) = folder.iterdir()
    found = file.stat()
    with file.open("r+b") as data:
        data.seek(found.st_size // 3)
        byte = data.read(1)
        data.seek(-1, os.SEEK_CUR)
        data.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))  # as who means harm would
    with caplog.at_level(logging.WARNING):
        assert again()
    assert "is damaged" in caplog.text


def test_a_file_that_another_build_made_is_never_looked_at(
    net: Path, folder: Path, verified: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(net, cache=True).close()
    monkeypatch.setattr(packs, "_build", lambda: "another")
    opened(net, cache=True).close()
    assert not verified and len(list(folder.iterdir())) == 2
    monkeypatch.setattr(packs, "_build", lambda: "")
    opened(net, cache=True).close()
    assert not verified and len(list(folder.iterdir())) == 2


def test_the_build_is_the_digest_of_the_linker() -> None:
    """Of all code and data, so that a change of any layout is another build. As section .note.gnu.build-id has it."""
    data = Path(_native.__file__ or "").read_bytes()
    head = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"  # bytes of the name, of a SHA-1, the type
    at = data.index(head) + len(head)
    assert _native.build_id() == data[at : at + 20].hex()


def test_a_folder_of_another_user_is_not_used(
    net: Path, folder: Path, verified: list[bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(net, cache=True) as model:
        wanted = answer(model)
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    gc.collect()
    with caplog.at_level(logging.INFO), opened(net, cache=True) as model:
        np.testing.assert_array_equal(answer(model), wanted)
    assert "it is not ours" in caplog.text and "is no folder of this user" in caplog.text and not verified


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_more_costs_only_time(
    error: int, net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, left = os.write, [3 << 20]

    def write(descriptor: int, data: memoryview) -> int:
        if left[0] <= 0:
            raise OSError(error, os.strerror(error))
        left[0] -= len(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with caplog.at_level(logging.INFO), opened(net, cache=True) as model:
        assert answer(model).shape == X.shape
    assert f"are not kept for the next start: [Errno {error}]" in caplog.text and not list(folder.iterdir())


def test_starts_at_once_leave_one_file(net: Path, folder: Path) -> None:
    script = "import sys; from headrace.runtime import load; load(sys.argv[1], device='cpu', cache=True).close()"
    starts = [subprocess.Popen([sys.executable, "-c", script, str(net)]) for _ in range(2)]
    assert [start.wait(60) for start in starts] == [0, 0]
    (file,) = folder.iterdir()
    descriptor = os.open(file, os.O_RDONLY)
    assert _native.PackStore.open(descriptor, file.stem, True).blocks == 2
    os.close(descriptor)


def test_files_have_a_limit_and_those_unused_for_long_go_first(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 8 * MIB  # of files with 1, 2 and 3 MiB of weights
    files: dict[int, Path] = {}

    def keep(layers: int, limit: int) -> None:
        gc.collect()
        opened(saved(network(512, layers), tmp_path / f"{layers}.hr"), cache=limit).close()
        written()
        for file in set(folder.iterdir()) - set(files.values()):
            files[layers] = file

    for layers in (1, 2, 3):
        keep(layers, limit)
    assert set(folder.iterdir()) == set(files.values())
    with caplog.at_level(logging.INFO):
        keep(4, limit)  # others were used just now
    assert "more than there is room for" in caplog.text and set(folder.iterdir()) == set(files.values())
    monkeypatch.setattr(packs, "IDLE_S", 0.0)
    keep(1, limit)  # used again
    keep(4, limit)
    assert set(folder.iterdir()) == {files[1], files[4]}
    keep(5, 1 * MIB)  # larger than all may be: nothing goes for it
    assert set(folder.iterdir()) == {files[1], files[4]}


def test_a_part_of_the_disk_stays_free(
    net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packs, "SPARE", 20)
    for free, kept_files in ((108 * MIB - (1 << 16), 0), (109 * MIB, 1)):  # 8 MiB and some bytes of packed weights
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: mock.Mock(total=2000 * MIB, free=free))
        gc.collect()
        with caplog.at_level(logging.INFO):
            opened(net, cache=True).close()
        assert len(list(folder.iterdir())) == kept_files
    assert caplog.text.count("more than there is room for") == 1


def test_what_a_killed_writer_left_goes_with_the_next_file(net: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    left = folder / f"{'0' * 64}.packed.tmp-999999999-00000000"
    left.write_bytes(b"x")
    opened(net, cache=True).close()
    assert not left.exists() and len(list(folder.iterdir())) == 1


@pytest.fixture
def read_in_full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of archive members whose digests are compared."""
    seen: list[str] = []
    real = archive.manifest.check_bytes

    def check(document: archive.Manifest, members: Mapping[str, memoryview]) -> None:
        seen.extend(members)
        real(document, members)

    monkeypatch.setattr(archive.manifest, "check_bytes", check)
    return seen


def test_a_proven_archive_that_nobody_has_written_since_is_not_read_in_full(
    net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, read_in_full: list[str]
) -> None:
    def weights_read(**options: bool) -> bool:
        del read_in_full[:]
        with opened(net, **options) as model:
            assert model.graph.nodes and "graph.pb" in read_in_full
        return "weights.safetensors" in read_in_full

    assert weights_read(cache=True)
    assert weights_read(cache=True)  # its last write is so near that another one might not show
    monkeypatch.setattr(notes, "SETTLED_NS", 0)
    assert weights_read(cache=True)
    assert not weights_read(cache=True)
    assert weights_read()  # who did not ask for it
    good = net.read_bytes()
    net.write_bytes(good)
    assert weights_read(cache=True) and not weights_read(cache=True)
    for note in folder.with_name("checked").iterdir():
        os.utime(note, (os.stat(note).st_atime, os.stat(note).st_mtime - 90000))
    assert weights_read(cache=True)
    data = bytearray(good)
    data[len(data) // 2] ^= 1
    found = net.stat()
    net.write_bytes(data)
    os.utime(net, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(LoadError, match=r"weights\.safetensors' is damaged"):
        weights_read(cache=True)


def test_a_damaged_archive_shares_and_keeps_nothing(net: Path, folder: Path) -> None:
    """Its digest is that of the right one, and packing runs beside the checksums."""
    good = net.read_bytes()
    assert len(good) > 1 << 20
    data = bytearray(good)
    data[len(data) // 2] ^= 1
    atomic.replace(net, [data])  # it may still be mapped, and read by threads of a load that has failed
    with pytest.raises(LoadError, match=r"weights\.safetensors' is damaged"):
        opened(net, cache=True)
    assert not folder.exists()
    atomic.replace(net, [good])
    with opened(net, cache=True) as model:
        wanted = answer(model)
    gc.collect()
    atomic.replace(net, [data])
    with pytest.raises(LoadError, match="is damaged"):  # what was kept is of the right one, but this one is not loaded
        opened(net, cache=True)
    atomic.replace(net, [good])
    with opened(net, cache=True) as model:
        np.testing.assert_array_equal(answer(model), wanted)


def test_processes_exchange_descriptors(net: Path, packings: list[_native.Packing]) -> None:
    with packs.exchange() as first, opened(net) as model:
        wanted = answer(model)
        assert first.made is not None
        descriptor = os.dup(first.made)
    gc.collect()
    with packs.exchange(descriptor) as second, opened(net) as model:
        assert packings[-1].reused == shared(model) > 0 and second.made is None
        np.testing.assert_array_equal(answer(model), wanted)
    os.close(descriptor)


def test_memory_that_is_not_sealed_is_refused(net: Path, caplog: pytest.LogCaptureFixture) -> None:
    with packs.exchange() as first, opened(net) as model:
        assert first.made is not None
        wanted, data = answer(model), os.pread(first.made, 1 << 30, 0)
    gc.collect()
    descriptor = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.pwrite(descriptor, data, 0)
    with caplog.at_level(logging.WARNING), packs.exchange(descriptor) as second, opened(net) as model:
        assert second.made is not None
        np.testing.assert_array_equal(answer(model), wanted)
    assert "not sealed" in caplog.text
    os.close(descriptor)
