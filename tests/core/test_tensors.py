"""Tensors: dtypes, promotion, text, indexing, views, writes. NumPy is the oracle where it means the same."""

import operator
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import headrace as torch


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_the_package_imports_nothing_else() -> None:
    assert run("import headrace, sys; print('numpy' in sys.modules, 'headrace.tensors' in sys.modules)").split() == [
        "False",
        "False",
    ]


@pytest.mark.parametrize(
    "first",
    ["headrace.nn", "headrace.optim", "headrace.autograd", "headrace.autograd.tape", "headrace.functional", "headrace.tensors",
     "headrace.utils.data", "headrace.data", "headrace.jit", "headrace.linalg", "headrace.nn.functional", "headrace.eager"],
)  # fmt: skip
def test_every_order_of_imports_works(first: str) -> None:
    assert run(
        f"import {first}, headrace; print(headrace.tensor([1]).dtype, headrace.autograd.grad.__name__)"
    ).split() == ["headrace.int64", "grad"]


def test_one_module_under_two_names() -> None:
    import headrace.utils.data

    import headrace.data

    assert headrace.utils.data is headrace.data
    from headrace.utils.data.dataset import Dataset

    assert Dataset is headrace.data.Dataset


def test_dtypes_of_new_tensors() -> None:
    assert torch.tensor([1, 2]).dtype is torch.int64 and torch.tensor([1.0]).dtype is torch.float32
    assert torch.tensor([True]).dtype is torch.bool and torch.tensor(np.ones(2)).dtype is torch.float64
    assert torch.tensor([[1, 2], [3, 4]], dtype=torch.float32).tolist() == [[1, 2], [3, 4]]
    assert str(torch.float32) == "headrace.float32" and torch.float is torch.float32 and torch.long is torch.int64
    assert torch.zeros(2, dtype=torch.bfloat16).dtype is torch.bfloat16
    with pytest.raises(ValueError, match="equal length"):
        torch.tensor([[1, 2], [3]])
    with pytest.raises(TypeError):
        torch.tensor(["text"])


PROMOTIONS = [
    (torch.int64, 1.5, "float32"), (torch.int32, 2, "int32"), (torch.float16, 2.5, "float16"), (torch.bool, 1, "int64"), (torch.uint8, True, "uint8"),
    (torch.int64, torch.float16, "float16"), (torch.uint8, torch.int8, "int16"), (torch.float16, torch.bfloat16, "float32"), (torch.int32, torch.int64, "int64"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "want"), PROMOTIONS)
def test_promotion(left, right, want: str) -> None:
    a = torch.ones(2, dtype=left)
    b = right if isinstance(right, int | float) else torch.ones(2, dtype=right)
    assert (a + b).dtype.name == want and (b * a).dtype.name == want


def test_scalars_of_rank_zero_are_weak() -> None:
    x = torch.ones(2, dtype=torch.float32)
    assert (x + torch.tensor(1.0, dtype=torch.float64)).dtype is torch.float32
    assert (torch.ones(2, dtype=torch.int32) * torch.tensor(2)).dtype is torch.int32
    assert (torch.ones(2, dtype=torch.int32) + torch.tensor(0.5)).dtype is torch.float32


