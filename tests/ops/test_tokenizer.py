"""com.microsoft Tokenizer against onnxruntime on random texts: leftmost longest matches, marks, widths of nothing."""

from typing import Any

import numpy as np
import pytest

from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.text._regex import compile_regex

EXPRESSIONS = ["a|ab", "[a-z]+", r"\w+", "b+a?", "(ab|a)(b,)?", "a.b", r"\bb\w*"]
SEPARATORS = [",", ";", r"\s", "a|ab", "b+"]


def theirs(texts: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the library whose operator this is")
    from onnx import TensorProto, helper

    node = helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", **attributes)
    value = [helper.make_tensor_value_info(name, TensorProto.STRING, None) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": texts})[0]


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["tokenexp", "separators"])
def test_it_gives_the_tokens_of_onnxruntime(kind: str) -> None:
    rng = np.random.default_rng(0)
    operator = find("Tokenizer", "com.microsoft")
    assert operator is not None
    for _ in range(60):
        texts = np.array(["".join(rng.choice(list("ab,; é_1"), rng.integers(0, 9))) for _ in range(4)], object)
        picked = [str(text) for text in rng.choice(EXPRESSIONS if kind == "tokenexp" else SEPARATORS, 2, replace=False)]
        attributes = {kind: picked[0] if kind == "tokenexp" else picked}
        attributes |= {"mark": int(rng.integers(0, 2)), "mincharnum": int(rng.integers(1, 3)), "pad_value": "#"}
        (ours,) = run_node(operator, [texts], attributes)
        wanted = theirs(texts, attributes)
        assert ours.shape == wanted.shape and np.array_equal(ours, wanted), (list(texts), attributes)


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        ("a|ab", "xab", (1, 3)),  # the longest, not the first alternative
        ("abcd|bc", "abcx", (1, 3)),  # an earlier beginning that leads nowhere gives way
        ("abcd|bc", "abcd", (0, 4)),
        (r"\bb", "ab b", (3, 4)),
        ("x*", "aaa", (0, 0)),
        ("z", "abc", None),
        (r"\w", "é", None),  # ASCII only, as in RE2
    ],
)  # fmt: skip
def test_search_finds_the_leftmost_longest_match(pattern: str, text: str, wanted: Any) -> None:
    assert compile_regex(pattern).search(text) == wanted
