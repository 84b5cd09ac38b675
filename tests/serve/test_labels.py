"""Names of classes: read with the model, told with the classification, in one order for equal values."""

from pathlib import Path

import numpy as np
import pytest
import serve_call
import serve_fake
from serve_packages import package
from serve_start import FRONTS, need, start

from headrace import runtime
from headrace.serve import classify, postprocess
from headrace.serve.config import ConfigError, Postprocess
from headrace.serve.validate import Port

X = {"x": np.array([[0.5, 2.0, 0.5, -1.0]], np.float32)}


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    root = serve_fake.repository(tmp_path_factory.mktemp("labels"), {"m": "scale 1", "own": "scale 1"})
    for name in ("m", "own"):
        (root / name / "config.toml").write_text('[postprocess]\nlabels = {y = "names.txt"}\n')
        (root / name / "names.txt").write_text("tench\ncoffee mug\ngreat: white\n", encoding="utf-8")
    (root / "own/1/names.txt").write_text("Zoë\nb\nc\nd\ne\n", encoding="utf-8")
    with start(root, request.param) as running:
        yield running


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_labels(server, how):
    """Equal values: the lower index first; an index without a name has none; the version's own file goes first."""
    asked = [{"name": "y", "parameters": {"classification": 4}}]
    found, _ = serve_call.infer(server, how, "m", X, outputs=asked)
    assert found["y"].ravel().tolist() == [
        b"2.000000:1:coffee mug", b"0.500000:0:tench", b"0.500000:2:great: white", b"-1.000000:3",
    ]  # fmt: skip
    found, _ = serve_call.infer(server, how, "own", X, outputs=asked)
    assert found["y"].ravel().tolist()[1] == "0.500000:0:Zoë".encode()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"z": "names.txt"}, "the model has no output 'z'; it has y"),
        ({"y": "../names.txt"}, "is not the name of a file"),
        ({"y": "/etc/passwd"}, "is not the name of a file"),
        ({"y": ""}, "is not the name of a file"),
        ({"y": "none.txt"}, "there is no such file"),
        ({"y": "bad.txt"}, "is not UTF-8"),
        ({"y": "long.txt"}, "is longer than"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, monkeypatch, files, words):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    monkeypatch.setattr(classify, "MAX_LABEL_BYTES", 64)
    (tmp_path / "long.txt").write_text("x" * 65)
    with pytest.raises(ConfigError) as caught:
        classify.labels_of(files, ["y"], [tmp_path])
    assert words in str(caught.value)


INSIDE = 'top_k = {y = 2}\nlabels = {y = "names.txt"}\n'
TOP = f"[postprocess]\n{INSIDE}"
DECLARED = {"post/postprocess.toml": INSIDE.encode(), "post/names.txt": b"left\nright\n"}


@pytest.fixture(scope="module", params=FRONTS)
def classifying(request, tmp_path_factory):
    """The largest in place of all, as the configuration, the package, or both say."""
    need(request.param)
    root = serve_fake.repository(
        tmp_path_factory.mktemp("top"), {"m": "scale 1", "alone": "scale 1", "texts": "identity BYTES"}
    )
    (root / "m/config.toml").write_text(TOP)
    (root / "m/names.txt").write_text("tench\ncoffee mug\n")
    (root / "alone/config.toml").write_text("[batching]\nmax_batch_size = 0\n[postprocess]\ntop_k = {y = 9}\n")
    (root / "texts/config.toml").write_text("[postprocess]\ntop_k = {y = 2}\n")
    package(root / "packed/1/model.hr", 2.0, members=DECLARED)
    package(root / "both/1/model.hr", 2.0, members=DECLARED)
    (root / "both/config.toml").write_text("[postprocess]\ntop_k = {y = 1}\n")
    package(root / "broken/1/model.hr", 2.0, members={"post/postprocess.toml": b"[postprocess"})
    package(root / "nameless/1/model.hr", 2.0, members={"post/postprocess.toml": INSIDE.encode()})
    load = lambda path: serve_fake.load(path) if path.read_bytes()[:2] != b"PK" else runtime.load(path)  # noqa: E731
    with start(root, request.param, loader=load) as running:
        yield running


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_a_model_may_answer_its_largest_outputs_only(classifying, how):
    found, _ = serve_call.infer(classifying, how, "m", X)
    assert found["y"].tolist() == [[b"2.000000:1:coffee mug", b"0.500000:0:tench"]]
    asked = [{"name": "y", "parameters": {"classification": 1}}]  # the client's number goes first
    assert serve_call.infer(classifying, how, "m", X, outputs=asked)[0]["y"].tolist() == [[b"2.000000:1:coffee mug"]]
    found, _ = serve_call.infer(classifying, how, "alone", X)
    assert found["y"].shape == (4,) and found["y"][0] == b"2.000000:1"
    two = {"x": np.array([[1, 3], [5, 4]], np.float32)}
    found, _ = serve_call.infer(classifying, how, "packed", two)
    assert found["y"].tolist() == [
        [b"6.000000:1:right", b"2.000000:0:left"],
        [b"10.000000:0:left", b"8.000000:1:right"],
    ]
    assert serve_call.infer(classifying, how, "both", two)[0]["y"].tolist() == [
        [b"6.000000:1:right"],
        [b"10.000000:0:left"],
    ]


def test_what_clients_see_of_it(classifying):
    (output,) = classifying._plane.model_metadata("m", "")["outputs"]
    assert output == {"name": "y", "datatype": "BYTES", "shape": [-1, 2]}
    (output,) = classifying._plane.model_config("m", "")["output"]
    assert output == {"name": "y", "data_type": "TYPE_STRING", "dims": [2]}
    assert classifying._plane.model_metadata("alone", "")["outputs"][0]["shape"] == [9]
    (port,) = (Port.of(spec) for spec in serve_fake.identity("FP32", 4).outputs)
    assert postprocess.read(Postprocess(top_k={"y": 9}), (port,), True, Path("x")).top_k == {
        "y": 4
    }  # not more than there are


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("texts", "output 'y' has texts; the largest are of numbers"),
        ("broken", "post/postprocess.toml: "),
        ("nameless", "labels: 'y': there is no such file in the package"),
    ],
)
def test_declarations_that_cannot_be_used(classifying, model, words):
    reason = next(row[3] for row in classifying._manager.index() if row[0] == model)
    assert words in reason


def test_an_output_that_is_unknown(tmp_path):
    (port,) = (Port.of(spec) for spec in serve_fake.identity("FP32").outputs)
    with pytest.raises(ConfigError, match="no output 'z'"):
        postprocess.read(Postprocess(top_k={"z": 1}), (port,), True, tmp_path)
