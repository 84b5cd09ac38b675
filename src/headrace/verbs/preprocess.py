"""Pre-processing as operators of the graph: a specification puts them before a model's inputs, or behind an output.

The package then takes encoded images and texts, one a row, and a server runs what belongs to the model with the model. The
specification is data (a dict, or a TOML file):

    [[input]]
    name = "image"                 # the model's input that is made here
    kind = "image"
    source = "photo"               # the new input (default: the name itself)
    height = 224
    width = 224                    # 0: by proportion, at least min_width
    crop = "square"                # the middle; default "none"
    pixel_format = "RGB"           # BGR, Grayscale
    layout = "NCHW"                # or NHWC
    scale = 255                    # pixels are divided by it,
    mean = [0.485, 0.456, 0.406]   # then less mean (one number, or one a channel),
    std = [0.229, 0.224, 0.225]    # then divided by std

    [[input]]
    name = "ids"
    mask = "mask"                  # the model's input for the mask, where it has one
    kind = "text"
    tokenizer = "tokenizer.json"   # a file beside the specification, or its bytes
    length = 0                     # fixed, or 0: the longest of the rows, cut at max_length

    [output]
    name = "logits"                # becomes `scores` and `classes`, the largest first
    softmax = true
    top_k = 5
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import InputError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.hints import nearest
from headrace.runtime.ops.vision.picture import plain
from headrace.runtime.types import TensorType

_IMAGE = {"height", "width", "min_width", "crop", "pixel_format", "max_pixels"}
_IMAGE_ALL = _IMAGE | {"name", "kind", "source", "layout", "scale", "mean", "std"}
_TEXT = {"length", "max_length", "pad", "max_bytes"}
_TEXT_ALL = _TEXT | {"name", "kind", "source", "mask", "tokenizer"}
_OUTPUT = {"name", "softmax", "top_k"}
_WORDS = ["a", "the", "cat", "server", "river", "sends", "numbers", "back", "and", "forth", "Zürich", "42", "!"]


def preprocess(graph: Graph, spec: Mapping[str, Any] | str | Path) -> Graph:
    """The graph with the operators of `spec` around it; `graph` stays as it is. InputError names what does not fit."""
    folder = Path()
    if isinstance(spec, str | Path):
        folder, spec = Path(spec).parent, _read(Path(spec))
    _known(spec, {"input", "output"}, "the specification")
    whole = Graph(
        Block([], [], list(graph.outputs)),
        dict(graph.constants),
        dict(graph.values),
        graph.name,
        list(graph.states),
        dict(graph.metadata),
    )
    build = Builder(whole)
    build.names |= graph.names()
    left = {value.name: value for value in graph.inputs}
    for row in spec.get("input", ()):
        kind = row.get("kind")
        if kind not in ("image", "text"):
            raise InputError(f"input {row.get('name')!r}: kind is {kind!r}; allowed are image and text")
        (_image if kind == "image" else _text)(build, row, left, folder)
    whole.block.inputs += left.values()
    whole.block.nodes += graph.nodes
    if "output" in spec:
        _output(Builder(whole), spec["output"])
    return whole


def examples(spec: Mapping[str, Any] | str | Path, rows: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Made-up pictures and texts for the inputs of `spec`; `rows` says how many, by the name of the new input."""
    spec = _read(Path(spec)) if isinstance(spec, str | Path) else spec
    rng, found = np.random.default_rng(seed), {}
    for row in spec.get("input", ()):
        name, made = _source(row), []
        for _ in range(rows[name]):
            if row["kind"] == "image":
                width, height = (int(size) for size in rng.integers(16, 48, 2))
                made.append(plain(rng, width, height))
            else:
                made.append(" ".join(rng.choice(_WORDS, rng.integers(1, 12))))
        found[name] = np.array(made, object)
    return found


def _source(row: Mapping[str, Any]) -> str:
    return str(row.get("source") or ("picture" if row["kind"] == "image" else "text"))


def _taken(row: Mapping[str, Any], key: str, left: dict[str, Value]) -> tuple[Value, TensorType]:
    """The model's input that the row names, no longer the client's."""
    name = row.get(key)
    if name not in left:
        raise InputError(f"the model has no input {name!r}; {nearest(str(name), left)}")
    value = left.pop(str(name))
    if not isinstance(value.type, TensorType) or not value.type.shape:
        raise InputError(f"input {name!r} ({value.type}) has no rows")
    return value, value.type


