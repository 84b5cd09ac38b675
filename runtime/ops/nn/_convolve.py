"""The arithmetic of convolutions on NumPy arrays: one batched matrix product over patches.

x [N, C, *sizes], w [M, C/groups, *kernel], y [N, M, *counts].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.runtime.ops.axes import sizes_of
from headrace.runtime.ops.window import Window, patches, scatter

# Images are taken one by one where the patches of all would need more elements than this.
PATCH_LIMIT = 1 << 24


def convolve(x: Any, w: Any, window: Window, groups: int) -> Any:
    """The convolution; accumulates in the dtype of the inputs."""
    counts = sizes_of(window.output(x.shape[2:]))
    window = window.resolve(x.shape[2:])
    batch, channels, features = x.shape[0], x.shape[1], w.shape[0]
    padded = window.pad(x, 0, counts)
    weights = w.reshape(groups, features // groups, -1)
    y = np.empty((batch, features, *counts), np.result_type(x, w))
    for part, images in _parts(batch, channels * int(np.prod(window.kernel)) * int(np.prod(counts))):
        columns = patches(padded[part], window, counts).reshape(images, groups, weights.shape[2], int(np.prod(counts)))
        y[part] = np.matmul(weights, columns).reshape(images, features, *counts)
    return y


def input_gradient(dy: Any, w: Any, sizes: Sequence[int], window: Window, groups: int) -> Any:
    """The gradient of `convolve` for x [N, C, *sizes]; also the transposed convolution."""
    counts = dy.shape[2:]
    window = window.resolve(sizes)
    batch, features = dy.shape[:2]
    channels = w.shape[1] * groups
    weights = np.swapaxes(w.reshape(groups, features // groups, -1), 1, 2)
    dx = np.empty((batch, channels, *sizes), np.result_type(dy, w))
    for part, images in _parts(batch, channels * int(np.prod(window.kernel)) * int(np.prod(counts))):
        rows = dy[part].reshape(images, groups, features // groups, int(np.prod(counts)))
        columns = np.matmul(weights, rows).reshape(images, channels, *window.kernel, *counts)
        dx[part] = scatter(columns, window, sizes, counts)
    return dx


def weight_gradient(dy: Any, x: Any, window: Window, groups: int) -> Any:
    """The gradient of `convolve` for w [M, C/groups, *kernel]."""
    counts = dy.shape[2:]
    window = window.resolve(x.shape[2:])
    batch, features, channels = dy.shape[0], dy.shape[1], x.shape[1]
    padded = window.pad(x, 0, counts)
    depth = channels // groups * int(np.prod(window.kernel))
    dw = np.zeros((groups, features // groups, depth), np.result_type(dy, x))
    for part, images in _parts(batch, channels * int(np.prod(window.kernel)) * int(np.prod(counts))):
        columns = patches(padded[part], window, counts).reshape(images, groups, depth, int(np.prod(counts)))
        rows = dy[part].reshape(images, groups, features // groups, int(np.prod(counts)))
        dw += np.matmul(rows, np.swapaxes(columns, 2, 3)).sum(axis=0)
    return dw.reshape(features, channels // groups, *window.kernel)


def _parts(batch: int, elements: int) -> list[tuple[slice, int]]:
    """Slices of the batch whose patches stay within the limit, and how many images each has."""
    step = max(1, PATCH_LIMIT // max(1, elements))
    starts = range(0, batch, step)
    return [(slice(start, start + step), min(batch - start, step)) for start in starts]
