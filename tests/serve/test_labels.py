"""Names of classes: read with the model, told with the classification, in one order for equal values."""

import numpy as np
import pytest
import serve_call
import serve_fake
from serve_start import FRONTS, need, start

from headrace.serve import classify
from headrace.serve.config import ConfigError

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
