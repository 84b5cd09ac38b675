"""Warm-up: which batches run before a model is ready, and what a wrong sample says."""

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import serve_call
import serve_fake
from serve_start import FRONTS, need, start

from headrace.protos import inference_pb2 as pb
from headrace.runtime.interface import Golden
from headrace.serve.config import Batching, ConfigError, ModelConfig, Warmup, WarmupInput, WarmupSample, convert
from headrace.serve.pbtxt import read
from headrace.serve.validate import Interface
from headrace.serve.warmup import rehearse, warm_up

DEFAULT = ModelConfig()
ROW = np.arange(8, dtype=np.float32).reshape(2, 4)


class Watched:
    """A model that remembers what it was fed."""

    def __init__(self, model, golden=None):
        self.inputs, self.outputs, self.rows, self.fed = model.inputs, model.outputs, model.rows, []
        self.golden = None if golden is None else Golden([golden], [{}])

    def run(self, feeds):
        self.fed.append(feeds)
        return {}


def warmed(model, config=DEFAULT, most=64, path=Path("none/1/model.hr"), **options):
    pace = warm_up(model, Interface(model.inputs, model.outputs, most), config, path, **options)
    assert pace.runs == len(model.fed) and pace.rows in {1, *(len(next(iter(feeds.values()))) for feeds in model.fed)}
    return [len(next(iter(feeds.values()))) for feeds in model.fed]


def test_golden_inputs_in_the_sizes_that_will_come():
    config = ModelConfig(batching=Batching(max_batch_size=8, preferred_sizes=(4,)))
    model = Watched(serve_fake.identity("FP32", 4), {"x": ROW})
    assert warmed(model, config) == [1, 1, 4, 4, 8, 8]  # twice each: a shape that comes back gets a plan
    assert (model.fed[-1]["x"][:4] == np.concatenate([ROW, ROW])).all()
    model = Watched(serve_fake.identity("FP32", 4), {"x": ROW})
    assert warmed(model) == [1, 1]  # nobody has said that batches of the default's size will come
    assert warmed(Watched(serve_fake.identity("FP32", 4), {"x": ROW}), most=0) == [2, 2]  # as it is: it is not batched
    assert warmed(Watched(serve_fake.identity("FP32", 4))) == []
    model = Watched(serve_fake.identity("FP32", 4), {"x": ROW})
    assert warmed(model, ModelConfig(warmup=Warmup("off"))) == []


def test_the_time_ends_it():
    ticks = itertools.count()  # one before all, one before and one after each run
    config = ModelConfig(batching=Batching(preferred_sizes=(2, 4, 8)), warmup=Warmup(seconds=6))
    assert warmed(Watched(serve_fake.identity("FP32", 4), {"x": ROW}), config, clock=lambda: next(ticks)) == [1, 1, 2]


def test_a_rehearsal_runs_what_the_warm_up_will():
    def rehearsed(model, config, ran=False):
        assert rehearse(model, msgspec.to_builtins(config), Path("none/1/model.hr"), ran)
        return [len(feeds["x"]) for feeds in model.fed]

    config = ModelConfig(batching=Batching(max_batch_size=8))
    golden = Watched(serve_fake.identity("FP32", 4), {"x": ROW})
    assert rehearsed(golden, config) == warmed(Watched(serve_fake.identity("FP32", 4), {"x": ROW}), config, most=8)
    assert rehearsed(Watched(serve_fake.identity("FP32", 4)), config, ran=True) == []
    zeros = Watched(serve_fake.identity("FP32", 4))
    assert rehearsed(zeros, config) == [1] and not zeros.fed[0]["x"].any()  # nothing says what to feed it
    failing = serve_fake.FakeModel(golden.inputs, golden.outputs, lambda feeds: 1 / 0)
    assert rehearse(failing, {}, Path("none/1/model.hr"), False)  # the server will tell that


def sample(where="x", batch=3, **given):
    return ModelConfig(warmup=Warmup(samples=(WarmupSample({where: WarmupInput(**given)}, batch, 1),)))


@pytest.mark.parametrize("datatype", serve_fake.DTYPES)
def test_samples(datatype):
    for data in ("zero", "random"):
        model = Watched(serve_fake.identity(datatype, 4), {"x": ROW})
        assert warmed(model, sample(dims=(4,), data=data)) == [3]
        (feeds,) = model.fed
        assert feeds["x"].shape == (3, 4) and str(feeds["x"].dtype) == serve_fake.DTYPES[datatype].replace(
            "string", "object"
        )
        assert datatype == "BYTES" or bool(np.any(feeds["x"])) is (data == "random")


