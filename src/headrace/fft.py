"""torch.fft: discrete Fourier transforms along one dimension, with gradients (see functional.fourier)."""

import headrace.functional  # noqa: F401  attaches the tensor methods
from headrace.functional.fourier import fft, fftfreq, fftshift, ifft, ifftshift, irfft, rfft, rfftfreq

__all__ = ["fft", "fftfreq", "fftshift", "ifft", "ifftshift", "irfft", "rfft", "rfftfreq"]
