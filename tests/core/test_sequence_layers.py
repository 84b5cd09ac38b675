"""Recurrent layers and attention: written out in steps and as one operator, packed, and against torch where it is installed."""

from pathlib import Path

import numpy as np
import pytest
from sequence_runs import CASES, flat, results

import headrace as torch
import headrace.nn as nn
from headrace.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence

LAYERS = {
    "rnn": lambda lib: lib.nn.RNN(3, 4, num_layers=2, nonlinearity="relu"),
    "lstm": lambda lib: lib.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda lib: lib.nn.GRU(3, 4, bidirectional=True),
    "lstm-plain": lambda lib: lib.nn.LSTM(3, 4, bias=False),
    "lstm-projected": lambda lib: lib.nn.LSTM(3, 4, proj_size=2, num_layers=2),
}


@pytest.mark.parametrize("name", CASES)
def test_recorded_outputs_and_gradients(name: str) -> None:
    """Of torch's layers with the same weights (recorded by sequence_runs.py)."""
    with np.load(Path(__file__).with_name("sequences.npz"), allow_pickle=False) as archive:
        for i, got in enumerate(results(torch, name)):
            np.testing.assert_allclose(got, archive[f"{name}/{i}"], rtol=1e-4, atol=1e-5, err_msg=f"array {i}")
        assert f"{name}/{i + 1}" not in archive


@pytest.mark.parametrize("name", LAYERS)
def test_steps_and_operator_agree(name: str) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name](torch), torch.randn(5, 2, 3)
    recorded = flat(layer(x))
    with torch.no_grad():
        plain = flat(layer(x))
    assert recorded[0].requires_grad and len(recorded) == len(plain)
    for a, b in zip(recorded, plain):
        np.testing.assert_allclose(a.detach().numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_torchs(name: str) -> None:
    peer = pytest.importorskip(
        "torch", reason="outputs and gradients of torch's layers are compared where it is installed"
    )
    peer.manual_seed(0)
    theirs, ours = LAYERS[name](peer), LAYERS[name](torch)
    ours.load_state_dict({k: torch.from_numpy(v.detach().numpy()) for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    a, b = flat(ours(torch.from_numpy(x))), flat(theirs(peer.from_numpy(x)))
    for got, want in zip(a, b):
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-4, atol=1e-6)
    sum((t * t).sum() for t in a).backward()
    sum((t * t).sum() for t in b).backward()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm-plain"])
def test_packed_sequences_end_at_their_own_length(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name](torch)
    rows = [torch.randn(n, 3) for n in (2, 4, 1)]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y, final = layer(pack_sequence(rows, enforce_sorted=False))
            padded, lengths = pad_packed_sequence(y)
            assert lengths.tolist() == [2, 4, 1]
            for i, row in enumerate(rows):
                alone, last = layer(row)
                np.testing.assert_allclose(
                    padded[: len(row), i].detach().numpy(), alone.detach().numpy(), rtol=1e-5, atol=1e-6
                )
                for got, want in zip(flat(final), flat(last)):
                    np.testing.assert_allclose(got[:, i].detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_padding_and_packing() -> None:
    rows = [torch.arange(3.0), torch.arange(1.0)]
    assert pad_sequence(rows, batch_first=True, padding_value=-1).tolist() == [[0, 1, 2], [0, -1, -1]]
    packed = pack_padded_sequence(pad_sequence(rows), [3, 1])
    assert packed.data.tolist() == [0, 0, 1, 2] and packed.batch_sizes.tolist() == [2, 1, 1]
    with pytest.raises(RuntimeError, match="decreasing order"):
        pack_padded_sequence(pad_sequence(rows[::-1]), [1, 3])


def test_cells_are_one_step_of_their_layer() -> None:
    torch.manual_seed(0)
    for cell, layer in (
        (nn.LSTMCell(3, 4), nn.LSTM(3, 4)),
        (nn.GRUCell(3, 4), nn.GRU(3, 4)),
        (nn.RNNCell(3, 4), nn.RNN(3, 4)),
    ):
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
        x = torch.randn(2, 3)
        got, want = flat(cell(x))[0], layer(x.unsqueeze(0))[0][0]
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_causal_attention_sees_no_future() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    x = torch.randn(1, 5, 8)
    y = layer(x, src_mask=mask)
    x[0, 4] = 100.0
    np.testing.assert_allclose(
        layer(x, src_mask=mask)[0, :4].detach().numpy(), y[0, :4].detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_padding_mask_hides_keys() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 4, 8)
    mask = torch.tensor([[False, False, True, True], [False] * 4])
    out, weights = attention(x, x, x, key_padding_mask=mask)
    assert weights[0, :, 2:].abs().sum().item() == 0 and weights.shape == (2, 4, 4)
    without, none = attention(x, x, x, key_padding_mask=mask, need_weights=False)
    assert none is None
    np.testing.assert_allclose(out.detach().numpy(), without.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.peer
def test_transformer_is_torchs() -> None:
    peer = pytest.importorskip("torch", reason="the outputs of torch's Transformer are compared where it is installed")
    settings = {
        "d_model": 8,
        "nhead": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 1,
        "dim_feedforward": 16,
        "dropout": 0.0,
        "batch_first": True,
    }
    peer.manual_seed(0)
    theirs, ours = peer.nn.Transformer(**settings), nn.Transformer(**settings)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: torch.from_numpy(v.detach().numpy()) for k, v in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    src, tgt = rng.standard_normal((2, 5, 8)).astype(np.float32), rng.standard_normal((2, 3, 8)).astype(np.float32)
    got = ours(torch.from_numpy(src), torch.from_numpy(tgt))
    want = theirs(peer.from_numpy(src), peer.from_numpy(tgt))
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "lstm-plain"])
def test_gradients_of_whole_sequences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of the steps written out, against differences, packed, twice, and with the graph kept."""
    torch.manual_seed(0)
    layer = LAYERS[name](torch).double()
    x = torch.randn(3, 3, 3, dtype=torch.float64)
    weights = list(layer.parameters())

    def run(x, *weights):
        return tuple(flat(layer(x)))

    x.requires_grad_()
    whole = torch.autograd.grad([t.sin().sum() for t in run(x)], [x, *weights])
    with monkeypatch.context() as written_out:
        written_out.setattr("headrace.nn.recurrent.WIDE", ())
        steps = torch.autograd.grad([t.sin().sum() for t in run(x)], [x, *weights])
    for a, b in zip(whole, steps):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)
    rows = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (1, 3, 2)]

    def packed(*rows):
        y, final = layer(pack_sequence(list(rows), enforce_sorted=False))
        return (y.data, *flat(final))

    assert torch.autograd.gradcheck(packed, tuple(rows))
    small = x.detach()[:2, :1].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: flat(layer(v))[0], (small,))
    loss = sum((t * t).sum() for t in run(x))
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    again = torch.autograd.grad(loss, weights)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    loss = run(x)[0].sum()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
