"""Run by test_tritonclient.py: the published gRPC client against a headrace server."""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from triton_samples import same, samples
from tritonclient.utils import InferenceServerException


def value(name, array, datatype="FP32"):
    out = triton.InferInput(name, list(array.shape), datatype)
    out.set_data_from_numpy(array)
    return out


client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add")
assert not client.is_model_ready("nope")
assert client.get_server_metadata().name == "headrace"
assert client.get_model_metadata("add").inputs[0].name == "a"
assert client.get_model_metadata("add", as_json=True)["outputs"][0]["datatype"] == "FP32"
config = client.get_model_config("add").config
assert config.max_batch_size == 256 and config.input[0].dims == [4] and config.HasField("dynamic_batching")

a, b = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
inputs = [value("a", a), value("b", b)]
answer = client.infer("add", inputs, request_id="r1", outputs=[triton.InferRequestedOutput("sum")])
assert (
    same(answer.as_numpy("sum"), a + b) and answer.get_response().id == "r1" and answer.as_numpy("difference") is None
)
answer = client.infer(
    "add", inputs, model_version="1", priority=2, timeout=10_000_000, client_timeout=10, parameters={"k": "v"}
)
assert same(answer.as_numpy("difference"), a - b)
for datatype, array in samples():
    assert same(client.infer(datatype.lower(), [value("x", array, datatype)]).as_numpy("y"), array), datatype
for algorithm in ("gzip", "deflate"):
    assert same(client.infer("add", inputs, compression_algorithm=algorithm).as_numpy("sum"), a + b)
scores = np.array([[0.1, 0.7, 0.2, 0.7]], np.float32)
top = client.infer("fp32", [value("x", scores)], outputs=[triton.InferRequestedOutput("y", class_count=2)]).as_numpy(
    "y"
)
assert top.tolist() == [[b"0.700000:1", b"0.700000:3"]]

done = queue.Queue()
for index in range(20):
    client.async_infer(
        "add", [value("a", a + index), value("b", b)], lambda result, error, i=index: done.put((i, result, error))
    )
for _ in range(20):
    index, result, error = done.get(timeout=20)
    assert error is None and same(result.as_numpy("sum"), a + index + b)

client.start_stream(lambda result, error: done.put((result, error)))
client.async_stream_infer("add", inputs, request_id="s", sequence_id="one", sequence_start=True, sequence_end=True)
result, error = done.get(timeout=20)
assert error is None and result.get_response().parameters["triton_final_response"].bool_param
for index in range(5):
    client.async_stream_infer("add", [value("a", a + index), value("b", b)], request_id=str(index))
client.async_stream_infer("nope", inputs, request_id="x")
for index in range(5):
    result, error = done.get(timeout=20)
    assert error is None and result.get_response().id == str(index) and same(result.as_numpy("sum"), a + index + b)
assert "unknown" in str(done.get(timeout=20)[1])
client.stop_stream()

assert {m.name: m.state for m in client.get_model_repository_index().models}["add"] == "READY"
client.unload_model("fp64")
assert not client.is_model_ready("fp64")
client.load_model("fp64")
assert client.is_model_ready("fp64")
statistics = client.get_inference_statistics("add", "1").model_stats[0]
assert statistics.inference_count >= 40 and statistics.inference_stats.success.count >= 20
assert statistics.batch_stats and statistics.response_stats["0"].success.count and statistics.memory_usage
assert {row.name for row in client.get_inference_statistics().model_stats} >= {"add", "fp32"}
assert client.get_system_shared_memory_status().regions == {}
client.unregister_system_shared_memory()
assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
assert client.get_trace_settings("add", as_json=True)["settings"]["trace_mode"]
client.update_trace_settings(settings={"trace_level": "OFF", "trace_rate": None})
assert client.get_log_settings().settings["log_info"].bool_param
client.update_log_settings({"log_info": False, "log_verbose_level": 2})
assert client.get_log_settings().settings["log_verbose_level"].uint32_param == 2
client.update_log_settings({"log_info": True, "log_verbose_level": 0})
for call, code in (
    (lambda: client.infer("nope", inputs), "NOT_FOUND"),
    (lambda: client.infer("add", inputs[:1]), "INVALID_ARGUMENT"),
    (lambda: client.infer("add", [value("a", a), value("c", b)]), "INVALID_ARGUMENT"),
    (lambda: client.infer("add", inputs, outputs=[triton.InferRequestedOutput("nope")]), "INVALID_ARGUMENT"),
    (lambda: client.infer("add", inputs, model_version="7"), "NOT_FOUND"),
    (lambda: client.load_model("nope"), "NOT_FOUND"),
    (lambda: client.load_model("add", config="{}"), "UNIMPLEMENTED"),
    (lambda: client.register_system_shared_memory("r", "/k", 64), "UNIMPLEMENTED"),
    (lambda: client.register_cuda_shared_memory("r", bytes(64), 0, 64), "UNIMPLEMENTED"),
    (lambda: client.load_model("add", config="{}", files={"file:1/model.hr": b"x"}), "UNIMPLEMENTED"),
    (lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}), "UNIMPLEMENTED"),
    (lambda: client.update_log_settings({"log_file": "/tmp/log"}), "UNIMPLEMENTED"),
    (lambda: client.get_system_shared_memory_status("r"), "NOT_FOUND"),
    (lambda: client.get_model_metadata("add", "stable"), "NOT_FOUND"),
):
    try:
        call()
    except InferenceServerException as error:
        assert code in error.status(), error
    else:
        raise AssertionError(code)
client.close()
print("grpc ok")
