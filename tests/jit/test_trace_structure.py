"""What a trace makes of a model: the graph's text, names, paths, sharing, and that the model stays as it was."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from jit_models import CNN, Attention, mlp

import headrace as torch
from headrace import jit, nn

MLP_TEXT = """\
graph main(%input: float32[batch, 4]) {
  const %0.bias: float32[8]
  const %0.weight: float32[8, 4]
  const %2.bias: float32[3]
  const %2.weight: float32[3, 8]
  %gemm: float32[batch, 8] = Gemm(%input, %0.weight, %0.bias) {transB=1}
  %relu: float32[batch, 8] = Relu(%gemm)
  %output: float32[batch, 3] = Gemm(%relu, %2.weight, %2.bias) {transB=1}
  return %output
}
"""

CNN_TEXT = """\
graph main(%image: float32[batch, 3, 8, 8]) {
  const %bn.bias: float32[4]
  const %bn.running_mean: float32[4]
  const %bn.running_var: float32[4]
  const %bn.weight: float32[4]
  const %constant: int64[2]
  const %conv.weight: float32[4, 3, 3, 3]
  const %fc.bias: float32[5]
  const %fc.weight: float32[5, 64]
  %conv: float32[batch, 4, 8, 8] = Conv(%image, %conv.weight) {dilations=[1, 1], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]}
  %batchnormalization: float32[batch, 4, 8, 8] = BatchNormalization(%conv, %bn.weight, %bn.bias, %bn.running_mean, %bn.running_var)
  %relu: float32[batch, 4, 8, 8] = Relu(%batchnormalization)
  %maxpool: float32[batch, 4, 4, 4] = MaxPool(%relu) {dilations=[1, 1], kernel_shape=[2, 2], pads=[0, 0, 0, 0], strides=[2, 2]}
  %reshape: float32[batch, 64] = Reshape(%maxpool, %constant)
  %output: float32[batch, 5] = Gemm(%reshape, %fc.weight, %fc.bias) {transB=1}
  return %output
}
"""

CNN_CODE = '''\
import headrace as torch
from headrace.jit import operators as F


def forward(image, weights):
    """image: float32[batch, 3, 8, 8] -> float32[batch, 5]"""
    # conv
    conv = F.Conv(image, weights['conv.weight'], dilations=(1, 1), kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(1, 1))
    # bn
    batchnormalization = F.BatchNormalization(conv, weights['bn.weight'], weights['bn.bias'], weights['bn.running_mean'], weights['bn.running_var'])
    relu = F.Relu(batchnormalization)
    # pool
    maxpool = F.MaxPool(relu, dilations=(1, 1), kernel_shape=(2, 2), pads=(0, 0, 0, 0), strides=(2, 2))
    reshape = F.Reshape(maxpool, torch.tensor([-1, 64]))
    # fc
    output = F.Gemm(reshape, weights['fc.weight'], weights['fc.bias'], transB=1)
    return output
'''


def text(exported: jit.Exported) -> str:
    """The graph's text without the contents of constants."""
    return "\n".join(
        line.split(" = ")[0] if line.startswith("  const") else line for line in str(exported.graph).split("\n")
    )


def test_mlp() -> None:
    assert text(jit.trace(mlp(), torch.randn(2, 4))) == MLP_TEXT


def test_cnn() -> None:
    exported = jit.trace(CNN(), torch.randn(2, 3, 8, 8))
    assert text(exported) == CNN_TEXT
    assert [node.path for node in exported.graph.nodes] == ["conv", "bn", "", "pool", "", "fc"]


def test_code_of_the_cnn() -> None:
    assert jit.trace(CNN(), torch.randn(2, 3, 8, 8)).code == CNN_CODE


def test_constants_are_called_as_in_the_state_dict() -> None:
    model = Attention()
    exported = jit.trace(model, torch.randint(0, 20, (2, 6)))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(exported.graph.constants[name], value.numpy())


def test_shared_weights_are_stored_once() -> None:
    a = nn.Linear(4, 4)
    b = nn.Linear(4, 4)
    b.weight = a.weight
    exported = jit.trace(nn.Sequential(a, b), torch.randn(2, 4))
    assert sorted(exported.graph.constants) == ["0.bias", "0.weight", "1.bias"]