def _given(build: Builder, row: Mapping[str, Any], type: TensorType) -> Value:
    """The new input: a text, or a file, for every row."""
    name = _source(row)
    if name in build.names:
        raise InputError(f"the model has a value {name!r} already: give the new input another name by source")
    assert type.shape is not None
    return build.input(name, TensorType("string", (type.shape[0],)))


def _image(build: Builder, row: Mapping[str, Any], left: dict[str, Value], folder: Path) -> None:
    _known(row, _IMAGE_ALL, f"input {row.get('name')!r}")
    value, type = _taken(row, "name", left)
    attributes = {key: row[key] for key in _IMAGE if key in row}
    if "height" not in attributes:
        raise InputError(f"input {value.name!r}: height is missing")
    (now,) = build.node("Pictures", [_given(build, row, type)], attributes, domain="headrace", outputs=["pixels"])
    number = dtypes.of(type.dtype)
    if type.dtype != "uint8":
        (now,) = build.node("Cast", [now], {"to": number.onnx})
    for key, operator in (("scale", "Div"), ("mean", "Sub"), ("std", "Div")):
        if key in row:
            constant = build.constant(np.asarray(row[key], number.numpy), key)
            (now,) = build.node(operator, [now, constant])
    layout = row.get("layout", "NCHW")
    if layout not in ("NCHW", "NHWC"):
        raise InputError(f"input {value.name!r}: layout is {layout!r}; allowed are NCHW and NHWC")
    if layout == "NCHW":
        (now,) = build.node("Transpose", [now], {"perm": (0, 3, 1, 2)})
    _into(build, now, value, type)


def _text(build: Builder, row: Mapping[str, Any], left: dict[str, Value], folder: Path) -> None:
    _known(row, _TEXT_ALL, f"input {row.get('name')!r}")
    ids, type = _taken(row, "name", left)
    data = row.get("tokenizer")
    if isinstance(data, str | Path):
        try:
            data = (folder / data).read_bytes()
        except OSError as error:
            raise InputError(f"input {ids.name!r}: tokenizer {row['tokenizer']}: {error.strerror}") from None
    if not isinstance(data, bytes):
        raise InputError(f"input {ids.name!r}: tokenizer must be the name of a tokenizer.json, or its bytes")
    tokenizer = build.constant(np.frombuffer(data, np.uint8), "tokenizer")
    attributes = {key: row[key] for key in _TEXT if key in row}
    given = _given(build, row, type)
    made = build.node("Tokens", [given, tokenizer], attributes, domain="headrace", outputs=["tokens", "tokens_mask"])
    targets = [(ids, type)] + ([_taken(row, "mask", left)] if "mask" in row else [])
    for now, (value, kind) in zip(made, targets):
        if kind.dtype != "int64":
            (now,) = build.node("Cast", [now], {"to": dtypes.of(kind.dtype).onnx})
        _into(build, now, value, kind)


def _into(build: Builder, now: Value, value: Value, type: TensorType) -> None:
    """`now` becomes what was the model's input `value`."""
    shape = now.type.shape if isinstance(now.type, TensorType) else None
    pairs = list(zip(shape or (), type.shape or ()))
    if len(shape or ()) != len(type.shape or ()) or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs
    ):
        raise InputError(f"input {value.name!r} is {type}, the specification makes {now.type}")
    build.append(Node("Identity", [now], [value]))


def _output(build: Builder, row: Mapping[str, Any]) -> None:
    _known(row, _OUTPUT, "the output")
    outputs = build.graph.block.outputs
    names = [value.name for value in outputs]
    if row.get("name") not in names:
        raise InputError(f"the model has no output {row.get('name')!r}; {nearest(str(row.get('name')), names)}")
    place = names.index(row["name"])
    now = outputs[place]
    if row.get("softmax"):
        (now,) = build.node("Softmax", [now], {"axis": -1}, outputs=["probabilities"])
    made = [now]
    if "top_k" in row:
        count = build.constant(np.array([row["top_k"]], np.int64), "top_k")
        made = build.node("TopK", [now, count], {"axis": -1}, outputs=["scores", "classes"])
    outputs[place : place + 1] = made


def _known(row: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in row:
        if key not in known:
            raise InputError(f"{where} of the preprocessing has {key!r}; {nearest(key, sorted(known))}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path.name}: {error}") from None


__all__ = ["examples", "preprocess"]
