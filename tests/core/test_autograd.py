"""Backward: values against finite differences, and everything that can be asked of the tape."""

import math

import numpy as np
import pytest

import headrace as torch
import headrace.nn.functional as F
from headrace.autograd import Function, grad, gradcheck, gradgradcheck


def leaf(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed + sum(shape))
    return torch.tensor(rng.uniform(low, high, shape)).requires_grad_()


POSITIVE = {"low": 0.2, "high": 2.0}
# name -> (function, shapes of its inputs, range of values): one or more for each family of operators.
CASES = {
    "add": (lambda a, b: a + b * 2, ((3, 1), (4,)), {}),
    "mul": (lambda a, b: a * b, ((2, 3), (3,)), {}),
    "div": (lambda a, b: a / b, ((2, 3), (2, 1)), POSITIVE),
    "pow": (lambda a, b: a**b, ((2, 3), (3,)), POSITIVE),
    "square": (lambda a: a**2, ((2, 3),), {}),
    "remainder": (lambda a: a % 0.7, ((5,),), POSITIVE),
    "unary": (lambda a: a.exp() + a.sin() * a.tanh() + a.sigmoid().log(), ((2, 3),), {}),
    "special": (lambda a: torch.erf(a) + torch.log1p(a) + torch.lgamma(a + 1) + torch.rsqrt(a), ((4,),), POSITIVE),
    "atan2": (torch.atan2, ((3,), (3,)), POSITIVE),
    "where": (lambda a, b: torch.where(a > 0, a * b, b), ((3, 2), (2,)), {}),
    "clamp": (lambda a: a.clamp(-0.5, 0.7) * a, ((7,),), {}),
    "sum": (lambda a: a.sum(1) * a.mean(), ((3, 4),), {}),
    "prod": (lambda a: a.prod(0), ((3, 4),), {}),
    "max": (lambda a: a.max(1)[0] + a.amin(1), ((3, 4),), {}),
    "var": (lambda a: a.var(0) + a.std(0, unbiased=False), ((4, 3),), {}),
    "logsumexp": (lambda a: a.logsumexp(0), ((3, 4),), {}),
    "norm": (lambda a: a.norm(dim=1) + a.norm(3, dim=1), ((3, 4),), POSITIVE),
    "cumsum": (lambda a: a.cumsum(1) * a.cumprod(0), ((3, 4),), POSITIVE),
    "logcumsumexp": (lambda a: a.logcumsumexp(1), ((2, 4),), {}),
    "views": (lambda a: a.reshape(4, 3).t().unsqueeze(1).expand(3, 2, 4).flatten(1), ((3, 4),), {}),
    "slices": (lambda a: a[1:, ::2] * a[0, None, :2], ((3, 4),), {}),
    "gather": (lambda a: a[[0, 2, 0]] + a[:, [1, 1, 3, 0]][0], ((3, 4),), {}),
    "grid": (lambda a: a[[0, 1], [2, 0]], ((3, 4),), {}),
    "mask": (lambda a: a[np.array([True, False, True])], ((3, 4),), {}),
    "scatter": (lambda a, b: a.index_add(0, torch.tensor([0, 2]), b), ((3, 4), (2, 4)), {}),
    "cat": (lambda a, b: torch.cat([a, b, a], 1), ((2, 3), (2, 1)), {}),
    "split": (lambda a: a.split([1, 3], 1)[1] * a.chunk(2, 1)[0][:, :1], ((2, 4),), {}),
    "pad": (lambda a: F.pad(a, (1, 2, 0, 1)) * 2, ((2, 3),), {}),
    "tile": (lambda a: a.repeat(2, 2).flip(0), ((2, 3),), {}),
    "sort": (lambda a: a.sort(1)[0] * torch.arange(4), ((3, 4),), {}),
    "matmul": (lambda a, b: a @ b, ((2, 3, 4), (4, 2)), {}),
    "linear": (F.linear, ((5, 3), (2, 3), (2,)), {}),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), ((2, 3, 2), (2, 2, 2)), {}),
    "inverse": (lambda a: torch.linalg.inv(a + 3 * torch.eye(3, dtype=torch.float64)), ((3, 3),), {}),
    "conv": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), ((2, 2, 5, 4), (3, 2, 3, 2), (3,)), {}),
    "groups": (lambda x, w: F.conv2d(x, w, groups=2, dilation=2), ((1, 4, 5, 5), (2, 2, 2, 2)), {}),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), ((1, 2, 3, 3), (2, 2, 3, 3)), {}),
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1), ((1, 2, 5, 6),), {}),
    "avg_pool": (lambda x: F.avg_pool2d(x, 2, 1) + F.adaptive_avg_pool2d(x, 1), ((1, 2, 4, 4),), {}),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), ((4, 3, 2), (3,), (3,)), {}),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), ((3, 4), (4,), (4,)), {}),
    "group_norm": (lambda x: F.group_norm(x, 2), ((2, 4, 3),), {}),
    "softmax": (lambda x: F.softmax(x, 1) * F.log_softmax(x, 0), ((3, 4),), {}),
    "activations": (lambda x: F.gelu(x) + F.silu(x) + F.elu(x) + F.softplus(x) + F.hardswish(x) + F.mish(x), ((7,),), {}),
    "embedding": (lambda w: F.embedding(torch.tensor([[0, 2], [2, 1]]), w), ((3, 2),), {}),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 3, 1]), label_smoothing=0.1), ((3, 4),), {}),
    "plain_cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 3, 1])), ((3, 4),), {}),
    "bce": (lambda x: F.binary_cross_entropy(x, torch.full((3, 2), 0.3, dtype=torch.float64)), ((3, 2),), {"low": 0.1, "high": 0.9}),
    "bce_logits": (lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(4, dtype=torch.float64)), ((4,),), {}),
    "attention": (F.scaled_dot_product_attention, ((2, 3, 4), (2, 5, 4), (2, 5, 2)), {}),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), ((1, 1, 3, 3),), {}),
}  # fmt: skip
ONCE = {"inverse", "sort"}  # checked to the first order only: the second is covered by the operators' own test


