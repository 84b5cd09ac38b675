"""Buffers that forward writes as states, several entry points, and sessions over both."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script_check import check
from script_models import Autoencoder, Cache, Counter, StatefulRNN, stateful

import headrace as torch
import headrace.runtime
from headrace import jit, nn
from headrace.runtime.errors import InputError
from headrace.runtime.graph import Program

MODELS = stateful()
each_model = pytest.mark.parametrize(("model", "example"), [m[1:] for m in MODELS], ids=[m[0] for m in MODELS])


@each_model
def test_states_are_declared(model: nn.Module, example: tuple[Any, ...], tmp_path: Path) -> None:
    exported = jit.script(model, example)
    assert [state.input for state in exported.graph.states] == list(model._buffers)
    assert [state.output for state in exported.graph.states] == [f"{name}_next" for name in model._buffers]
    for state, buffer in zip(exported.graph.states, model.buffers()):
        np.testing.assert_array_equal(state.initial, buffer.numpy())
    check(exported, [exported.examples], tmp_path)


@each_model
def test_a_session_is_the_module(model: nn.Module, example: tuple[Any, ...], tmp_path: Path) -> None:
    model = copy.deepcopy(model)  # its buffers are written here
    exported = jit.script(model, example)
    exported.save(tmp_path / "model.hr")
    loaded = headrace.runtime.load(tmp_path / "model.hr")
    assert loaded.verify().ok
    session = loaded.session()
    inputs = [torch.randn(*example[0].shape) for _ in range(4)]
    wanted = [model(x).detach().numpy() for x in inputs]
    for x, want in zip(inputs, wanted):
        np.testing.assert_allclose(session.run({"x": x.numpy()})["output"], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(exported(x).numpy(), want, rtol=1e-5, atol=1e-6)
    session.reset()
    np.testing.assert_allclose(session.run({"x": inputs[0].numpy()})["output"], wanted[0], rtol=1e-5, atol=1e-6)


def test_capture_leaves_the_module_as_it_was() -> None:
    model = Counter()
    buffer = model.total
    jit.script(model, (torch.ones(2, 3),))
    assert model.total is buffer and model.total.tolist() == [0, 0, 0] and model.count.item() == 0
    assert model.training


def test_a_growing_state_has_a_symbolic_size() -> None:
    types = {value.name: str(value.type) for value in jit.script(Cache(), (torch.ones(2, 4),)).graph.inputs}
    assert types["keys"] == "float32[keys_0, 4]"


def test_a_session_begins_where_it_is_told_and_keeps_its_state_over_errors() -> None:
    exported = jit.script(StatefulRNN(), (torch.zeros(1, 3),), dynamic={})
    session = exported.model.session({"hidden": np.ones((1, 5), np.float32)})
    assert session.states["hidden"].sum() == 5
    with pytest.raises(InputError):
        session.run({"x": np.zeros((1, 4), np.float32)})
    assert session.states["hidden"].sum() == 5
    with pytest.raises(InputError, match="the session holds the state 'hidden'"):
        session.run({"x": np.zeros((1, 3), np.float32), "hidden": np.zeros((1, 5), np.float32)})
    with pytest.raises(InputError, match="has no state 'other'; its states: hidden"):
        session.reset({"other": np.zeros(1)})


MEMORY = Counter()


def remember(x: Any) -> Any:
    return MEMORY(x) + 1


def through_a_helper(x: Any) -> Any:
    return remember(x) if x.sum() > 0 else x.mean(0)


def test_states_of_modules_that_a_helper_reads() -> None:
    exported = jit.script(through_a_helper, (torch.ones(2, 3),))
    assert [state.input for state in exported.graph.states] == ["MEMORY_total", "MEMORY_count"]
    assert MEMORY.total.tolist() == [0, 0, 0]
    session = exported.model.session()
    for x in (np.ones((2, 3), np.float32), -np.ones((2, 3), np.float32), np.full((1, 3), 4, np.float32)):
        (want,) = (through_a_helper(torch.from_numpy(x)).numpy(),)
        np.testing.assert_allclose(session.run({"x": x})["output"], want, rtol=1e-6)


def test_declared_states() -> None:
    def cell(x: Any, h: Any) -> Any:
        new = torch.tanh(x + h)
        return {"y": new * 2, "h_new": new}

    exported = jit.script(cell, (torch.ones(3), torch.zeros(3)), dynamic={}, states={"h": "h_new"})
    session = exported.model.session()
    first, second = (session.run({"x": np.ones(3, np.float32)})["y"] for _ in range(2))
    np.testing.assert_allclose(first, np.tanh(np.ones(3)) * 2, rtol=1e-6)
    np.testing.assert_allclose(second, np.tanh(1 + np.tanh(np.ones(3))) * 2, rtol=1e-6)
    with pytest.raises(jit.TraceError, match="'h' -> 'z' is not an input and an output"):
        jit.script(cell, (torch.ones(3), torch.zeros(3)), states={"h": "z"})


def test_a_state_that_changes_its_dtype() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Any) -> Any:
            self.n = self.n + 0.5
            return x + self.n

    with pytest.raises(jit.TraceError, match="the state 'n' is int64 with 0 dimensions, and float32"):
        jit.script(Wrong(), (torch.ones(2),))


def test_buffers_of_inner_modules(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList([Counter(), StatefulRNN()])

        def forward(self, x: Any) -> Any:
            for layer in self.inner:
                if x.sum() > -100:
                    x = layer(x)[:, :3] if x.dim() == 2 and x.shape[1] == 5 else layer(x)
                    x = x.reshape(1, -1)
            return x

    exported = jit.script(Outer(), (torch.ones(1, 3),), dynamic={})
    names = [state.input for state in exported.graph.states]
    assert names == ["inner_0_total", "inner_0_count", "inner_1_hidden"]
    check(exported, [exported.examples], tmp_path)


def test_parameters_are_no_states() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Any) -> Any:
            self.scale.mul_(2)
            return x * self.scale

    with pytest.raises(jit.TraceError, match="forward writes to 'scale'"):
        jit.script(Wrong(), (torch.ones(2, 3),))


def test_a_trace_says_how_to_get_states() -> None:
    with pytest.raises(jit.TraceError, match=r"forward writes to 'total'.*headrace\.jit\.script"):
        jit.trace(Counter(), (torch.ones(2, 3),))


# -------------------------------------------------------------------- entry points


def autoencoder() -> jit.Exported:
    return jit.script(
        Autoencoder(), (torch.randn(2, 16),), entries={"encode": (torch.randn(2, 16),), "decode": (torch.randn(2, 8),)}
    )


def test_entry_points_share_weights(tmp_path: Path) -> None:
    exported = autoencoder()
    assert list(exported.entries) == list(exported.program.entries) == ["main", "encode", "decode"]
    exported.save(tmp_path / "all.hr")
    jit.script(Autoencoder(), (torch.randn(2, 16),)).save(tmp_path / "main.hr")
    sizes = []
    for name in ("all.hr", "main.hr"):
        with zipfile.ZipFile(tmp_path / name) as file:
            sizes.append(file.getinfo("weights.safetensors").file_size)
    assert sizes[0] == sizes[1] > 8 * 16 * 4
    loaded = headrace.runtime.load(tmp_path / "all.hr")
    assert loaded.entries == ("main", "encode", "decode")
    x = torch.randn(5, 16).numpy()
    (z,) = loaded.entry("encode").run({"x": x}).values()
    (y,) = loaded.entry("decode").run({"z": z}).values()
    np.testing.assert_array_equal(y, loaded.run({"x": x})["output"])
    np.testing.assert_array_equal(y, exported.entry("decode").run(z)[0])
    assert loaded.entry("main") is loaded and loaded.entry("decode") is loaded.entry("decode")
    with pytest.raises(InputError, match="no entry point 'other'; there are main, encode, decode"):
        loaded.entry("other")


def test_saved_again_nothing_is_lost(tmp_path: Path) -> None:
    autoencoder().save(tmp_path / "one.hr")
    first = jit.load(tmp_path / "one.hr")
    assert first.entries == ("main", "encode", "decode")
    jit.save(first, tmp_path / "two.hr")
    hashes = [{k: g.hash() for k, g in jit.load(tmp_path / n).program.entries.items()} for n in ("one.hr", "two.hr")]
    assert hashes[0] == hashes[1]
    z = np.ones((1, 8), np.float32)
    np.testing.assert_array_equal(first.entry("decode").run(z)[0], first.model.entry("decode").run({"z": z})["output"])


def test_an_entry_point_must_be_marked() -> None:
    with pytest.raises(
        jit.TraceError, match=r"has no entry point 'half'; marked with @headrace\.jit\.export: decode, encode"
    ):
        jit.script(Autoencoder(), entries={"half": (torch.ones(1),)})


class Decoder(nn.Module):
    """A prompt at once, then token by token, over one cache."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.mix = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(0, 4))

    @jit.export
    def prefill(self, prompt: Any) -> Any:
        self.seen = self.mix(prompt)
        return self.seen.mean(0)

    @jit.export
    def step(self, x: Any) -> Any:
        self.seen = torch.cat([self.seen, self.mix(x)])
        return self.seen.mean(0)


def test_entry_points_share_a_state(tmp_path: Path) -> None:
    model = Decoder()
    exported = jit.script(model, entries={"prefill": (torch.ones(3, 4),), "step": (torch.ones(1, 4),)})
    exported.save(tmp_path / "decoder.hr")
    session = headrace.runtime.load(tmp_path / "decoder.hr").session()
    prompt, x = torch.randn(5, 4), torch.randn(1, 4)
    wanted = [model.prefill(prompt), model.step(x), model.step(x * 2)]
    found = [
        session.run({"prompt": prompt.numpy()}, "prefill"),
        *(session.run({"x": (x * k).numpy()}, "step") for k in (1, 2)),
    ]
    for got, want in zip(found, wanted):
        np.testing.assert_allclose(got["output"], want.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert session.states["seen"].shape == (7, 4)


def test_a_program_keeps_one_state_of_a_name() -> None:
    exported = jit.script(Decoder(), entries={"prefill": (torch.ones(3, 4),), "step": (torch.ones(1, 4),)})
    assert isinstance(exported.program, Program)
    assert [s.input for g in exported.program.entries.values() for s in g.states] == ["seen", "seen"]
