"""Run by test_kserve.py: KServe's published clients, both asynchronous, against a headrace server."""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

A, B = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
KINDS = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


def request(model, binary, name="r1", **arrays):
    inputs = []
    for key, array in arrays.items():
        datatype = next(
            (k for k, v in KINDS.items() if v == str(array.dtype)), "FP16" if array.dtype == np.float16 else "BYTES"
        )
        one = InferInput(key, list(array.shape), datatype)
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    return InferRequest(model, inputs, request_id=name)


def output(response, name):
    return next(out for out in response.outputs if out.name == name).as_numpy()


async def common(infer, forms):
    for binary in forms:
        answer = await infer(request("add", binary, a=A, b=B))
        assert (output(answer, "sum") == A + B).all() and (output(answer, "difference") == A - B).all()
        assert answer.id == "r1" and answer.model_name == "add"
        for datatype, dtype in KINDS.items():
            x = np.array([[0, 1, 1, 0]]).astype(dtype)
            found = output(await infer(request(datatype.lower(), binary, x=x)), "y")
            assert found.dtype == x.dtype and (found == x).all(), datatype
        x = np.array([["ä", "b"]], np.object_)
        found = output(await infer(request("bytes", binary, x=x)), "y")
        assert [v if isinstance(v, str) else v.decode() for v in found.ravel().tolist()] == ["ä", "b"]


async def rest(port):
    url = f"http://127.0.0.1:{port}"
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, "add") and not await client.is_model_ready(url, "nope")
    await common(lambda asked: client.infer(url, asked, asked.model_name), (True, False))
    try:
        await client.infer(url, request("nope", True, x=A), "nope")
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 404 and "unknown" in str(error.response.text)
    else:
        raise AssertionError("an unknown model answered")
    await client.close()
    print("rest ok")


async def grpc(port):
    import grpc as library

    client = InferenceGRPCClient(f"127.0.0.1:{port}")
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("add") and not await client.is_model_ready("nope")
    await common(client.infer, (True, False))
    for verb, done, flag in (("Unload", "isUnloaded", False), ("Load", "isLoaded", True)):
        asked = getattr(pb, f"RepositoryModel{verb}Request")(model_name="fp64")
        answer = await getattr(client._client_stub, f"RepositoryModel{verb}")(asked)
        assert answer.model_name == "fp64" and getattr(answer, done)
        assert await client.is_model_ready("fp64") is flag
    try:
        await client.infer(request("nope", True, x=A))
    except library.aio.AioRpcError as error:
        assert error.code() is library.StatusCode.NOT_FOUND
    else:
        raise AssertionError("an unknown model answered")
    await client.close()
    print("grpc ok")


asyncio.run({"rest": rest, "grpc": grpc}[sys.argv[1]](sys.argv[2]))
