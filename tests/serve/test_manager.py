"""Loading, switching, unloading: effects in the right order, handles respected, failures contained."""

import contextlib
import threading
import time

import pytest
import serve_fake

from headrace.runtime.background import gives_way
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.manager import Manager
from headrace.serve.repository import Repository, RepositoryError


class Loader:
    def __init__(self):
        self.loaded, self.asked_times, self.gave_way = [], 0, []
        self.asked = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    @contextlib.contextmanager
    def holding(self, *calls):
        """`calls`, each on a thread: the first load that one of them asks for has begun, and goes on when the block is left,
        at whose end all have returned."""
        self.asked.clear()
        self.hold.clear()
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        try:
            assert self.asked.wait(30)
            yield
        finally:
            self.hold.set()
            for thread in threads:
                thread.join()

    def __call__(self, path):
        self.asked_times += 1
        self.gave_way.append(gives_way())
        self.asked.set()
        self.hold.wait()
        model = serve_fake.load(path)
        self.loaded.append(model)
        return model


@pytest.fixture
def loader():
    return Loader()


def manager(root, loader, **models):
    serve_fake.repository(root, models)
    made = Manager(Repository([root]), loader, drain_seconds=0.3)
    made.start()
    return made


def number(made, name, version=""):
    found = made.acquire(name, version)
    made.release(found)
    return found.number


def meaning(call, *arguments):
    with pytest.raises(ServeError) as caught:
        call(*arguments)
    return caught.value.meaning


def test_latest_is_served_and_labels_point(tmp_path, loader):
    serve_fake.repository(tmp_path, {"m/1": "scale 1", "m/2": "scale 2", "m/10": "scale 10"})
    (tmp_path / "m/config.toml").write_text('[versions]\npolicy = "all"\nlabels = {stable = 2, gone = 7}\n')
    made = manager(tmp_path, loader)
    assert [number(made, "m", v) for v in ("", "1", "2", "10", "stable")] == ["10", "1", "2", "10", "2"]
    assert meaning(made.acquire, "m", "3") is Meaning.NOT_FOUND
    assert meaning(made.acquire, "m", "canary") is Meaning.NOT_FOUND
    assert meaning(made.acquire, "m", "gone") is Meaning.NOT_FOUND
    assert meaning(made.acquire, "x", "") is Meaning.NOT_FOUND
    for version in ("01", "+1", " 1", "1 ", "-1", "0", "1.0", "Label", "1\0", "9" * 19, "²"):
        assert meaning(made.acquire, "m", version) is Meaning.BAD_ARGUMENT


def test_labels_move_at_once_and_only_to_what_is_ready(tmp_path, loader):
    config = tmp_path / "m/config.toml"
    serve_fake.repository(tmp_path, {"m/1": "scale 1", "m/2": "scale 2"})
    config.write_text('[versions]\npolicy = "all"\nlabels = {stable = 1, canary = 2}\n')
    made = manager(tmp_path, loader)
    assert [number(made, "m", label) for label in ("stable", "canary")] == ["1", "2"]
    config.write_text('[versions]\npolicy = "all"\nlabels = {stable = 2, canary = 2}\n')
    made.load("m")
    assert [number(made, "m", label) for label in ("stable", "canary")] == ["2", "2"]
    assert len(loader.loaded) == 2  # no version was loaded for it
    serve_fake.repository(tmp_path, {"m/3": "scale 3"})
    config.write_text('[versions]\npolicy = "all"\nlabels = {stable = 2, canary = 3}\n')
    with loader.holding(lambda: made.load("m")):
        assert number(made, "m", "canary") == "2"  # 3 is on its way
    assert number(made, "m", "canary") == "3"
    config.write_text('[versions]\npolicy = "all"\n')
    made.load("m")
    assert meaning(made.acquire, "m", "canary") is Meaning.NOT_FOUND


@pytest.mark.parametrize(
    ("policy", "ready"),
    [
        ("policy = 'latest'\nkeep = 1", ["10"]),
        ("policy = 'latest'\nkeep = 2", ["9", "10"]),
        ("policy = 'all'", ["1", "9", "10"]),
        ("policy = 'specific'\nkeep = [1, 9]", ["1", "9"]),
        ("policy = 'specific'\nkeep = 9", ["9"]),
    ],
)
def test_version_policies_and_their_change(tmp_path, loader, policy, ready):
    """Whatever was served before: what the policy wants comes up first, the rest goes."""
    serve_fake.repository(tmp_path, {"m/1": "scale 1", "m/9": "scale 9", "m/10": "scale 10"})
    made = manager(tmp_path, loader)
    (tmp_path / "m/config.toml").write_text(f"[versions]\n{policy}\n")
    made.load("m")
    assert [row[1] for row in made.index() if row[2] == "READY"] == ready
    assert number(made, "m") == ready[-1]


