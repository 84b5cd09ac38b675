"""Modules: names, states, modes, hooks, containers, layers."""

import copy

import numpy as np
import pytest

import headrace as torch
import headrace.nn as nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("mask", torch.zeros(2), persistent=False)
        self.parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Sequential(nn.ReLU(), nn.Linear(2, 1, bias=False))})

    def forward(self, x):
        return self.norm(self.conv(x)) * self.scale


def test_names() -> None:
    block = Block()
    assert [n for n, _ in block.named_parameters()] == [
        "scale", "conv.weight", "conv.bias", "norm.weight", "norm.bias", "parts.a.weight", "parts.a.bias", "parts.b.1.weight",
    ]  # fmt: skip
    assert list(block.state_dict()) == [
        "scale", "conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
        "parts.a.weight", "parts.a.bias", "parts.b.1.weight",
    ]  # fmt: skip
    assert [n for n, _ in block.named_buffers()] == [
        "mask",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    assert [n for n, _ in block.named_modules()] == [
        "",
        "conv",
        "norm",
        "parts",
        "parts.a",
        "parts.b",
        "parts.b.0",
        "parts.b.1",
    ]
    assert (
        block.get_submodule("parts.b.1") is block.parts["b"][1] and block.get_parameter("conv.bias") is block.conv.bias
    )
    shared = nn.Sequential(block.parts["a"], block.parts["a"])
    assert len(list(shared.parameters())) == 2 and len(list(shared.modules())) == 2


def test_states() -> None:
    one, two = Block(), Block()
    state = one.state_dict()
    assert two.load_state_dict(state) == ([], [])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    state["conv.weight"].zero_()  # shares memory
    assert one.conv.weight.abs().sum().item() == 0
    bad = {k: v for k, v in state.items() if k != "scale"} | {"extra": torch.ones(1), "conv.bias": torch.ones(3)}
    with pytest.raises(RuntimeError) as error:
        two.load_state_dict(bad)
    text = str(error.value)
    assert (
        'Missing key(s) in state_dict: "scale"' in text
        and 'Unexpected key(s) in state_dict: "extra"' in text
        and "size mismatch for conv.bias" in text
    )
    assert (
        two.load_state_dict({"scale": torch.tensor([3.0])}, strict=False).missing_keys[0] == "conv.weight"
        and two.scale.item() == 3
    )
    fresh = nn.Linear(2, 2)
    given = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    fresh.load_state_dict(given, assign=True)
    assert isinstance(fresh.weight, nn.Parameter) and fresh.weight.tolist() == [[1, 1], [1, 1]]
    assert list(nn.Linear(1, 1).state_dict(prefix="x.")) == ["x.weight", "x.bias"]


def test_modes_and_types() -> None:
    block = Block()
    assert block.eval() is block and not any(m.training for m in block.modules())
    block.train()
    assert all(m.training for m in block.modules())
    block.double()
    assert block.conv.weight.dtype is torch.float64 and block.norm.num_batches_tracked.dtype is torch.int64
    assert block.requires_grad_(False) is block and not any(p.requires_grad for p in block.parameters())
    seen = []
    block.apply(lambda m: seen.append(type(m).__name__))
    assert seen[-1] == "Block" and seen[0] == "Conv2d"
    with pytest.raises(RuntimeError, match="no device"):
        block.to("cuda")


def test_assignment_is_checked() -> None:
    block = Block()
    with pytest.raises(TypeError, match="as parameter 'scale'"):
        block.scale = torch.ones(1)
    with pytest.raises(KeyError, match="already exists"):
        block.register_buffer("conv", torch.ones(1))
    with pytest.raises(AttributeError, match="before Module"):

        class Bad(nn.Module):
            def __init__(self) -> None:
                self.layer = nn.Linear(1, 1)

        Bad()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = block.nothing
    del block.scale
    assert "scale" not in block.state_dict()


def test_hooks() -> None:
    layer = nn.Linear(2, 2)
    calls = []
    pre = layer.register_forward_pre_hook(lambda m, args: (args[0] * 0,))
    post = layer.register_forward_hook(lambda m, args, out: calls.append(out.shape) or out + 1)
    x = torch.ones(3, 2)
    assert torch.allclose(layer(x), layer.bias + 1) and calls == [(3, 2)]
    pre.remove()
    post.remove()
    layer.register_full_backward_hook(
        lambda m, given, back: calls.append((given[0].shape, back[0].shape)) or (given[0] * 10,)
    )
    y = torch.ones(3, 2, requires_grad=True)
    layer(y).sum().backward()
    assert calls[-1] == ((3, 2), (3, 2))
    np.testing.assert_allclose(y.grad.numpy(), np.tile(layer.weight.detach().numpy().sum(0) * 10, (3, 1)), rtol=1e-6)


def test_containers() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(net) == 3 and isinstance(net[-1], nn.Linear) and len(net[:2]) == 2
    net.append(nn.Sigmoid())
    net.insert(1, nn.Tanh())
    del net[2]
    assert [type(m).__name__ for m in net] == ["Linear", "Tanh", "Linear", "Sigmoid"] and list(net._modules) == [
        "0",
        "1",
        "2",
        "3",
    ]
    items = nn.ModuleList([nn.Linear(1, 1)]) + [nn.ReLU()]
    assert len(items) == 2 and list(items.state_dict()) == ["0.weight", "0.bias"]
    table = nn.ModuleDict({"x": nn.ReLU()})
    table.update({"y": nn.Tanh()})
    assert "y" in table and list(table.keys()) == ["x", "y"] and isinstance(table.pop("x"), nn.ReLU)
    values = nn.ParameterList([torch.ones(1), torch.zeros(2)])
    assert [n for n, _ in values.named_parameters()] == ["0", "1"] and values[1].shape == (2,)
    names = nn.ParameterDict({"w": torch.ones(1)})
    assert names["w"].requires_grad and "w" in names


def test_text() -> None:
    net = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(0.2))
    assert repr(net) == (
        "Sequential(\n  (0): Linear(in_features=10, out_features=5, bias=True)\n  (1): ReLU()\n"
        "  (2): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n  (3): Dropout(p=0.2, inplace=False)\n)"
    )


