"""Data sets, samplers, and the loader that makes batches of them."""

from __future__ import annotations

import headrace.functional  # attaches the tensor methods
from headrace.data.collate import default_collate, default_convert
from headrace.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from headrace.data.loader import DataLoader
from headrace.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from headrace.data.worker import get_worker_info
