"""The rules of repeating calls, with an imagined clock."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.serve.errors import Meaning, ServeError, overloaded, unavailable
from headrace.serve.retry import REPEATED, Attempts, Budget, Retry


def attempts(retry, timeout=100.0, budget=None, repeatable=True, clock=lambda: 0.0, chance=lambda: 1.0):
    return Attempts(retry, budget, timeout, repeatable, clock=clock, chance=chance)


def test_pauses_double_up_to_the_longest():
    call = attempts(Retry(attempts=6, first_s=0.1, longest_s=0.5))
    pauses = [call.failed(unavailable("")) for _ in range(6)]
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5, None]


@given(st.sampled_from(list(Meaning)))
def test_only_what_may_pass(meaning):
    pause = attempts(Retry()).failed(ServeError(meaning, ""))
    assert (pause is not None) == (meaning in REPEATED)


def test_the_server_says_when():
    assert attempts(Retry()).failed(overloaded("", "queue", 250)) == 0.25
    assert attempts(Retry()).failed(overloaded("", "queue", -1)) is None


def test_never_past_the_deadline():
    now = 0.0
    call = attempts(Retry(attempts=9, first_s=0.4), timeout=1.0, clock=lambda: now)
    assert call.failed(unavailable("")) == 0.4
    now = 0.4
    assert abs(call.left() - 0.6) < 1e-9
    assert call.failed(unavailable("")) is None  # 0.8 more would be too late


@given(st.floats(1, 20), st.floats(0.01, 1), st.lists(st.booleans(), max_size=200))
def test_the_budget_bounds_what_is_repeated(tokens, refill, outcomes):
    """However calls end, the repeated ones are at most half the tokens and what the successes gave back."""
    budget, allowed, succeeded = Budget(Retry(tokens=tokens, refill=refill)), 0, 0
    for good in outcomes:
        if good:
            budget.succeeded()
            succeeded += 1
        else:
            allowed += budget.failed()
    assert allowed <= tokens / 2 + refill * succeeded + 1e-6
