"""Merge and split give every request exactly its own rows, for every composition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serve.batch import merge, signature, split

requests = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2**31)), min_size=1, max_size=12)
tails = st.lists(st.integers(0, 3), max_size=3)


@given(requests, tails, tails)
def test_split_undoes_merge(parts, first, second):
    feeds = []
    for rows, seed in parts:
        random = np.random.default_rng(seed)
        feeds.append({"a": random.random((rows, *first)), "b": random.integers(0, 99, (rows, *second))})
    assert len({signature(feed) for feed in feeds}) == 1
    merged = merge(feeds)
    assert all(len(array) == sum(rows for rows, _ in parts) for array in merged.values())
    for feed, part in zip(feeds, split(merged, [rows for rows, _ in parts]), strict=True):
        for name in feed:
            assert feed[name].tobytes() == part[name].tobytes() and feed[name].shape == part[name].shape


def test_signature_tells_shapes_and_names_apart():
    a = {"x": np.zeros((1, 3))}
    assert signature(a) == signature({"x": np.zeros((7, 3))})
    assert signature(a) != signature({"x": np.zeros((1, 4))})
    assert signature(a) != signature({"y": np.zeros((1, 3))})


@pytest.mark.parametrize("shape", [(), (2, 3), (4, 3)])
def test_a_wrong_number_of_rows_is_never_handed_out(shape):
    with pytest.raises(ValueError, match="expected 3 rows"):
        split({"y": np.zeros(shape)}, [1, 2])