def leaves(name: str) -> tuple[torch.Tensor, ...]:
    _, shapes, bounds = CASES[name]
    return tuple(leaf(*shape, seed=i, **bounds) for i, shape in enumerate(shapes))


@pytest.mark.parametrize("name", CASES)
def test_gradient(name: str) -> None:
    assert gradcheck(CASES[name][0], leaves(name))


@pytest.mark.parametrize("name", sorted(set(CASES) - ONCE))
def test_second_gradient(name: str) -> None:
    assert gradgradcheck(CASES[name][0], leaves(name), atol=1e-4)


def test_gradients_accumulate_and_are_not_shared() -> None:
    a, b = torch.ones(3).requires_grad_(), torch.ones(3).requires_grad_()
    (a + b).sum().backward()
    a.grad.mul_(5)
    assert b.grad.tolist() == [1, 1, 1]
    (a * 2).sum().backward()
    assert a.grad.tolist() == [7, 7, 7]


def test_backward_needs_a_scalar_or_a_gradient() -> None:
    x = torch.ones(3).requires_grad_()
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (x * 2).backward()
    (x * 2).backward(torch.tensor([1.0, 2.0, 3.0]))
    assert x.grad.tolist() == [2, 4, 6]
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.ones(1).backward()
    with pytest.raises(RuntimeError, match=r"[Mm]ismatch in shape"):
        (x * 2).backward(torch.ones(2))


def test_a_freed_graph_says_so() -> None:
    x = torch.ones(3).requires_grad_()
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [4, 4, 4]
    with pytest.raises(RuntimeError, match=r"second time.*retain_graph=True"):
        y.backward()


def test_saved_tensors_must_not_change() -> None:
    x = torch.ones(3).requires_grad_()
    y = x.exp()
    z = y.sum()
    y.add_(1)
    with pytest.raises(
        RuntimeError, match=r"modified by an inplace operation.*ExpBackward.*version 1; expected version 0"
    ):
        z.backward()
    a = x * 1
    b = (a + 1).sum()  # addition needs no values
    a.add_(1)
    b.backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_leaves_are_not_written() -> None:
    x = torch.ones(3).requires_grad_()
    for write in (lambda: x.add_(1), lambda: x[0].mul_(2), lambda: x.zero_()):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            write()
    with torch.no_grad():
        x.add_(1)
    assert x.tolist() == [2, 2, 2] and x._version == 1