def test_the_graph_is_a_snapshot() -> None:
    model = mlp()
    exported = jit.trace(model, torch.randn(2, 4))
    before = exported.run(np.ones((1, 4), np.float32))
    with torch.no_grad():
        model[0].weight.fill_(0.0)
    np.testing.assert_array_equal(exported.run(np.ones((1, 4), np.float32))[0], before[0])


def test_the_model_keeps_its_mode_and_contents() -> None:
    model = CNN().train()
    model.bn.eval()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    example = torch.randn(2, 3, 8, 8)
    copy = example.numpy().copy()
    jit.trace(model, example)
    assert model.training and model.drop.training and not model.bn.training
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    np.testing.assert_array_equal(example.numpy(), copy)
    assert not jit.is_tracing()


def test_the_mode_is_restored_after_an_error() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    model = Wrong()
    with pytest.raises(jit.TraceError):
        jit.trace(model, torch.ones(2))
    assert model.training and not jit.is_tracing()
    assert len([1, 2]) == 2 and len.__module__ == "builtins"


def test_functions_name_what_they_read_from_around() -> None:
    w, layer = torch.randn(4, 2), nn.Linear(2, 2)

    def function(x: Any) -> Any:
        return layer(torch.relu(x @ w + 1))

    exported = jit.trace(function, torch.randn(3, 4))
    assert sorted(exported.graph.constants) == ["constant", "layer.bias", "layer.weight", "w"]
    assert [node.path for node in exported.graph.nodes] == ["", "", "", "layer"]


Pair = namedtuple("Pair", "mean spread")


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1, x * 2), ["output_0", "output_1"]),
        (lambda x: [x + 1], ["output_0"]),
        (lambda x: {"a": x + 1, "b": (x, x * 2)}, ["a", "b_0", "b_1"]),
        (lambda x: Pair(x.mean(), x.std()), ["mean", "spread"]),
        (lambda x: (x + 1, None, x.shape[0], 2.0), ["output_0", "output_2", "output_3"]),
        (lambda x: x, ["output"]),
        (lambda x: (x, x), ["output_0", "output_1"]),
    ],
)
def test_outputs(function: Any, names: list[str]) -> None:
    x = torch.randn(3, 4)
    exported = jit.trace(function, x)
    assert [value.name for value in exported.graph.outputs] == names
    got, want = exported(x), function(x)
    assert type(got) is type(want)
    if isinstance(want, dict):
        assert list(got) == list(want)


def test_inputs_are_called_as_the_parameters() -> None:
    def function(image: Any, states: Any, scale: float = 2.0, *, mask: Any = None) -> Any:
        h, c = states
        return image * scale + h + c["x"] + mask

    x = torch.randn(3, 4)
    exported = jit.trace(function, {"image": x, "states": (x, {"x": x}), "mask": x})
    assert [value.name for value in exported.graph.inputs] == ["image", "states_0", "states_1_x", "mask"]
    np.testing.assert_allclose(exported(x, (x, {"x": x}), mask=x).numpy(), (x * 5).numpy(), rtol=1e-6)


def test_variable_arguments() -> None:
    exported = jit.trace(lambda *xs: sum(xs[1:], xs[0]), (torch.ones(2), torch.ones(2)))
    assert [value.name for value in exported.graph.inputs] == ["xs_0", "xs_1"]


def test_numbers_among_the_arguments_are_constants_of_the_call() -> None:
    exported = jit.trace(lambda x, times: x * times, (torch.ones(2), 3))
    assert [value.name for value in exported.graph.inputs] == ["x"]
    np.testing.assert_array_equal(exported.run(np.ones(2, np.float32))[0], [3, 3])


def test_what_is_not_needed_is_left_out() -> None:
    def function(x: Any) -> Any:
        x.exp()
        return x + 1

    assert [node.operator for node in jit.trace(function, torch.ones(2)).graph.nodes] == ["Add"]


def test_the_report_is_one_line() -> None:
    report = jit.trace(mlp(), torch.randn(2, 4)).report
    assert report.startswith("main: 3 nodes, 4 constants; on the example and one row more within ")
    assert "\n" not in report


def test_the_entry_point_has_a_name() -> None:
    exported = jit.trace(mlp(), torch.randn(2, 4), name="predict")
    assert exported.graph.name == "predict" and exported.program.entries.keys() == {"predict"}
