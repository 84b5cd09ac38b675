"""Complex numbers and Fourier transforms: values against NumPy, gradients against finite differences, inverses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace
import headrace as torch
from headrace.autograd import gradcheck, gradgradcheck


def complex_numbers(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@settings(max_examples=40)
@given(
    st.sampled_from(["fft", "ifft", "rfft", "irfft"]),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 12)),
    st.sampled_from([None, "backward", "ortho", "forward"]),
    st.sampled_from([0, -1]),
)
def test_transforms_are_numpys(name: str, size: int, n: int | None, norm: str | None, dim: int) -> None:
    shape = (size, 3) if dim == 0 else (3, size)
    x = complex_numbers(*shape).astype(np.complex64)
    x = x.real.copy() if name == "rfft" else x
    if name == "irfft" and n is None and size == 1:
        return  # 2 * (1 - 1) points: refused below
    got = getattr(headrace.fft, name)(torch.tensor(x), n, dim, norm)
    want = getattr(np.fft, name)(x, n, axis=dim, norm=norm)
    assert got.dtype is (torch.float32 if name == "irfft" else torch.complex64)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [None, 3, 8])
@pytest.mark.parametrize("norm", [None, "ortho"])
def test_gradients_of_transforms(n: int | None, norm: str | None) -> None:
    x = torch.tensor(np.random.default_rng(1).standard_normal((2, 6)), requires_grad=True)

    def size(spectrum: torch.Tensor) -> torch.Tensor:
        return (spectrum * (1.5 - 0.5j)).abs()

    for call in (headrace.fft.fft, headrace.fft.ifft, headrace.fft.rfft):
        assert gradcheck(lambda v, call=call: size(call(v, n, norm=norm)), (x,))
    assert gradcheck(lambda v: headrace.fft.irfft(headrace.fft.fft(v) * (1 + 2j), n, norm=norm), (x,))
    assert gradgradcheck(lambda v: size(headrace.fft.rfft(v, n, norm=norm)), (x,))


def test_gradients_of_complex_arithmetic() -> None:
    """d|z|²/dz is 2z in torch's convention (dL/da + i dL/db)."""
    z = torch.tensor(complex_numbers(3), requires_grad=True)
    (z.abs() * z.abs()).sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), 2 * z.detach().numpy())
    x = torch.tensor(np.random.default_rng(2).standard_normal((4, 3)), requires_grad=True)
    w = torch.tensor(complex_numbers(3, seed=3))
    assert gradcheck(lambda v: torch.view_as_real(w / (v * w + 2j) - v.conj() * w), (x,))
    assert gradcheck(lambda v: torch.polar(v * v + 1, v).sgn().imag(), (x,))
    assert torch.tensor(0j).abs().item() == 0


def test_complex_gradients_that_are_not_there_are_refused() -> None:
    z = torch.tensor(complex_numbers(3), requires_grad=True)
    with pytest.raises(RuntimeError, match="Exp has no gradient for complex numbers"):
        z.exp().abs().sum().backward()


@pytest.mark.parametrize("call, match", [
    (lambda x: headrace.fft.fft(x, 0), "Invalid number of data points"),
    (lambda x: headrace.fft.fft(x, norm="half"), "Invalid normalization mode"),
    (lambda x: headrace.fft.rfft(x * 1j), "expects a real input"),
    (lambda x: headrace.fft.fft(x, dim=2), "Dimension out of range"),
    (lambda x: torch.stft(x, 4), "return_complex"),
    (lambda x: torch.stft(x, 4, window=torch.ones(3), return_complex=True), "window"),
    (lambda x: torch.istft(x, 4), "complex-valued input"),
])  # fmt: skip
def test_refusals(call: object, match: str) -> None:
    with pytest.raises((RuntimeError, IndexError), match=match):
        call(torch.ones(2, 8))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_signal_comes_back_from_its_spectra(center: bool, normalized: bool) -> None:
    x = torch.tensor(np.random.default_rng(4).standard_normal((2, 64)).astype(np.float32))
    window = torch.hamming_window(16)
    spectra = torch.stft(x, 16, 4, window=window, center=center, normalized=normalized, return_complex=True)
    assert tuple(spectra.shape) == (2, 9, 17 if center else 13)
    back = torch.istft(spectra, 16, 4, window=window, center=center, normalized=normalized, length=64)
    np.testing.assert_allclose(back.numpy(), x.numpy(), atol=1e-5)
    one = torch.stft(x[0], 16, 4, window=window, center=center, normalized=normalized, return_complex=False)
    np.testing.assert_allclose(torch.view_as_complex(one).numpy(), spectra[0].numpy(), atol=1e-5)


def test_gradient_of_stft() -> None:
    x = torch.tensor(np.random.default_rng(5).standard_normal(20), requires_grad=True)
    assert gradcheck(lambda v: torch.stft(v, 6, 3, win_length=4, return_complex=True).abs(), (x,))