def test_writes_through_views_reach_the_base() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).requires_grad_()
    base = x * 1
    row = base.reshape(2, 2)[1]
    other = base[2:]
    row.mul_(10)
    assert base.tolist() == [1, 2, 30, 40]
    (other * torch.tensor([1.0, 2.0])).sum().backward()
    assert x.grad.tolist() == [0, 0, 10, 20]
    x.grad = None
    base = x * 1
    base[1:3] = torch.tensor([5.0, 6.0])
    base[0] = x[3] * 2
    base.sum().backward()
    assert x.grad.tolist() == [0, 0, 0, 3]


def test_modes() -> None:
    x = torch.ones(2).requires_grad_()
    with torch.no_grad():
        assert not (x * 2).requires_grad and not torch.is_grad_enabled()
        with torch.enable_grad():
            assert (x * 2).requires_grad
    with torch.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @torch.no_grad()
    def quiet() -> bool:
        return (x * 2).requires_grad

    assert not quiet()
    with torch.inference_mode():
        y = x * 2
    assert y.is_inference()
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
        (y * x).sum()


def test_detach_shares_memory_and_version() -> None:
    x = torch.ones(2).requires_grad_()
    y = x * 1
    y.detach().add_(1)
    assert y.tolist() == [2, 2] and y._version == 1 and not y.detach().requires_grad


def test_hooks() -> None:
    x = torch.ones(2).requires_grad_()
    seen = []
    y = x * 3
    y.retain_grad()
    handle = y.register_hook(lambda g: seen.append(g.tolist()) or g * 2)
    x.register_hook(lambda g: g + 1)
    (y * y).sum().backward()
    assert seen == [[6, 6]] and y.grad.tolist() == [12, 12] and x.grad.tolist() == [37, 37]
    handle.remove()
    called = []
    x.register_post_accumulate_grad_hook(lambda t: called.append(t.grad.tolist()))
    x.grad = None
    (x * 1).sum().backward()
    assert called == [[2, 2]]


def test_grad_function() -> None:
    x, y = torch.ones(2).requires_grad_(), torch.ones(2).requires_grad_()
    z = (x**3).sum()
    (g,) = grad(z, x, create_graph=True)
    assert g.requires_grad and x.grad is None
    (gg,) = grad(g.sum(), x)
    assert gg.tolist() == [6, 6]
    with pytest.raises(RuntimeError, match="allow_unused"):
        grad((x * 2).sum(), y)
    assert grad((x * 2).sum(), [x, y], allow_unused=True)[1] is None
    assert grad((x * 2).sum(), y, materialize_grads=True)[0].tolist() == [0, 0]
    middle = x * 2
    (g,) = grad((middle * middle).sum(), middle)
    assert g.tolist() == [4, 4]


def test_backward_to_chosen_inputs() -> None:
    x, y = torch.ones(2).requires_grad_(), torch.ones(2).requires_grad_()
    (x * y).sum().backward(inputs=[x])
    assert x.grad.tolist() == [1, 1] and y.grad is None


def test_gradient_penalty() -> None:
    """Wasserstein critics differentiate the norm of a gradient."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64).requires_grad_()

    def penalty() -> torch.Tensor:
        (g,) = grad(net(x).sum(), x, create_graph=True)
        return ((g.norm(dim=1) - 1) ** 2).mean()

    penalty().backward()
    weight = net[0].weight
    for index in ((0, 0), (3, 2)):
        before = weight._data[index]
        values = []
        for step in (1e-6, -1e-6):
            weight._data[index] = before + step
            values.append(penalty().item())
        weight._data[index] = before
        assert math.isclose((values[0] - values[1]) / 2e-6, weight.grad[index].item(), rel_tol=1e-5, abs_tol=1e-8)


def test_second_derivative_of_a_net() -> None:
    """Physics-informed nets ask for u''(x)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.linspace(0, 1, 7, dtype=torch.float64).reshape(7, 1).requires_grad_()
    u = net(x)
    (first,) = grad(u.sum(), x, create_graph=True)
    (second,) = grad(first.sum(), x, create_graph=True)
    h = 1e-4
    with torch.no_grad():
        numerical = (net(x + h) - 2 * net(x) + net(x - h)) / h**2
    np.testing.assert_allclose(second.detach().numpy(), numerical.numpy(), atol=1e-5)
    (second**2).mean().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name != "2.bias")


