"""Inferences with parameters, over either protocol, for tests; errors come as ServeError with the meaning of their code."""

from __future__ import annotations

import http.client
import json

import grpc
import numpy as np

from headrace.protos import inference_pb2 as pb
from headrace.serve.datatypes import DATATYPES, decode_bytes, of_array, to_wire
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.grpc_codec import write_parameters
from headrace.serve.grpc_codes import CODES
from headrace.serve.rest_front import STATUS

HOWS = ["grpc", "http"]
SERVICE = "/inference.GRPCInferenceService/"


def infer(server, how, model, feeds, parameters=None, outputs=()):
    """(arrays by name, parameters) of the answer. `outputs` are dictionaries of REST's form."""
    return (_grpc if how == "grpc" else _http)(server, model, feeds, parameters or {}, outputs)


def message(model, feeds, parameters=None, outputs=(), id=""):
    """A ModelInferRequest."""
    request = pb.ModelInferRequest(model_name=model, id=id)
    for name, array in feeds.items():
        request.inputs.add(name=name, datatype=of_array(array).name, shape=array.shape)
        request.raw_input_contents.append(bytes(to_wire(array)))
    for key, value in write_parameters(parameters or {}).items():
        request.parameters[key].CopyFrom(value)
    for item in outputs:
        output = request.outputs.add(name=item["name"])
        for key, value in write_parameters(item.get("parameters", {})).items():
            output.parameters[key].CopyFrom(value)
    return request


def arrays(response):
    """The outputs of a ModelInferResponse."""
    found = {}
    for output, data in zip(response.outputs, response.raw_output_contents):
        datatype, count = DATATYPES[output.datatype], int(np.prod(output.shape))
        flat = decode_bytes(data, count) if not datatype.size else np.frombuffer(data, datatype.dtype)
        found[output.name] = flat.reshape(tuple(output.shape)) if flat.size == count else flat
    return found


def values(parameters):
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in parameters.items()}


def channel(server):
    return grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.max_receive_message_length", -1)])


def unary(opened, verb, request, response):
    try:
        return response.FromString(opened.unary_unary(SERVICE + verb)(request.SerializeToString(), timeout=30))
    except grpc.RpcError as error:
        codes = {code: meaning for meaning, code in reversed(CODES.items())}
        raise ServeError(codes[error.code().value[0]], error.details()) from None


def _grpc(server, model, feeds, parameters, outputs):
    with channel(server) as opened:
        answer = unary(opened, "ModelInfer", message(model, feeds, parameters, outputs), pb.ModelInferResponse)
    return arrays(answer), values(answer.parameters)


def stream(server, requests, **options):
    """The ModelStreamInferResponse messages to ModelInferRequests, as they come."""
    sent = (request.SerializeToString() for request in requests)
    with channel(server) as opened:
        for data in opened.stream_stream(SERVICE + "ModelStreamInfer")(sent, timeout=30, **options):
            yield pb.ModelStreamInferResponse.FromString(data)


def get(server, path, method="GET", body=None, headers=None, port=None):
    """(status, body, headers) of a call over HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port or server.http_port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def rest(server, method, path, document=None):
    """(status, body) of a call over REST."""
    return get(server, path, method, None if document is None else json.dumps(document))[:2]


def _http(server, model, feeds, parameters, outputs):
    inputs = []
    for name, array in feeds.items():
        data = [x.decode() if isinstance(x, bytes) else x for x in array.reshape(-1).tolist()]
        inputs.append({"name": name, "datatype": of_array(array).name, "shape": array.shape, "data": data})
    document = {"inputs": inputs, "parameters": parameters} | ({"outputs": list(outputs)} if outputs else {})
    status, body = rest(server, "POST", f"/v2/models/{model}/infer", document)
    answer = json.loads(body)
    if status != 200:
        raise ServeError(next(meaning for meaning, code in STATUS.items() if code == status), answer["error"])
    found = {}
    for output in answer["outputs"]:
        datatype = DATATYPES[output["datatype"]]
        flat = [x.encode() for x in output["data"]] if not datatype.size else output["data"]
        found[output["name"]] = np.array(flat, datatype.dtype).reshape(output["shape"])
    return found, answer.get("parameters", {})


__all__ = ["HOWS", "Meaning", "ServeError", "infer", "message", "rest", "stream"]
