"""config.pbtxt: what becomes a setting, what is checked against the model, what is refused, what is named without effect."""

import logging

import pytest
import serve_fake
from serve_start import start

from headrace.serve import Client
from headrace.serve.config import ConfigError, Declared
from headrace.serve.pbtxt import read

FULL = """
name: "add"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "a" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "b" data_type: TYPE_FP32 dims: [ -1 ] }
]
output { name: "sum" data_type: TYPE_FP32 dims: 4 label_filename: "labels.txt" }
version_policy: { specific { versions: [ 1, 3 ] } }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0 ] } ]
dynamic_batching {
  preferred_batch_size: [ 4 ]
  max_queue_delay_microseconds: 100
  preserve_ordering: true
  default_queue_policy { max_queue_size: 16 default_timeout_microseconds: 1500 allow_timeout_override: true }
}
optimization { graph { level: 1 } }
parameters { key: "k" value { string_value: "v" } }
"""


@pytest.fixture
def pbtxt(tmp_path):
    def parsed(text, model="add"):
        (tmp_path / "config.pbtxt").write_text(text)
        return read(tmp_path / "config.pbtxt", model)

    return parsed


def test_settings(pbtxt):
    config, ignored = pbtxt(FULL)
    assert (config.batching.max_batch_size, config.batching.max_delay_us, config.batching.preserve_ordering) == (
        8, 100, True,
    )  # fmt: skip
    assert (config.queue.max_size, config.queue.timeout_ms, config.instances.count) == (16, 2, 3)
    assert (config.versions.policy, config.versions.keep) == ("specific", (1, 3))
    assert config.inputs == (Declared("a", "FP32", (4,)), Declared("b", "FP32", (-1,)))
    assert config.postprocess.labels == {"sum": "labels.txt"}
    assert ignored == [
        "optimization", "parameters", "instance_group.gpus",
        "instance_group.kind (KIND_GPU)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "policy", "keep"),
    [
        ("", "latest", 1),
        ("version_policy { all {} }", "all", 1),
        ("version_policy { latest { num_versions: 3 } }", "latest", 3),
    ],
)
def test_version_policies(pbtxt, text, policy, keep):
    config, _ = pbtxt(text)
    assert (config.versions.policy, config.versions.keep) == (policy, keep)
    assert config.batching.max_batch_size == 0  # as there: without it, requests are not batched


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name: "other"', "name is 'other'; allowed are add"),
        ('platform: "tensorrt_plan"', "platform is 'tensorrt_plan'; allowed are onnxruntime"),
        ('backend: "python"', "backend is 'python'"),
        ('default_model_filename: "net.onnx"', "allowed are model.onnx, model.hr"),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ('input { name: "a" dims: 4 }', "input 'a': data_type is TYPE_INVALID"),
        ('input { name: "a" data_type: TYPE_FP32 reshape { shape: [] } }', "reshape"),
        ("max_batchsize: 4", "config.pbtxt: 1:1 : Message type"),
        ("name: 5", "config.pbtxt: 1:7"),
        ("{{{", "config.pbtxt: 1:1"),
    ],
)
def test_what_is_refused(pbtxt, text, words):
    with pytest.raises(ConfigError) as caught:
        pbtxt(text)
    assert words in str(caught.value)


def test_a_repository_with_config_pbtxt_is_served(tmp_path, caplog):
    models = {"add/1": "add", "add/2": "add", "add/3": "add", "wrong": "add", "whole": "dependent"}
    serve_fake.repository(tmp_path, models)
    (tmp_path / "add/config.pbtxt").write_text(FULL)
    (tmp_path / "add/labels.txt").write_text("a\nb\n")
    (tmp_path / "wrong/config.pbtxt").write_text('input { name: "a" data_type: TYPE_INT32 dims: [ -1, 4 ] }')
    (tmp_path / "whole/config.pbtxt").write_text(
        'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }'
    )
    with caplog.at_level(logging.WARNING), start(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.metadata("add")["versions"] == ["1", "3"]
        config = client.config("add")
        assert config["max_batch_size"] == 8 and config["version_policy"] == {"specific": {"versions": [1, 3]}}
        rows = {row["name"]: row for row in client.index()}
        assert rows["wrong"]["reason"] == "input 'a' is INT32 in the configuration, FP32 in the model"
        # rows that are not proven independent are never merged, whatever the file asks for
        assert client.ready("whole") and client.config("whole").get("max_batch_size", 0) == 0
        assert "node 'mean'" in client.metadata("whole")["properties"]["headrace.batching"]
    assert any("without effect" in r.message and "optimization" in r.message for r in caplog.records)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ('input { name: "z" data_type: TYPE_FP32 dims: 4 }', "has an input 'z'; the model has a, b"),
        ('output { name: "sum" data_type: TYPE_FP32 dims: [ 4, 4 ] }', "has dims [4, 4] in the configuration, [4]"),
        ('output { name: "sum" data_type: TYPE_FP32 dims: 5 }', "has dims [5] in the configuration, [4] in the model"),
    ],
)
def test_a_contradiction_names_both_values(tmp_path, declared, words):
    serve_fake.repository(tmp_path, {"m": "add"})
    (tmp_path / "m/config.pbtxt").write_text("max_batch_size: 2 " + declared)
    with start(tmp_path) as server:
        assert words in server._manager.index()[0][3]


def test_the_largest_numbers_mean_no_limit(pbtxt):
    queue = "max_queue_size: 4294967295 default_timeout_microseconds: 18446744073709551615"
    config, _ = pbtxt(
        "dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 priority_levels: 1 "
        f"default_queue_policy {{ {queue} }} priority_queue_policy {{ key: 1 value {{ {queue} }} }} }}"
    )
    assert {config.batching.max_delay_us, config.queue.max_size, config.queue.timeout_ms} == {2**31 - 1}
    assert {config.queue.levels["1"].max_size, config.queue.levels["1"].timeout_ms} == {2**31 - 1}
    config, _ = pbtxt("sequence_batching { max_sequence_idle_microseconds: 18446744073709551615 }")
    assert config.sequence.idle_timeout_ms == 2**31 - 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dynamic_batching { priority_levels: 4000000000 }", "queue.priority_levels is 4000000000; allowed"),
        ("instance_group [{ count: 2000000 }]", "instances.count is 2000000; allowed"),
        ("version_policy { specific { versions: [-1] } }", r"versions.keep\[0\] is -1"),
    ],
)
def test_numbers_that_cannot_work(pbtxt, text, words):
    with pytest.raises(ConfigError, match=words):
        pbtxt(text)