def test_custom_function() -> None:
    class Cube(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert ctx.needs_input_grad == (True,)
            return g * 3 * x**2

    x = leaf(4)
    assert gradcheck(Cube.apply, x) and gradgradcheck(Cube.apply, x)
    y = Cube.apply(x)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_custom_function_with_several_outputs() -> None:
    class Both(Function):
        @staticmethod
        def forward(ctx, a, scale):
            ctx.scale = scale
            return a * scale, a > 0

        @staticmethod
        def backward(ctx, g, _):
            return g * ctx.scale, None

    x = torch.tensor([1.0, -2.0]).requires_grad_()
    y, positive = Both.apply(x, 3.0)
    assert positive.tolist() == [True, False] and not positive.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_anomaly_mode_names_the_operation() -> None:
    x = torch.zeros(2).requires_grad_()
    with torch.autograd.detect_anomaly():
        y = (x.sqrt() * 0).sum()
        with pytest.raises(RuntimeError, match=r"SqrtBackward.*nan"):
            y.backward()


def test_functional_products() -> None:
    from headrace.autograd.functional import hessian, jacobian, jvp, vjp

    x = torch.tensor([1.0, 2.0, 3.0])
    f = lambda t: t**3  # noqa: E731
    np.testing.assert_allclose(jacobian(f, x).numpy(), np.diag([3, 12, 27]))
    np.testing.assert_allclose(hessian(lambda t: (t**3).sum(), x).numpy(), np.diag([6, 12, 18]))
    v = torch.tensor([1.0, 0.0, 2.0])
    np.testing.assert_allclose(vjp(f, x, v)[1].numpy(), [3, 0, 54])
    np.testing.assert_allclose(jvp(f, x, v)[1].numpy(), [3, 0, 54])


def test_deep_graphs_do_not_recurse() -> None:
    x = torch.ones(1).requires_grad_()
    y = x
    for _ in range(5000):
        y = y + 0.001
    y.backward()
    assert x.grad.tolist() == [1]


def test_gradients_where_formulas_divide_by_zero() -> None:
    """Running and scattered products through zeros, norms of zeros, shared extremes."""
    x = torch.tensor([2.0, 0.0, 3.0, 0.0, 4.0], requires_grad=True)
    x.cumprod(0).sum().backward()
    assert x.grad.tolist() == [1, 2 + 6, 0, 0, 0]
    src = torch.tensor([0.0, 2.0, 5.0, 0.0, 0.0], requires_grad=True)
    start = torch.tensor([3.0, 0.0, 7.0], requires_grad=True)
    start.scatter_reduce(0, torch.tensor([0, 0, 1, 2, 2]), src, "prod").sum().backward()
    assert src.grad.tolist() == [6, 0, 0, 0, 0] and start.grad.tolist() == [0, 5, 0]
    tied = torch.tensor([4.0, 4.0, 1.0], requires_grad=True)
    torch.tensor([4.0, 0.0]).scatter_reduce(0, torch.tensor([0, 0, 1]), tied, "amax").sum().backward()
    np.testing.assert_allclose(tied.grad.tolist(), [1 / 3, 1 / 3, 1])
    for order in (0.5, 3.5, -1):
        v = torch.tensor([0.0, 2.0], requires_grad=True)
        torch.linalg.vector_norm(v, order).backward()
        assert np.isfinite(v.grad.numpy()).all()
    value = torch.tensor(1.0, requires_grad=True)
    torch.zeros(3).index_fill(0, torch.tensor([1, 1]), value).sum().backward()
    assert value.grad.item() == 1


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (3, 3)])
def test_gradient_of_the_pseudo_inverse(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1]))  # rank 2: some singular values are 0
    x = torch.tensor(low, requires_grad=True)
    row = torch.tensor(rng.standard_normal((1, shape[1])))
    if min(shape) == 2:
        assert torch.autograd.gradcheck(torch.linalg.pinv, (x,))
    assert torch.autograd.gradcheck(lambda v: torch.linalg.pinv(v @ v.mT @ v * 0.1 + 0 * row), (x,), atol=1e-3)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_gradient_of_grid_sample(mode: str, padding: str) -> None:
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.standard_normal((2, 2, 3, 4)), requires_grad=True)
    grid = torch.tensor(rng.uniform(-1.3, 1.3, (2, 3, 2, 2)), requires_grad=True)
    call = torch.nn.functional.grid_sample
    assert torch.autograd.gradcheck(lambda a, b: call(a, b, mode, padding, align_corners=True), (x, grid))
