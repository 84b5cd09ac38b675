"""DataLoader: batches of a data set, in this process or from forked workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from headrace.data.collate import default_collate, default_convert
from headrace.data.dataset import IterableDataset
from headrace.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler
from headrace.data.worker import Worker, WorkerInfo
from headrace.generators import Generator, stream

T = TypeVar("T", covariant=True)


class _Endless(Sampler[None]):
    """The sampler of a data set that only has an order of its own."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


class DataLoader(Generic[T]):
    """Iterates over a data set in batches.

    dataset: with `__getitem__` and `__len__`, or an IterableDataset. batch_size None: samples one by one, as they are.
    num_workers: forked processes that make the batches; the order of batches does not depend on how many there are.
    """

    def __init__(self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None, sampler: Any = None, batch_sampler: Any = None, num_workers: int = 0,
                 collate_fn: Callable[[list[Any]], Any] | None = None, pin_memory: bool = False, drop_last: bool = False, timeout: float = 0,
                 worker_init_fn: Callable[[int], None] | None = None, multiprocessing_context: Any = None, generator: Generator | None = None, *,
                 prefetch_factor: int | None = None, persistent_workers: bool = False, pin_memory_device: str = "", in_order: bool = True) -> None:  # fmt: skip
        if num_workers < 0:
            raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError(
                "prefetch_factor option could only be specified in multiprocessing. let num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
            )
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers option needs num_workers > 0")
        self.iterable = isinstance(dataset, IterableDataset)
        if self.iterable and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError("DataLoader with IterableDataset: expected unspecified shuffle, sampler and batch_sampler")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError(
                "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
            )
        if batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        self.dataset, self.batch_size, self.drop_last, self.generator = dataset, batch_size, drop_last, generator
        self.num_workers, self.timeout, self.worker_init_fn = num_workers, timeout, worker_init_fn
        self.prefetch_factor, self.persistent_workers, self.pin_memory = (
            prefetch_factor or 2,
            persistent_workers,
            pin_memory,
        )
        if sampler is None:
            sampler = (
                _Endless()
                if self.iterable
                else RandomSampler(dataset, generator=generator)
                if shuffle
                else SequentialSampler(dataset)
            )
        if batch_sampler is not None:
            self.batch_size = None
        elif batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._workers: list[Worker] = []

    def __len__(self) -> int:
        if self.iterable:
            count = len(self.dataset)
            if self.batch_size is None:
                return count
            return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        # Drawn whatever the number of workers, so that it does not change what is drawn later.
        seed = int(stream(self.generator).integers(0, 2**62))
        if self.num_workers == 0:
            make = self._iterate() if self.iterable else self._fetch
            return self._here(make)
        return self._from_workers(seed)

    def _fetch(self, index: Any) -> Any:
        """One batch of a data set with `__getitem__`."""
        if self.batch_sampler is None:
            return self.collate_fn(self.dataset[index])
        if hasattr(self.dataset, "__getitems__"):
            return self.collate_fn(self.dataset.__getitems__(index))
        return self.collate_fn([self.dataset[i] for i in index])

    def _iterate(self) -> Callable[[Any], Any]:
        """A function that answers the next batch of an iterable data set; StopIteration at its end."""
        samples = iter(self.dataset)

        def following(index: Any) -> Any:
            if self.batch_sampler is None:
                return self.collate_fn(next(samples))
            batch = []
            for _ in index:
                try:
                    batch.append(next(samples))
                except StopIteration:
                    break
            if not batch or (self.drop_last and len(batch) < len(index)):
                raise StopIteration
            return self.collate_fn(batch)

        return following

    def _here(self, make: Callable[[Any], Any]) -> Iterator[Any]:
        for index in self._indices():
            try:
                batch = make(index)
            except StopIteration:
                if self.iterable:
                    return
                raise
            yield batch

    def _indices(self) -> Iterator[Any]:
        return iter(self.sampler if self.batch_sampler is None else self.batch_sampler)

    def _start(self, seed: int) -> list[Worker]:
        make = self._iterate if self.iterable else lambda: self._fetch
        count = self.num_workers
        return [Worker(WorkerInfo(i, count, seed + i, self.dataset), make, self.worker_init_fn) for i in range(count)]

    def _from_workers(self, seed: int) -> Iterator[Any]:
        workers = self._workers or self._start(seed)
        if self.persistent_workers and not self.iterable:
            self._workers = workers
        pending: deque[Worker] = deque()
        live, turn = list(workers), 0
        indices = self._indices()
        clean = False
        try:
            while True:
                while live and len(pending) < self.prefetch_factor * self.num_workers:
                    try:
                        index = next(indices)
                    except StopIteration:
                        live = []
                        break
                    worker = live[turn % len(live)]
                    turn += 1
                    worker.ask(_plain(index))
                    pending.append(worker)
                if not pending:
                    clean = True
                    return
                worker = pending.popleft()
                found = worker.answer(self.timeout)
                if "end" in found:
                    live = [w for w in live if w is not worker]
                    continue
                yield found["value"]
        finally:
            if not (clean and self._workers):
                self._workers = []
                for worker in workers:
                    worker.stop()

    def __del__(self) -> None:
        for worker in getattr(self, "_workers", []):
            worker.stop()


def _plain(index: Any) -> Any:
    """Numbers of NumPy and tensors as Python's own, for the wire."""
    if isinstance(index, list | tuple):
        return [_plain(i) for i in index]
    return index.item() if hasattr(index, "item") else index