def test_settings_that_a_version_is_loaded_with_are_taken_over_by_a_switch(tmp_path, loader):
    made = manager(tmp_path, loader, m="scale 1")
    (tmp_path / "m/config.toml").write_text("[batching]\nmax_batch_size = 5\n[queue]\nmax_size = 7\n")
    made.load("m")
    found = made.acquire("m", "")
    assert (found.interface.max_batch_size, found.scheduler.policy.max_queue) == (5, 7)
    made.release(found)
    assert len(loader.loaded) == 2 and loader.loaded[0].closed


def test_names_that_are_nearly_right(tmp_path, loader):
    made = manager(tmp_path, loader, **{"digits": "scale 1", "other/3": "scale 1"})
    for call, text in (
        (lambda: made.acquire("digit", ""), "model 'digit' is unknown; did you mean 'digits'?"),
        (lambda: made.acquire("zzz", ""), "model 'zzz' is unknown; known are 'digits', 'other'"),
        (lambda: made.load("Digits"), "model 'Digits' is not in the repository; did you mean 'digits'?"),
        (lambda: made.acquire("other", "1"), "model 'other' has no version '1'; it has 3"),
        (lambda: made.acquire("other", "new"), "model 'other' has no label 'new'; it has none"),
    ):
        with pytest.raises(ServeError) as caught:
            call()
        assert caught.value.text == text


def test_default_keeps_the_newest_only(tmp_path, loader):
    made = manager(tmp_path, loader, **{"m/1": "scale 1", "m/2": "scale 2"})
    assert [row[:3] for row in made.index()] == [("m", "2", "READY")]


def test_load_then_switch(tmp_path, loader):
    made = manager(tmp_path, loader, **{"m/1": "scale 1"})
    first = loader.loaded[0]
    serve_fake.repository(tmp_path, {"m/2": "scale 2"})
    with loader.holding(lambda: made.load("m")):
        assert number(made, "m") == "1" and not first.closed
    assert number(made, "m") == "2" and first.closed


def test_a_load_gives_way_where_requests_may_be_answered(tmp_path, loader):
    made = manager(tmp_path, loader, **{"m/1": "scale 1"})
    serve_fake.repository(tmp_path, {"m/2": "scale 2"})
    made.load("m")
    made.unload("m")
    made.load("m")
    assert loader.gave_way == [False, True, False]
    assert not gives_way()


def test_a_replaced_file_is_switched_in(tmp_path, loader):
    made = manager(tmp_path, loader, m="scale 1")
    fresh = tmp_path / "m/1/new"
    fresh.write_text("scale 2")
    fresh.rename(tmp_path / "m/1/model.hr")
    made.load("m")
    assert len(loader.loaded) == 2 and loader.loaded[0].closed and not loader.loaded[1].closed
    made.load("m")
    assert len(loader.loaded) == 2  # nothing changed


def test_a_failing_version_leaves_the_old_one(tmp_path, loader):
    made = manager(tmp_path, loader, **{"m/1": "scale 1"})
    serve_fake.repository(tmp_path, {"m/2": "golden bad"})
    assert meaning(made.load, "m") is Meaning.UNAVAILABLE
    assert number(made, "m") == "1"
    rows = {row[1]: row for row in made.index()}
    assert rows["1"][2] == "READY" and rows["2"][2] == "UNAVAILABLE" and "off by 0.5, bound 0.001" in rows["2"][3]
    assert str(tmp_path) not in rows["2"][3]
    assert loader.loaded[1].closed
    (tmp_path / "m/2/model.hr").write_text("scale 2")
    made.load("m")
    assert number(made, "m") == "2"


def test_unload_waits_for_handles(tmp_path, loader):
    made = manager(tmp_path, loader, m="scale 1")
    handle = made.acquire("m", "")
    assert meaning(made.unload, "m") is Meaning.UNAVAILABLE  # the drain time passed
    assert number(made, "m") == "1"
    made._drain_seconds = 30.0  # it does not pass now
    thread = threading.Thread(target=made.unload, args=("m",))
    thread.start()
    while made.ready("m"):
        time.sleep(0.005)
    assert not loader.loaded[0].closed
    made.release(handle)
    thread.join()
    assert loader.loaded[0].closed
    assert made.index() == [("m", "1", "UNAVAILABLE", "unloaded")]
    assert meaning(made.acquire, "m", "") is Meaning.UNAVAILABLE
    made.load("m")
    assert number(made, "m") == "1"


