"""Data sets, samplers, collation, loaders with and without workers."""

from collections import namedtuple

import numpy as np
import pytest

import headrace as torch
from headrace.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
    random_split,
)

Pair = namedtuple("Pair", "x y")


class Numbers(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int):
        return {"x": torch.full((2,), float(i)), "label": i, "name": f"n{i}", "pair": Pair(i, float(i))}


class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        yield from range(start, 10, step)


def test_collation() -> None:
    batch = default_collate([Numbers(3)[i] for i in range(3)])
    assert batch["x"].shape == (3, 2) and batch["label"].tolist() == [0, 1, 2] and batch["name"] == ["n0", "n1", "n2"]
    assert isinstance(batch["pair"], Pair) and batch["pair"].y.dtype is torch.float64
    assert default_collate([(1, 2.0), (3, 4.0)])[0].tolist() == [1, 3]
    assert default_collate([np.float32(1), np.float32(2)]).dtype is torch.float32
    with pytest.raises(TypeError, match="found <class 'set'>"):
        default_collate([{1}, {2}])
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([[1, 2], [3]])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_their_order(workers: int) -> None:
    loader = DataLoader(Numbers(10), batch_size=4, num_workers=workers)
    found = list(loader)
    assert len(loader) == len(found) == 3 and [b["label"].tolist() for b in found] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    assert [len(b["name"]) for b in DataLoader(Numbers(10), batch_size=4, drop_last=True, num_workers=workers)] == [
        4,
        4,
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_seed_gives_one_order(workers: int) -> None:
    def order() -> list[int]:
        torch.manual_seed(5)
        return [
            i
            for b in DataLoader(Numbers(20), batch_size=3, shuffle=True, num_workers=workers)
            for i in b["label"].tolist()
        ]

    first = order()
    assert first == order() and sorted(first) == list(range(20)) and first != list(range(20))
    torch.manual_seed(5)
    assert [i for b in DataLoader(Numbers(20), batch_size=3, shuffle=True) for i in b["label"].tolist()] == first


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_iterable(workers: int) -> None:
    found = [i for b in DataLoader(Stream(), batch_size=4, num_workers=workers) for i in b.tolist()]
    assert sorted(found) == list(range(10))


def test_a_workers_exception_is_raised_here() -> None:
    class Bad(Numbers):
        def __getitem__(self, i: int):
            if i == 5:
                raise ValueError("sample five is broken")
            return i

    with pytest.raises(ValueError, match=r"(?s)DataLoader worker process.*sample five is broken"):
        list(DataLoader(Bad(8), batch_size=2, num_workers=2))

    class Unsendable(Numbers):
        def __getitem__(self, i: int):
            return i

    with pytest.raises(TypeError, match="found object"):
        list(DataLoader(Unsendable(4), batch_size=2, num_workers=1, collate_fn=lambda items: object()))


def test_workers_of_one_loader_serve_several_epochs() -> None:
    loader = DataLoader(Numbers(6), batch_size=2, num_workers=2, persistent_workers=True, worker_init_fn=lambda i: None)
    first = [w.pid for w in (list(loader), loader._workers)[1]]
    list(loader)
    assert [w.pid for w in loader._workers] == first
    for batch in loader:
        assert batch["label"].tolist() == [0, 1]
        break  # an epoch that is left early leaves no process behind
    assert loader._workers == []


def test_samplers_and_settings() -> None:
    assert list(BatchSampler(range(5), 2, False)) == [[0, 1], [2, 3], [4]]
    drawn = list(WeightedRandomSampler([0.0, 1.0], 10))
    assert drawn == [1] * 10
    assert [
        b.tolist() for b in DataLoader(TensorDataset(torch.arange(3)), batch_size=None, collate_fn=lambda row: row[0])
    ] == [0, 1, 2]
    for bad in (
        {"sampler": [1], "shuffle": True},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"num_workers": -1},
        {"prefetch_factor": 2},
    ):
        with pytest.raises(ValueError):
            DataLoader(Numbers(3), **bad)


def test_sets_of_sets() -> None:
    a, b = TensorDataset(torch.arange(3), torch.arange(3) * 10), TensorDataset(torch.arange(2), torch.arange(2))
    joined = ConcatDataset([a, b])
    assert len(joined) == 5 and joined[2][1].item() == 20 and joined[-1][0].item() == 1
    assert [i.item() for i, _ in Subset(a, [2, 0])] == [2, 0] and StackDataset(x=a, y=a)[1]["x"][0].item() == 1
    parts = random_split(Numbers(10), [0.7, 0.3], generator=torch.Generator().manual_seed(0))
    assert [len(p) for p in parts] == [7, 3] and sorted(i for p in parts for i in p.indices) == list(range(10))
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(Numbers(10), [3, 3])