def test_copies_are_apart() -> None:
    block = Block()
    twin = copy.deepcopy(block)
    twin.scale.data.fill_(9)
    assert block.scale.item() == 1 and twin.scale.requires_grad and list(twin.state_dict()) == list(block.state_dict())


def test_batch_norm_statistics() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, momentum=0.5)
    x = torch.randn(8, 3)
    y = norm(x)
    assert y.mean(0).abs().max().item() < 1e-6 and norm.num_batches_tracked.item() == 1
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.5 * x.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.5 + 0.5 * x.numpy().var(0, ddof=1), rtol=1e-5)
    norm.eval()
    before = norm.running_mean.clone()
    norm(x)
    assert torch.equal(before, norm.running_mean)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm.train()(torch.ones(1, 3))


def test_dropout_only_while_training() -> None:
    layer, x = nn.Dropout(0.5), torch.ones(1000)
    assert 300 < (layer(x) == 0).sum().item() < 700
    assert torch.equal(layer.eval()(x), x)


def test_embedding_padding_gets_no_gradient() -> None:
    table = nn.Embedding(4, 2, padding_idx=1)
    assert table.weight[1].tolist() == [0, 0]
    table(torch.tensor([0, 1, 1, 3])).sum().backward()
    assert table.weight.grad.tolist() == [[1, 1], [0, 0], [0, 0], [1, 1]]
    with pytest.raises(IndexError, match="out of range"):
        table(torch.tensor([4]))


def test_losses_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="target size"):
        nn.BCELoss()(torch.rand(3), torch.rand(2))
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        nn.BCELoss()(torch.tensor([1.5]), torch.tensor([1.0]))
    with pytest.raises(IndexError, match="out of bounds"):
        nn.CrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, 3]))
    assert nn.CrossEntropyLoss(ignore_index=0)(torch.zeros(2, 3), torch.tensor([0, 1])).item() == pytest.approx(
        np.log(3)
    )


def test_init() -> None:
    torch.manual_seed(0)
    w = torch.empty(200, 100)
    nn.init.xavier_uniform_(w)
    assert w.abs().max().item() <= np.sqrt(6 / 300)
    nn.init.kaiming_normal_(w, nonlinearity="relu")
    assert abs(w.std().item() - np.sqrt(2 / 100)) < 0.005
    nn.init.orthogonal_(w)
    np.testing.assert_allclose((w.T @ w).numpy(), np.eye(100), atol=1e-5)
    nn.init.trunc_normal_(w, std=2.0)
    assert w.abs().max().item() <= 2
    assert nn.init.eye_(torch.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]] and nn.init.calculate_gain(
        "relu"
    ) == pytest.approx(np.sqrt(2))


def test_clipping() -> None:
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert nn.utils.clip_grad_norm_([p], 1.0).item() == 5
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-5)
    nn.utils.clip_grad_value_([p], 0.7)
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.7], rtol=1e-5)