def test_integer_division_and_modulo_agree_with_python() -> None:
    a, b = [-7, 7, -7, 7], [2, 2, -2, -2]
    x, y = torch.tensor(a), torch.tensor(b)
    assert (x // y).tolist() == [p // q for p, q in zip(a, b)] and (x % y).tolist() == [p % q for p, q in zip(a, b)]
    assert (x / y).tolist() == [p / q for p, q in zip(a, b)]
    f, g = x.double() / 3, y.double()
    assert (f // g).tolist() == [p // q for p, q in zip(f.tolist(), g.tolist())]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        x // torch.zeros(4, dtype=torch.int64)


def test_reflected_and_in_place_operators() -> None:
    x = torch.tensor([1.0, 2.0])
    assert (1 - x).tolist() == [0, -1] and (2 / x).tolist() == [2, 1] and (2**x).tolist() == [2, 4]
    y = x
    y += 1
    y *= 2
    assert x.tolist() == [4, 6] and x._version == 2
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.ones(2, dtype=torch.int64).__iadd__(0.5)
    with pytest.raises(RuntimeError, match="broadcast shape"):
        torch.ones(1).add_(torch.ones(3))
    assert (~torch.tensor([True, False])).tolist() == [False, True]
    assert (torch.tensor([6]) & 3).tolist() == [2] and (torch.tensor([1]) << 3).tolist() == [8]


TEXTS = [
    (lambda: torch.tensor([1.0, 2.0]), "tensor([1., 2.])"),
    (lambda: torch.tensor(3), "tensor(3)"),
    (lambda: torch.tensor([[0.5, -1.25]]), "tensor([[ 0.5000, -1.2500]])"),
    (lambda: torch.tensor([1.0, 2.0], requires_grad=True), "tensor([1., 2.], requires_grad=True)"),
    (lambda: torch.tensor([1, 2], dtype=torch.int32), "tensor([1, 2], dtype=headrace.int32)"),
    (lambda: torch.zeros(0, 3), "tensor([], size=(0, 3))"),
    (lambda: torch.tensor([True, False]), "tensor([ True, False])"),
    (lambda: torch.tensor([1e-5, 1.0]), "tensor([1.0000e-05, 1.0000e+00])"),
    (lambda: torch.tensor([float("nan"), float("inf")]), "tensor([nan, inf])"),
    (lambda: torch.arange(1001), "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
    (lambda: torch.nn.Parameter(torch.ones(1)), "Parameter containing:\ntensor([1.], requires_grad=True)"),
]


@pytest.mark.parametrize(("make", "want"), TEXTS)
def test_text(make, want: str) -> None:
    assert repr(make()) == want


@pytest.mark.peer
def test_text_is_torchs() -> None:
    peer = pytest.importorskip(
        "torch", reason="the text of the same tensors in torch is compared where it is installed"
    )
    rng = np.random.default_rng(0)
    for shape in ((), (3,), (2, 3), (2, 2, 2), (1200,), (40, 40), (0,)):
        for scale in (1.0, 1e-6, 1e6, 1e12):
            x = (rng.standard_normal(shape) * scale).astype(np.float32)
            assert repr(torch.tensor(x)) == repr(peer.tensor(x)).replace("torch.", "headrace.")
        whole = rng.integers(-50, 50, shape)
        assert repr(torch.tensor(whole)) == repr(peer.tensor(whole)).replace("torch.", "headrace.")


def indices(shape: tuple[int, ...]) -> st.SearchStrategy:
    return hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True).filter(
        lambda index: all(
            not isinstance(i, slice) or (i.step or 1) > 0 for i in (index if isinstance(index, tuple) else (index,))
        )
    )


@settings(max_examples=150)
@given(st.data())
def test_basic_indexing_is_numpys(data) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    x = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    index = data.draw(indices(shape))
    got = torch.tensor(x)[index]
    np.testing.assert_array_equal(got.numpy(), x[index])
    assert got.shape == x[index].shape
    written, expected = torch.tensor(x), x.copy()
    written[index] = -1.0
    expected[index] = -1.0
    np.testing.assert_array_equal(written.numpy(), expected)


@settings(max_examples=100)
@given(st.data())
def test_integer_indexing_is_numpys(data) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4))
    x = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    count = data.draw(st.integers(1, len(shape)))
    places = hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3)
    size = data.draw(places)
    entries = [
        data.draw(hnp.arrays(np.int64, size, elements=st.integers(-shape[i], shape[i] - 1))) for i in range(count)
    ]
    if count < len(shape) and data.draw(st.booleans()):
        entries[0] = slice(None)
    index = tuple(entries)
    tensors = tuple(e if isinstance(e, slice) else torch.tensor(e) for e in index)
    np.testing.assert_array_equal(torch.tensor(x)[tensors].numpy(), x[index])
    leaf = torch.tensor(x.astype(np.float64)).requires_grad_()
    leaf[tensors].sum().backward()
    want = np.zeros(shape)
    np.add.at(want, index, 1.0)
    np.testing.assert_array_equal(leaf.grad.numpy(), want)


def test_masks_and_errors_of_indices() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert x[x > 2].tolist() == [3, 4, 5] and x[torch.tensor([False, True])].tolist() == [[3, 4, 5]]
    x[x > 3] = 0
    assert x.tolist() == [[0, 1, 2], [3, 0, 0]]
    for bad, text in (
        (5, "out of bounds"),
        ((0, 0, 0), "too many indices"),
        (torch.tensor([9]), "out of bounds"),
        (1.5, "valid indices"),
    ):
        with pytest.raises(IndexError, match=text):
            x[bad]
    with pytest.raises(ValueError, match="step"):
        x[::-1]
    with pytest.raises(IndexError, match="mask"):
        x[torch.tensor([True, False, True])]


def test_writes_with_history() -> None:
    x = torch.zeros(3, 3, dtype=torch.float64)
    v = torch.tensor([1.0, 2.0], dtype=torch.float64).requires_grad_()
    y = x * 1
    y[[0, 2], [1, 1]] = v * 3
    y[1] = v[0]
    (y * torch.arange(9).reshape(3, 3)).sum().backward()
    assert v.grad.tolist() == [3 * 1 + 3 + 4 + 5, 3 * 7]


