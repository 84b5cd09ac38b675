"""The queue: batches form while a run is under way, every job ends exactly once, a bad row harms nobody."""

import threading
import time

import numpy as np
import pytest

from headrace.serve.errors import Meaning, ServeError
from headrace.serve.pending import BatchPolicy, Level
from headrace.serve.scheduler import Job, Scheduler


class Model:
    """y = x + 1; holds runs while `gate` is closed, raises when a row is negative."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches = []

    def __call__(self, feeds):
        self.batches.append(feeds["x"][:, 0].tolist())
        self.entered.release()
        assert self.gate.wait(10)
        if (feeds["x"] < 0).any():
            raise RuntimeError("negative")
        return {"y": feeds["x"] + 1}


def job(value, rows=1, width=2, deadline=None, level=1, delay_at=None):
    return Job({"x": np.full((rows, width), float(value))}, rows, deadline, level, delay_at)


class Callers:
    """Jobs run by threads; outcomes by value."""

    def __init__(self, scheduler):
        self.scheduler, self.outcomes, self.threads = scheduler, {}, []

    def add(self, value, wait=True, **options):
        one, before = job(value, **options), self.scheduler.pending

        def call():
            try:
                self.outcomes[value] = self.scheduler.run(one)
            except Exception as error:
                self.outcomes[value] = error

        thread = threading.Thread(target=call)
        self.threads.append(thread)
        thread.start()
        while wait and self.scheduler.pending == before:
            time.sleep(0.001)
        return one

    def join(self):
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        return self.outcomes


def held(policy):
    """A scheduler whose instance is busy with job 0, so that everything else queues."""
    model = Model()
    scheduler = Scheduler(model, policy)
    model.gate.clear()
    callers = Callers(scheduler)
    callers.add(0, wait=False)
    assert model.entered.acquire(timeout=10)
    return model, scheduler, callers


def test_priorities_and_late_jobs_behind_a_run():
    """What waits goes by priority; a late job goes behind those of its level that are in time."""
    policy = BatchPolicy(0, levels=(Level(), Level(delay=True)), default_level=2)
    model, _, callers = held(policy)
    callers.add(1, level=2, delay_at=time.monotonic())
    callers.add(2, level=2)
    callers.add(3, level=1)
    model.gate.set()
    callers.join()
    assert model.batches == [[0], [3], [2], [1]]


def test_a_preferred_size_goes_without_waiting():
    model = Model()
    callers = Callers(Scheduler(model, BatchPolicy(8, max_delay=30, preferred=(2,))))
    callers.add(1)
    callers.add(2, wait=False)
    callers.join()
    assert model.batches == [[1, 2]]


def test_alone():
    model = Model()
    one = job(3, rows=2)
    assert Scheduler(model, BatchPolicy(8)).run(one)["y"].tolist() == [[4, 4], [4, 4]]
    assert one.execution.reason == "alone" and one.execution.rows == 2


def test_what_queued_during_a_run_is_the_next_batch():
    model, _, callers = held(BatchPolicy(4))
    for value in range(1, 8):
        callers.add(value)
    model.gate.set()
    outcomes = callers.join()
    assert all(outcomes[v]["y"].tolist() == [[v + 1, v + 1]] for v in range(8))
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_only_equal_shapes_are_merged_and_order_is_kept():
    model, _, callers = held(BatchPolicy(8))
    for value, width in ((1, 2), (2, 3), (3, 2), (4, 3)):
        callers.add(value, width=width)
    model.gate.set()
    outcomes = callers.join()
    assert all(outcomes[v]["y"][0, 0] == v + 1 for v in range(5))
    assert model.batches == [[0], [1, 3], [2, 4]]


def test_without_batching_nothing_is_merged():
    model, _, callers = held(BatchPolicy(0))
    for value in (1, 2, 3):
        callers.add(value)
    model.gate.set()
    callers.join()
    assert model.batches == [[0], [1], [2], [3]]


def test_a_raising_row_is_found_and_the_others_are_answered():
    model, _, callers = held(BatchPolicy(8))
    for value in (1, -2, 3):
        callers.add(value)
    model.gate.set()
    outcomes = callers.join()
    assert isinstance(outcomes[-2], RuntimeError)
    assert outcomes[1]["y"][0, 0] == 2 and outcomes[3]["y"][0, 0] == 4


def test_a_waiting_job_expires_and_never_runs():
    model, scheduler, callers = held(BatchPolicy(8))
    callers.add(1, deadline=time.monotonic() + 0.05)
    while 1 not in callers.outcomes:
        time.sleep(0.005)
    assert callers.outcomes[1].meaning is Meaning.EXPIRED
    callers.add(2)
    model.gate.set()
    callers.join()
    assert model.batches == [[0], [2]]
    with pytest.raises(ServeError) as caught:
        scheduler.run(job(3, deadline=time.monotonic() - 1))
    assert caught.value.meaning is Meaning.EXPIRED and len(model.batches) == 2


def test_a_cancelled_job_leaves_at_once():
    model, _, callers = held(BatchPolicy(8))
    one = callers.add(1)
    callers.add(2)
    one.cancel()
    while 1 not in callers.outcomes:
        time.sleep(0.005)
    assert callers.outcomes[1].meaning is Meaning.CANCELLED
    model.gate.set()
    assert callers.join()[2]["y"][0, 0] == 3
    assert model.batches == [[0], [2]]


def test_a_client_already_gone_never_waits():
    model, scheduler, callers = held(BatchPolicy(8))
    with pytest.raises(ServeError) as caught:
        scheduler.run(job(1), watch=lambda callback: False)
    assert caught.value.meaning is Meaning.CANCELLED
    model.gate.set()
    callers.join()


def test_the_queue_is_bounded():
    model, scheduler, callers = held(BatchPolicy(8, max_queue=2))
    callers.add(1)
    callers.add(2)
    with pytest.raises(ServeError) as caught:
        scheduler.run(job(3))
    assert caught.value.meaning is Meaning.OVERLOADED and caught.value.retry_after_ms
    model.gate.set()
    callers.join()


def test_a_job_ends_once():
    one = job(1)
    assert one.end({"y": np.zeros(1)})
    assert not one.end(ValueError())
    one.cancel()
    assert isinstance(one.outcome, dict)


def test_delay_gathers_until_full():
    model = Model()
    scheduler = Scheduler(model, BatchPolicy(3, max_delay=30))
    callers = Callers(scheduler)
    for value in (1, 2, 3):
        callers.add(value, wait=False)
    callers.join()
    assert sorted(model.batches[0]) == [1, 2, 3]


def test_delay_runs_out():
    model = Model()
    one = job(1)
    assert Scheduler(model, BatchPolicy(3, max_delay=0.01)).run(one)["y"][0, 0] == 2
    assert one.execution.reason == "delay"


def test_long_runs_are_led_in_the_background_so_that_callers_expire():
    model = Model()
    scheduler = Scheduler(model, BatchPolicy(8))
    scheduler._run_seconds = 1.0
    model.gate.clear()
    with pytest.raises(ServeError) as caught:
        scheduler.run(job(1, deadline=time.monotonic() + 0.05))
    assert caught.value.meaning is Meaning.EXPIRED
    model.gate.set()
    assert scheduler.run(job(2))["y"][0, 0] == 3


def test_closing_ends_the_waiting():
    model, scheduler, callers = held(BatchPolicy(8))
    callers.add(1)
    scheduler.close()
    model.gate.set()
    assert callers.join()[1].meaning is Meaning.UNAVAILABLE
    with pytest.raises(ServeError):
        scheduler.run(job(2))


@pytest.mark.parametrize("instances", [1, 2])
def test_many_callers_each_get_their_own(instances):
    scheduler = Scheduler(lambda feeds: {"y": feeds["x"] * 2}, BatchPolicy(16, instances=instances))
    wrong = []

    def call(index):
        random = np.random.default_rng(index)
        for turn in range(150):
            rows = int(random.integers(1, 4))
            x = random.random((rows, 2 + turn % 2))
            one = Job({"x": x}, rows, time.monotonic() + (0.0005 if turn % 10 == 0 else 30))
            if turn % 7 == 0:
                threading.Thread(target=one.cancel).start()
            try:
                if scheduler.run(one)["y"].tobytes() != (x * 2).tobytes():
                    wrong.append((index, turn))
            except ServeError as error:
                if error.meaning not in (Meaning.EXPIRED, Meaning.CANCELLED):
                    wrong.append(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    until = time.monotonic() + 10  # a leader in the background gives its instance back after the last answer
    while scheduler._idle != instances and time.monotonic() < until:
        time.sleep(0.001)
    assert scheduler.pending == 0 and scheduler._idle == instances


def test_a_leader_is_no_heir():
    """A leader runs another's job while its own still waits: an instance handed over meanwhile must not go to it, who no
    longer listens, and be lost."""
    gate, running = threading.Event(), threading.Event()

    def run(feeds):
        running.set()
        gate.wait(10)
        return {"y": feeds["x"]}

    scheduler = Scheduler(run, BatchPolicy(0, instances=2))
    other, own = (Job({"x": np.ones((1, 2))}, 1, None) for _ in range(2))
    with scheduler._lock:
        scheduler._idle = 0  # one instance is about to be the leader's, one is ours
        scheduler._queue.push(other, 0.0)
    leader = threading.Thread(target=scheduler.run, args=(own,))
    leader.start()
    while scheduler.pending < 2:
        time.sleep(0.001)
    own.promote()
    assert running.wait(10)
    with scheduler._lock:
        scheduler._hand_over()
    gate.set()
    leader.join(10)
    assert own.ended and other.ended
    assert scheduler._idle == 2


def test_who_cannot_be_answered_in_time_is_told_at_once():
    """Behind others with deadlines as near: refused with the time when to come back, before it waits, and never run."""
    gate, runs = threading.Event(), []

    def run(feeds):
        runs.append(len(feeds["x"]))
        if len(runs) > 1:
            gate.wait(20)
        time.sleep(0.05)
        return {"y": feeds["x"]}

    scheduler = Scheduler(run, BatchPolicy(0))
    feeds = {"x": np.zeros((1, 1), np.float32)}
    scheduler.run(Job(feeds, 1, None))  # now it knows how long a row takes
    outcomes = []

    def ask():
        try:
            scheduler.run(Job(feeds, 1, time.monotonic() + 30))
            outcomes.append("ok")
        except ServeError as error:
            outcomes.append(error)

    scheduler._best_row = 10.0  # three rows take 30 s: as if runs had been that long
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    while len(outcomes) < 4:  # those that were refused need nobody to run
        time.sleep(0.01)
    refused = list(outcomes)
    gate.set()
    for thread in threads:
        thread.join()
    assert all(error.meaning is Meaning.OVERLOADED and 0 < error.retry_after_ms <= 60_000 for error in refused)
    assert "too long for the deadline" in refused[0].text
    assert len(runs) == 1 + outcomes.count("ok")