class Watched:
    """A lock that counts who looked whether it is taken."""

    def __init__(self, lock):
        self.lock, self.looked = lock, threading.Semaphore(0)

    def locked(self):
        taken = self.lock.locked()
        self.looked.release()
        return taken

    def __enter__(self):
        return self.lock.__enter__()

    def __exit__(self, *how):
        return self.lock.__exit__(*how)


def test_loads_of_one_model_join(tmp_path, loader):
    made = manager(tmp_path, loader, m="scale 1")
    serve_fake.repository(tmp_path, {"m/2": "nonsense"})
    busy = made._records["m"].busy = Watched(made._records["m"].busy)
    loader.asked_times, results = 0, []

    def load():
        results.append(meaning(made.load, "m"))

    others = [threading.Thread(target=load) for _ in range(3)]
    with loader.holding(load):
        for thread in others:
            thread.start()
        for _ in range(1 + len(others)):
            busy.looked.acquire()
    for thread in others:
        thread.join()
    assert results == [Meaning.UNAVAILABLE] * 4
    assert loader.asked_times == 1


def test_bad_beside_good(tmp_path, loader):
    made = manager(tmp_path, loader, good="scale 1", bad="nonsense", wrong="golden bad")
    assert number(made, "good") == "1" and not made.all_ready()
    assert {row[0]: row[2] for row in made.index()} == {"good": "READY", "bad": "UNAVAILABLE", "wrong": "UNAVAILABLE"}
    assert meaning(made.acquire, "bad", "") is Meaning.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[batching]\nmax_batchsize = 4\n", "did you mean 'max_batch_size'"),
        ("[batching]\nmax_batch_size = 'x'\n", "max_batch_size is 'x'"),
        ("[versions]\npolicy = 'specific'\nkeep = [7]\n", "version 7"),
        ("not toml", "config.toml"),
    ],
)
def test_a_wrong_config_is_an_error_of_that_model(tmp_path, loader, text, words):
    serve_fake.repository(tmp_path, {"m": "scale 1", "n": "scale 1"})
    (tmp_path / "m/config.toml").write_text(text)
    made = manager(tmp_path, loader)
    with pytest.raises(ServeError, match=words):
        made.load("m")
    assert number(made, "n") == "1"
    assert meaning(made.acquire, "m", "") is Meaning.UNAVAILABLE


def test_batching_that_the_model_cannot_do_is_refused(tmp_path, loader):
    serve_fake.repository(tmp_path, {"m": "dependent"})
    (tmp_path / "m/config.toml").write_text("[batching]\nmax_batch_size = 4\n")
    with pytest.raises(ServeError, match=r"max_batch_size is 4, but .* node 'mean' mixes rows"):
        manager(tmp_path, loader).load("m")


def test_names_never_become_paths(tmp_path, loader):
    made = manager(tmp_path / "in", loader, m="scale 1")
    serve_fake.repository(tmp_path, {"out": "scale 1"})
    for name in ("../out", "..", ".", "", "a/b", "m\0", "m ", "x" * 129, "é"):
        assert meaning(made.load, name) is Meaning.BAD_ARGUMENT
        assert meaning(made.unload, name) is Meaning.BAD_ARGUMENT
        assert meaning(made.acquire, name, "") is Meaning.BAD_ARGUMENT
    assert meaning(made.load, "out") is Meaning.NOT_FOUND


def test_forms_of_a_repository(tmp_path, loader):
    file = tmp_path / "net.hr"
    file.write_text("scale 1")
    assert Repository([file]).names() == ["net"]
    assert Repository([file], "other").names() == ["other"]
    assert Repository([f"a={file}", f"b={file}"]).names() == ["a", "b"]
    assert Repository([tmp_path], "mounted").names() == ["mounted"]
    for wrong in ([tmp_path / "none"], [f"a={file}", f"a={file}"], [f"a/b={file}"], [f"a={tmp_path / 'none'}"], []):
        with pytest.raises(RepositoryError):
            Repository(wrong)
    made = Manager(Repository([f"a={file}"]), loader)
    made.start()
    assert number(made, "a", "1") == "1"
