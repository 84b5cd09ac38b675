"""Run by test_tritonclient.py: the published HTTP client against a headrace server."""

import sys

import numpy as np
import tritonclient.http as triton
from triton_samples import same, samples
from tritonclient.utils import InferenceServerException


def value(name, array, datatype="FP32", binary=True):
    out = triton.InferInput(name, list(array.shape), datatype)
    out.set_data_from_numpy(array, binary_data=binary)
    return out


client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}", concurrency=4)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add")
assert not client.is_model_ready("nope")
assert client.get_server_metadata()["name"] == "headrace"
assert client.get_model_metadata("add")["inputs"][0]["name"] == "a"
assert client.get_model_config("add")["max_batch_size"] == 256

a, b = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
for first in (True, False):
    for second in (True, False):
        for out in (True, False):
            inputs = [value("a", a, binary=first), value("b", b, binary=second)]
            answer = client.infer(
                "add", inputs, outputs=[triton.InferRequestedOutput("sum", binary_data=out)], request_id="r"
            )
            assert same(answer.as_numpy("sum"), a + b) and answer.get_response()["id"] == "r"
inputs = [value("a", a), value("b", b)]
assert same(client.infer("add", inputs).as_numpy("difference"), a - b)
for coding in ("gzip", "deflate"):
    answer = client.infer("add", inputs, request_compression_algorithm=coding, response_compression_algorithm=coding)
    assert same(answer.as_numpy("sum"), a + b)
for datatype, array in samples():
    assert same(client.infer(datatype.lower(), [value("x", array, datatype)]).as_numpy("y"), array), datatype
    if datatype in ("INT32", "UINT64", "BOOL"):
        answer = client.infer(
            datatype.lower(),
            [value("x", array, datatype, False)],
            outputs=[triton.InferRequestedOutput("y", binary_data=False)],
        )
        assert same(answer.as_numpy("y"), array), datatype
scores = np.array([[0.1, 0.7, 0.2, 0.7]], np.float32)
top = client.infer("fp32", [value("x", scores)], outputs=[triton.InferRequestedOutput("y", class_count=2)]).as_numpy(
    "y"
)
assert top.tolist() == [[b"0.700000:1", b"0.700000:3"]]
pending = [client.async_infer("add", [value("a", a + i), value("b", b)]) for i in range(12)]
for index, one in enumerate(pending):
    assert same(one.get_result().as_numpy("sum"), a + index + b)

assert {row["name"]: row["state"] for row in client.get_model_repository_index()}["add"] == "READY"
client.unload_model("fp64")
assert not client.is_model_ready("fp64")
client.load_model("fp64")
assert client.is_model_ready("fp64")
statistics = client.get_inference_statistics("add", "1")["model_stats"][0]
assert statistics["inference_count"] >= 12 and statistics["batch_stats"] and statistics["response_stats"]["0"]
assert {row["name"] for row in client.get_inference_statistics()["model_stats"]} >= {"add", "fp32"}
assert client.get_system_shared_memory_status() == []
client.unregister_system_shared_memory()
assert client.get_trace_settings()["trace_level"] == ["OFF"] and client.get_trace_settings("add")["trace_mode"]
client.update_trace_settings(settings={"trace_level": ["OFF"], "trace_rate": None})
assert client.update_log_settings({"log_verbose_level": 2})["log_verbose_level"] == 2
assert client.update_log_settings({"log_verbose_level": 0}) == client.get_log_settings()
text = value("x", np.array([["ä", "b"]], dtype=np.object_), "BYTES", binary=False)
answer = client.infer("bytes", [text], outputs=[triton.InferRequestedOutput("y", binary_data=False)])
assert answer.as_numpy("y").tolist() in ([["ä", "b"]], [["ä".encode(), b"b"]])
raw = client.generate_request_body([value("x", a)], outputs=[triton.InferRequestedOutput("y")])
assert isinstance(raw, tuple)
for call, code in (
    (lambda: client.infer("nope", inputs), "404"),
    (lambda: client.infer("add", inputs[:1]), "400"),
    (lambda: client.infer("add", inputs, model_version="7"), "404"),
    (lambda: client.load_model("add", config="{}"), "501"),
    (lambda: client.register_system_shared_memory("r", "/k", 64), "501"),
    (lambda: client.register_cuda_shared_memory("r", b"AAAA", 0, 64), "501"),
    (lambda: client.update_log_settings({"log_file": "/tmp/log"}), "501"),
    (
        lambda: client.infer(
            "fp16",
            [value("x", a.astype(np.float16), "FP16")],
            outputs=[triton.InferRequestedOutput("y", binary_data=False)],
        ),
        "400",
    ),
):
    try:
        call()
    except InferenceServerException as error:
        assert code in error.status(), error
    else:
        raise AssertionError(code)
client.close()
print("http ok")
