"""The policy as a table and as a random walk: the last ready version never goes while a wanted one is not ready."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serve.policy import Load, State, Unload, VersionKey, next_action

ONE, TWO = VersionKey(1, "a"), VersionKey(2, "a")
NEW_ONE = VersionKey(1, "b")


@pytest.mark.parametrize(
    ("desired", "actual", "action"),
    [
        (set(), {}, None),
        ({ONE}, {}, Load(ONE)),
        ({ONE, TWO}, {}, Load(TWO)),
        ({ONE}, {ONE: State.DISABLED}, Load(ONE)),
        ({ONE}, {ONE: State.READY}, None),
        ({ONE}, {ONE: State.ERROR}, None),
        ({TWO}, {ONE: State.READY}, Load(TWO)),
        ({TWO}, {ONE: State.READY, TWO: State.LOADING}, None),
        ({TWO}, {ONE: State.READY, TWO: State.ERROR}, None),
        ({TWO}, {ONE: State.READY, TWO: State.READY}, Unload(ONE)),
        ({NEW_ONE}, {ONE: State.READY}, Load(NEW_ONE)),
        (set(), {ONE: State.READY, TWO: State.READY}, Unload(ONE)),
        (set(), {ONE: State.UNLOADING}, None),
    ],
)
def test_table(desired, actual, action):
    assert next_action(desired, actual) == action


keys = st.builds(VersionKey, st.integers(1, 4), st.sampled_from("ab"))


@given(st.lists(st.tuples(st.frozensets(keys, max_size=3), st.frozensets(keys)), min_size=1, max_size=8))
def test_walk(steps):
    """Any sequence of wishes with any set of failing files ends, and a ready version is there all along."""
    actual: dict[VersionKey, State] = {}
    for desired, broken in steps:
        actual = {k: s for k, s in actual.items() if s is not State.ERROR}
        had = any(state is State.READY for state in actual.values())
        for _ in range(50):
            action = next_action(desired, actual)
            if action is None:
                break
            if isinstance(action, Load):
                actual[action.key] = State.ERROR if action.key in broken else State.READY
            else:
                actual[action.key] = State.DISABLED
            if had and desired:
                assert State.READY in actual.values()
        else:
            raise AssertionError("the policy does not come to rest")
        ready = {key for key, state in actual.items() if state is State.READY}
        assert desired - broken <= ready
        if desired - broken or not desired:
            assert ready <= desired
