"""The order of waiting jobs, their limits and the next batch: rules one by one, and the queue in C++ against this one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serve import engine
from headrace.serve.config import Batching, ConfigError, ModelConfig, Queue, QueueLevel
from headrace.serve.pending import BatchPolicy, Level, Pending
from headrace.serve.scheduler import Job
from headrace.serve.version import queue_policy


def job(name, rows=1, level=1, key=(), deadline=None, delay_at=None):
    one = Job({}, rows, deadline, level, delay_at)
    one.key, one.outcome = key, name  # the outcome carries the name: nothing ends these jobs
    return one


def pushed(policy, *jobs, now=0.0):
    pending = Pending(policy)
    for one in jobs:
        assert pending.push(one, now) is None
    return pending


def batches(pending, now=0.0, waited=False):
    """(names, reason) of every batch there is."""
    out = []
    pending.settle(now)
    while pending.head is not None:
        jobs, reason, _ = pending.pop(now, waited)
        out.append(("".join(one.outcome for one in jobs), reason))
        pending.settle(now)
    return out


THREE = (Level(), Level(), Level())


def test_higher_levels_go_first_and_each_in_order():
    policy = BatchPolicy(0, levels=THREE)
    pending = pushed(policy, job("c", level=3), job("a", level=1), job("d", level=3), job("b", level=2))
    assert [names for names, _ in batches(pending)] == ["a", "b", "c", "d"]


def test_batches_are_filled_across_levels():
    pending = pushed(BatchPolicy(3, levels=THREE), *(job(n, level=v) for n, v in zip("dabc", (3, 1, 1, 2))))
    assert batches(pending) == [("abc", "full"), ("d", "alone")]


def test_limits_of_the_queue_and_of_a_level():
    policy = BatchPolicy(0, max_queue=3, levels=(Level(), Level(max_queue=1)))
    pending = pushed(policy, job("a", level=2))
    assert pending.push(job("b", level=2), 0) == "the queue of the model is full for priority 2 (1 requests)"
    assert pending.push(job("c"), 0) is None and pending.push(job("d"), 0) is None
    assert pending.push(job("e"), 0) == "the queue of the model is full (3 requests)"


def test_what_is_over_makes_room():
    pending = pushed(BatchPolicy(0, max_queue=2), job("a", deadline=1.0), job("b"))
    assert pending.push(job("c"), 0.5) is not None
    assert pending.push(job("d"), 1.0) is None
    assert batches(pending, 1.0) == [("b", "alone"), ("d", "alone")]


def test_late_jobs_go_behind_their_level():
    policy = BatchPolicy(0, levels=(Level(delay=True), Level()))
    jobs = [job("a", delay_at=1.0), job("b", delay_at=5.0), job("c"), job("d", level=2)]
    assert [n for n, _ in batches(pushed(policy, *jobs), 1.0)] == ["b", "c", "a", "d"]


def test_the_next_deadline_goes_first():
    """One without a deadline has patience for ten seconds; levels go before deadlines."""
    policy = BatchPolicy(0, levels=(Level(), Level()))
    jobs = [job("d"), job("c", deadline=9.0), job("a", deadline=1.0), job("e", deadline=30.0), job("b", deadline=2.0)]
    pending = pushed(policy, *jobs, job("f", level=2, deadline=0.5))
    assert [n for n, _ in batches(pending)] == list("abcdef")
    pending = pushed(BatchPolicy(0), job("a"))
    for name, now in (("c", 3.0), ("b", 0.5)):
        assert pending.push(job(name, deadline=100.0), now) is None  # a late deadline is none
    assert [n for n, _ in batches(pending)] == ["a", "b", "c"]


def test_those_that_keep_their_order_ignore_deadlines():
    pending = Pending(BatchPolicy(0, ordered=True))
    for now, one in enumerate((job("a"), job("b", deadline=9.0), job("c", deadline=5.0))):
        assert pending.push(one, now) is None
    assert [n for n, _ in batches(pending, 3.0)] == ["a", "b", "c"]


def test_what_would_be_late_behind_the_queue_is_known_before():
    pending = pushed(BatchPolicy(0, instances=2), job("a", 4, deadline=1.0), job("b", 6, deadline=3.0), job("c", 9))

    def late(deadline, rows=1, each=0.5, run=0.0):
        return pending.lateness(job("x", rows, deadline=deadline), 0.0, each, run)

    assert late(2.0) == 0.0  # behind four rows on two instances: 1 s and 0.5 s of its own
    assert late(1.2) == pytest.approx(0.3)
    assert late(3.0) == 0.0 and late(3.0, 2) == pytest.approx(0.5)
    assert late(0.4) == 0.0  # too late even alone: that is no matter of the queue
    assert late(1.2, run=1.3) == 0.0 and late(1.2, run=0.8) == pytest.approx(0.6)  # a run may be longer than its rows
    assert late(None) == 0.0 and late(1.2, each=0.0) == 0.0  # no deadline; nothing is known yet


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((1, 1), [("ab", "turn")]),
        ((1, 1, 2), [("abc", "preferred")]),
        ((2, 2, 1), [("ab", "preferred"), ("c", "alone")]),
        ((2, 2, 2, 2), [("abcd", "full")]),
        ((2, 2, 3), [("ab", "preferred"), ("c", "alone")]),
        ((3, 3, 3), [("ab", "full"), ("c", "alone")]),
        ((4,), [("a", "preferred")]),
    ],
)
def test_preferred_sizes(rows, expected):
    """The largest preferred size that the first jobs make goes; else what there is."""
    pending = pushed(BatchPolicy(8, preferred=(4, 8)), *(job(n, r) for n, r in zip("abcd", rows)))
    formed = pending.is_formed(0)
    assert formed == (expected[0][1] in ("preferred", "full"))
    assert batches(pending) == expected


def test_requests_find_their_level_and_time():
    policy = BatchPolicy(levels=(Level(), Level(timeout=2.0), Level(timeout=3.0, override=False)), default_level=2)
    assert [policy.level_of({"priority": n}) for n in (0, 1, 3, 4, 2**63)] == [2, 1, 3, 2, 2]
    assert policy.level_of({}) == 2
    asked = [{}, {"timeout": 0}, {"timeout": 500_000}, {"timeout": 5_000_000}]
    assert [policy.timeout_of(1, p) for p in asked] == [None, None, 0.5, 5.0]
    assert [policy.timeout_of(2, p) for p in asked] == [2.0, 2.0, 0.5, 2.0]
    assert [policy.timeout_of(3, p) for p in asked] == [3.0] * 4


def test_policy_from_settings():
    queue = Queue(9, 100, priority_levels=3, levels={"1": QueueLevel(2, 50, False, "delay")})
    policy = queue_policy(8, 1, ModelConfig(Batching(preferred_sizes=(4,)), queue))
    rest = Level(0, 0.1, True, False)
    assert policy == BatchPolicy(8, 0.0, 1, 9, (4,), (Level(2, 0.05, False, True), rest, rest), 3)
    with pytest.raises(ConfigError, match="preferred_sizes has 9"):
        queue_policy(8, 1, ModelConfig(Batching(preferred_sizes=(9,))))


times = st.none() | st.integers(0, 20)
pushes = st.tuples(
    st.just("push"), st.integers(1, 5), st.integers(1, 2), st.integers(1, 3), times, times
)  # rows, width, level, deadline, delay_at
pops = st.tuples(st.just("pop"), st.booleans())


@pytest.mark.skipif(engine._native is None, reason="built without libnghttp2: there is no queue in C++")
@settings(max_examples=500)
@given(
    st.sampled_from([0, 1, 4, 8]),
    st.integers(1, 6),
    st.lists(st.integers(1, 8), max_size=3),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=3, max_size=3),
    st.lists(pushes | pops, max_size=40),
    st.lists(st.integers(0, 2), min_size=40, max_size=40),
)
def test_the_queue_in_c_decides_alike(max_rows, max_queue, preferred, rules, steps, pauses):
    """Every step of a random history: the same refusals, the same batches for the same reasons, the same length."""
    levels = tuple(Level(most, 0.0, True, delay) for most, delay in rules)
    preferred = [size for size in preferred if size <= max_rows]
    policy = BatchPolicy(max_rows, 0.0, 1, max_queue, tuple(preferred), levels)
    mine = Pending(policy)
    native = engine._native.Pending(max_rows, max_queue, preferred, engine.level_rows(policy))
    now = 0.0
    for number, (step, pause) in enumerate(zip(steps, pauses)):
        now += pause
        if step[0] == "push":
            _, rows, width, level, deadline, delay_at = step
            if deadline is not None:
                asked = job(number, rows, level, (width,), deadline)
                late = native.lateness(rows, level, deadline, now, 0.75, 1.5)
                assert late == pytest.approx(mine.lateness(asked, now, 0.75, 1.5))
            one = job(number, rows, level, (width,), deadline, delay_at if levels[level - 1].delay else None)
            taken = mine.push(one, now) is None
            assert native.push(number, rows, width, level, one.deadline, one.delay_at, now) == taken
        else:
            mine.settle(now)
            found = None
            if mine.head is not None:
                formed = mine.is_formed(now)
                jobs, reason, _ = mine.pop(now, step[1])
                found = ([one.outcome for one in jobs], reason, formed)
            assert native.pop(now, step[1]) == found
        assert len(native) == len(mine)