def test_a_file(tmp_path):
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup/raw").write_bytes(np.arange(12, dtype="<f4").tobytes())
    model = Watched(serve_fake.identity("FP32", 4))
    warmed(model, sample(dims=(4,), file="raw"), path=tmp_path / "1/model.hr")
    assert model.fed[0]["x"].tolist() == np.arange(12).reshape(3, 4).tolist()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (sample("z", dims=(4,)), "the model has no input 'z'; it has x"),
        (ModelConfig(warmup=Warmup(samples=(WarmupSample({}),))), "the input 'x' is given nothing"),
        (sample(dims=(5,)), r"has dims \[5\]; the model has \[4\]"),
        (sample(dims=(4, 1)), r"has dims \[4, 1\]"),
        (sample(batch=65, dims=(4,)), "batch_size is 65; allowed are numbers from 1 to 64"),
        (sample(dims=(4,), file="../x"), "is not the name of a file"),
        (sample(dims=(4,), file="none"), "there is no file 'none'"),
        (sample(dims=(4,), file="short"), "does not hold 12 elements of FP32"),
    ],
)
def test_samples_that_do_not_fit(config, words, tmp_path):
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup/short").write_bytes(b"1234")
    with pytest.raises(ConfigError, match=words):
        warmed(Watched(serve_fake.identity("FP32", 4)), config, path=tmp_path / "1/model.hr")


def test_a_sample_is_bounded():
    model = Watched(serve_fake.identity("FP32", "n"))
    with pytest.raises(ConfigError, match="more than"):
        warmed(model, sample(dims=(2**40,)))


PBTXT = """
max_batch_size: 8
model_warmup [ { name: "first" batch_size: 4 count: 3 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: true } } } ]
"""


@pytest.mark.parametrize("front", FRONTS)
def test_a_served_model_is_warm(front, tmp_path):
    """By Triton's form of the configuration: it ran before it was ready, and ModelConfig tells how."""
    need(front)
    root = serve_fake.repository(tmp_path, {"m": "scale 2", "bad": "poison", "late": "scale 2"})
    (root / "m/config.pbtxt").write_text(PBTXT)
    (root / "bad/config.toml").write_text('[[warmup.samples]]\ninputs.x = {dims = [4], file = "poison"}\n')
    (root / "bad/warmup").mkdir()
    (root / "bad/warmup/poison").write_bytes(np.full(4, 666, "<f4").tobytes())
    made = {}

    def load(path):
        return made.setdefault(path.parent.parent.name, serve_fake.load(path))

    with start(root, front, loader=load) as server:
        assert made["m"].calls == [4, 4, 4] and made["late"].calls == []
        rows = {row[0]: row for row in server._manager.index()}
        assert rows["bad"][2] == "UNAVAILABLE" and "secret" not in rows["bad"][3]  # what a run raises stays in the log
        (shown,) = json_of(server, "m")["model_warmup"]
        assert (shown["name"], shown["batch_size"], shown["count"]) == ("first", 4, 3)
        assert shown["inputs"]["x"]["random_data"] is True and shown["inputs"]["x"]["data_type"] == "TYPE_FP32"
        with serve_call.channel(server) as opened:
            request = pb.ModelConfigRequest(name="m")
            wire = serve_call.unary(opened, "ModelConfig", request, pb.ModelConfigResponse).config.model_warmup[0]
        assert wire.inputs["x"].WhichOneof("input_data_type") == "random_data" and list(wire.inputs["x"].dims) == [4]


def json_of(server, model):
    return json.loads(serve_call.rest(server, "GET", f"/v2/models/{model}/config")[1])


def test_both_forms_of_the_configuration_say_the_same(tmp_path):
    (tmp_path / "config.pbtxt").write_text(PBTXT)
    found, ignored = read(tmp_path / "config.pbtxt", "m")
    toml = {
        "samples": [{"name": "first", "batch_size": 4, "count": 3, "inputs": {"x": {"dims": [4], "data": "random"}}}]
    }
    assert found.warmup == convert(ModelConfig, {"warmup": toml}, "x").warmup and ignored == []
