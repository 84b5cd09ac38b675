"""The short-time Fourier transform and its inverse."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.functional.base import both, function
from headrace.functional.complexes import is_complex, view_as_real
from headrace.functional.fourier import fft, ifft, irfft, rfft
from headrace.functional.masks import unfold
from headrace.functional.shape import reshape, slice_axes, transpose
from headrace.tensors import Tensor, concrete, wrap


def _framing(
    n_fft: int, hop_length: int | None, win_length: int | None, window: Tensor | None, like: Tensor
) -> tuple[int, Tensor]:
    """(samples between frames, the window of n_fft real numbers)."""
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    if n_fft <= 0 or hop <= 0 or not 0 < width <= n_fft:
        raise RuntimeError(
            f"stft needs n_fft > 0, hop_length > 0 and 0 < win_length <= n_fft, but got n_fft={n_fft}, hop_length={hop},"
            f" win_length={width}"
        )
    dtype = like.dtype.to_real().numpy
    if window is None:
        window = wrap(np.ones(width, dtype))
    if tuple(window._data.shape) != (width,):
        raise RuntimeError(
            f"expected a 1D window tensor of size equal to win_length={width}, but got window with size {list(window.shape)}"
        )
    left = (n_fft - width) // 2
    if width < n_fft:
        zeros = (wrap(np.zeros(n, window._data.dtype)) for n in (left, n_fft - width - left))
        first, last = zeros
        window = ops.Concat(first, window, last, axis=0)
    return hop, window


@both
def stft(
    input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
    return_complex: bool | None = None, align_to_window: bool | None = None,
) -> Tensor:  # fmt: skip
    """The spectra [*, frequencies, frames] of windowed frames of a signal [*, samples]; complex, or [..., 2] where
    return_complex is False. With `center`, frame t is about sample t * hop_length of the signal padded by pad_mode."""
    if input._data.ndim not in (1, 2):
        raise RuntimeError(f"stft: expected a 1D or 2D tensor, but got {input._data.ndim}D")
    if return_complex is None and not is_complex(input) and (window is None or not is_complex(window)):
        raise RuntimeError("stft requires the return_complex parameter be given for real inputs")
    hop, weights = _framing(n_fft, hop_length, win_length, window, input)
    x = reshape(input, (1, -1)) if input._data.ndim == 1 else input
    if center:
        from headrace.nn.functional import pad

        half = n_fft // 2
        x = pad(x.unsqueeze(1), (half, half), pad_mode).squeeze(1)
    if x._data.shape[-1] < n_fft:
        raise RuntimeError(f"stft: expected 0 < n_fft <= {x._data.shape[-1]}, but got n_fft={n_fft}")
    frames = unfold(x, -1, n_fft, hop) * weights
    whole = is_complex(frames)
    half_only = not whole if onesided is None else onesided
    if half_only and whole:
        raise RuntimeError("Cannot have onesided output if window or input is complex")
    norm = "ortho" if normalized else None
    spectra = transpose(rfft(frames, norm=norm) if half_only else fft(frames, norm=norm), -2, -1)
    found = spectra if input._data.ndim == 2 else spectra.squeeze(0)
    return view_as_real(found) if return_complex is False else found


@both
def istft(
    input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None,
    return_complex: bool = False,
) -> Tensor:  # fmt: skip
    """The signal [*, samples] whose stft comes nearest to [*, frequencies, frames] (Griffin and Lim 1984): frames are
    windowed again, added where they overlap, and divided by the sum of squared windows. RuntimeError where that is 0."""
    if not is_complex(input):
        raise RuntimeError(
            "istft requires a complex-valued input tensor matching the output from stft with return_complex=True."
        )
    if input._data.ndim not in (2, 3):
        raise RuntimeError(f"istft: expected a tensor with 2 or 3 dimensions, but got {input._data.ndim}")
    hop, weights = _framing(n_fft, hop_length, win_length, window, input)
    x = input if input._data.ndim == 3 else input.unsqueeze(0)
    half_only = x._data.shape[-2] != n_fft if onesided is None else onesided
    if x._data.shape[-2] != (n_fft // 2 + 1 if half_only else n_fft):
        raise RuntimeError(
            f"istft: expected the frequency dimension (3rd to the last) of the input tensor to match n_fft={n_fft}, but got {x.shape[-2]}"
        )
    if return_complex and half_only:
        raise RuntimeError("cannot have onesided output if window or input is complex")
    norm, spectra = "ortho" if normalized else None, transpose(x, -2, -1)
    if return_complex:
        frames = ifft(spectra, norm=norm)
    else:  # the second half of a whole spectrum of real numbers says nothing new
        frames = irfft(slice_axes(spectra, [(2, 0, n_fft // 2 + 1, 1)]), n_fft, norm=norm)
    count = frames._data.shape[-2]
    total = n_fft + hop * (count - 1)
    signal = _overlapped(frames * weights, hop, total)
    squares = concrete(weights, "istft()") ** 2
    envelope = np.zeros(total, squares.dtype)
    for i in range(count):
        envelope[i * hop : i * hop + n_fft] += squares
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else total - start if center else total
    stop = min(end, total)
    if stop > start and np.abs(envelope[start:stop]).min() <= 1e-11:
        raise RuntimeError("window overlap add min: 1: the squared windows add up to 0 at some sample")
    found = slice_axes(signal, [(1, start, stop, 1)]) / wrap(envelope[start:stop])
    if end > total:
        from headrace.nn.functional import pad

        found = pad(found, (0, end - total))
    return found if input._data.ndim == 3 else found.squeeze(0)


def _overlapped(frames: Tensor, hop: int, total: int) -> Tensor:
    """Frames [batch, frames, n] added at steps of hop samples: [batch, total]."""
    batch, count, n = frames._data.shape
    places = (np.arange(count)[:, None] * hop + np.arange(n)).reshape(-1)
    index = np.broadcast_to(places, (batch, count * n)).astype(np.int64)
    empty = wrap(np.zeros((batch, total), frames._data.dtype))
    return ops.ScatterElements(
        empty, np.ascontiguousarray(index), reshape(frames, (batch, count * n)), axis=1, reduction="add"
    )


def _window(name: str, alpha: float, doc: str) -> None:
    def call(
        window_length: int, periodic: bool = True, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
    ) -> Tensor:  # fmt: skip
        from headrace.signal import cosine_window

        return cosine_window(alpha, window_length, not periodic, dtype, None, requires_grad)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    function(call)


_window("hann_window", 0.5, "1/2 - cos / 2 over `window_length` samples; periodic: one of a repeated window.")
_window("hamming_window", 0.54, "0.54 - 0.46 cos over `window_length` samples; periodic: one of a repeated window.")
