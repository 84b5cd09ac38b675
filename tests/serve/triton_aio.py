"""Run by test_tritonclient.py: the published asyncio clients, and the published reflection client, against our fronts."""

import asyncio
import sys

import grpc
import numpy as np
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http.aio as http_aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from triton_samples import same, samples
from tritonclient.utils import InferenceServerException

A, B = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)


def value(library, name, array, datatype="FP32"):
    out = library.InferInput(name, list(array.shape), datatype)
    out.set_data_from_numpy(array)
    return out


async def both(library, client):
    assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("add")
    assert not await client.is_model_ready("nope")
    inputs = [value(library, "a", A), value(library, "b", B)]
    answer = await client.infer("add", inputs, outputs=[library.InferRequestedOutput("sum")], request_id="7")
    assert same(answer.as_numpy("sum"), A + B)
    for datatype, array in samples():
        answer = await client.infer(datatype.lower(), [value(library, "x", array, datatype)])
        assert same(answer.as_numpy("y"), array), datatype
    many = await asyncio.gather(
        *(client.infer("add", [value(library, "a", A + i), value(library, "b", B)]) for i in range(30))
    )
    assert all(same(answer.as_numpy("sum"), A + i + B) for i, answer in enumerate(many))
    await client.unload_model("int8")
    assert not await client.is_model_ready("int8")
    await client.load_model("int8")
    assert await client.is_model_ready("int8")
    try:
        await client.infer("add", inputs[:1])
    except InferenceServerException as error:
        assert "'b' is missing" in str(error)
    else:
        raise AssertionError("no error")


async def over_grpc(port):
    async with grpc_aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        await both(grpc_aio, client)
        assert (await client.get_server_metadata()).name == "headrace"
        assert (await client.get_model_config("add")).config.max_batch_size == 256
        statistics = (await client.get_inference_statistics("add", as_json=True))["model_stats"][0]
        assert int(statistics["inference_stats"]["success"]["count"]) >= 31 and statistics["batch_stats"]
        assert {m.name for m in (await client.get_model_repository_index()).models} >= {"add", "bytes"}

        async def requests():
            for i in range(40):
                inputs = [value(grpc_aio, "a", A + i), value(grpc_aio, "b", B)]
                yield {"model_name": "add", "inputs": inputs, "request_id": str(i), "enable_empty_final_response": True}
            yield {"model_name": "nope", "inputs": inputs, "request_id": "40"}

        got = [(result, error) async for result, error in client.stream_infer(requests())]
        assert len(got) == 41 and "unknown" in str(got[40][1])
        for i, (result, error) in enumerate(got[:40]):
            assert error is None and result.get_response().id == str(i) and same(result.as_numpy("sum"), A + i + B)


async def over_http(port):
    async with http_aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        await both(http_aio, client)
        assert (await client.get_server_metadata())["name"] == "headrace"
        assert (await client.get_model_config("add"))["max_batch_size"] == 256
        assert (await client.get_inference_statistics("add"))["model_stats"][0]["batch_stats"]


def reflected(port):
    """The published reflection client builds a message class from what the server tells, and calls with it."""
    from google.protobuf.message_factory import GetMessageClass

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelMetadata")
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        assert call(request(name="add"), timeout=20).inputs[0].datatype == "FP32"


asyncio.run(over_grpc(sys.argv[1]))
asyncio.run(over_http(sys.argv[2]))
reflected(sys.argv[1])
print("aio ok")