def test_views_share_memory() -> None:
    x = torch.arange(6)
    y = x.view(2, 3).t()[1:]
    y[0, 0] = 100
    assert x[1].item() == 100 and y._is_view() and y._version == x._version == 1
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.view(2, 3).t().view(6)
    assert x.view(2, 3).t().reshape(6).tolist() == [0, 3, 100, 4, 2, 5]
    array = x.numpy()
    array[0] = 7
    assert x[0].item() == 7 and torch.from_numpy(array)[0].item() == 7


def test_questions() -> None:
    x = torch.zeros(2, 3)
    assert x.shape == (2, 3) == x.size() and x.size(-1) == 3 and x.dim() == 2 and x.numel() == 6 and len(x) == 2
    assert (
        x.stride() == (3, 1)
        and not x.t().is_contiguous()
        and x.t().contiguous().is_contiguous()
        and x.device.type == "cpu"
    )
    assert x.T.shape == (3, 2) and x[0, 0].item() == 0.0 and float(x[0, 0]) == 0.0 and not bool(x[0, 0])
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(x)
    with pytest.raises(RuntimeError, match="requires grad"):
        torch.ones(1, requires_grad=True).numpy()
    with pytest.raises(RuntimeError, match="no device"):
        torch.zeros(1, device="cuda")
    assert repr(x.shape) == "headrace.Size([2, 3])" and x.shape.numel() == 6
    assert np.asarray(x).shape == (2, 3) and torch.from_dlpack(x).shape == x.shape


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.eq])
def test_broadcasting(op) -> None:
    rng = np.random.default_rng(0)
    for left, right in (((3, 1), (1, 4)), ((), (2, 2)), ((2, 3, 4), (4,)), ((0, 3), (1, 3)), ((1,), (33,))):
        a, b = rng.standard_normal(left).astype(np.float32), rng.standard_normal(right).astype(np.float32)
        np.testing.assert_array_equal(op(torch.tensor(a), torch.tensor(b)).numpy(), op(a, b))


def test_seeds() -> None:
    torch.manual_seed(3)
    first = [
        torch.rand(3),
        torch.randn(2, 2),
        torch.randint(0, 9, (4,)),
        torch.randperm(5),
        torch.bernoulli(torch.full((4,), 0.5)),
    ]
    torch.manual_seed(3)
    again = [
        torch.rand(3),
        torch.randn(2, 2),
        torch.randint(0, 9, (4,)),
        torch.randperm(5),
        torch.bernoulli(torch.full((4,), 0.5)),
    ]
    assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(first, again))
    state = torch.get_rng_state()
    a = torch.rand(4)
    torch.set_rng_state(state)
    assert torch.equal(a, torch.rand(4))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(torch.rand(2, generator=generator), torch.rand(2, generator=torch.Generator().manual_seed(1)))


def test_random_numbers_have_their_distributions() -> None:
    torch.manual_seed(0)
    u, n = torch.rand(20000), torch.randn(20000)
    assert (
        abs(u.mean().item() - 0.5) < 0.01
        and abs(u.var().item() - 1 / 12) < 0.005
        and u.min().item() >= 0
        and u.max().item() < 1
    )
    assert abs(n.mean().item()) < 0.03 and abs(n.std().item() - 1) < 0.03
    counts = torch.multinomial(torch.tensor([0.1, 0.2, 0.7]), 20000, replacement=True).bincount()
    np.testing.assert_allclose(counts.numpy() / 20000, [0.1, 0.2, 0.7], atol=0.02)
    kept = torch.nn.functional.dropout(torch.ones(20000), 0.3)
    assert abs((kept == 0).float().mean().item() - 0.3) < 0.02 and abs(kept.max().item() - 1 / 0.7) < 1e-6


def test_warnings_of_numpy_stay_silent_and_its_settings_unchanged() -> None:
    before = np.geterr()
    with np.errstate(all="warn"):
        assert (torch.tensor([1.0]) / 0).item() == float("inf") and torch.tensor([-1.0]).log().isnan().item()
    assert np.geterr() == before


def test_layouts_and_memory_formats_are_taken() -> None:
    x = torch.ones(2, 3, 4, 4)
    assert x.layout is torch.strided and x.to(memory_format=torch.channels_last).shape == x.shape
    assert x.half(memory_format=torch.preserve_format).dtype is torch.float16
    with pytest.raises(RuntimeError, match="required rank 4 tensor"):
        torch.ones(2).to(memory_format=torch.channels_last)
    with pytest.raises(TypeError, match="memory_format"):
        x.to(memory_format="channels_last")
