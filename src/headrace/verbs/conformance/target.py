"""The server that is looked at: raw calls of both protocols, and a model with inputs that fit it."""

from __future__ import annotations

import functools
import http.client
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np

from headrace.protos import inference_pb2 as pb
from headrace.serve.client_grpc import metadata_of, opener_of
from headrace.serve.client_rest import context_of
from headrace.serve.client_types import ClientTls, connection_of
from headrace.serve.datatypes import DATATYPES, encode_bytes, to_wire
from headrace.serve.grpc_codes import SERVICE
from headrace.verbs.conformance.check import Differs, NotHere

OK = "OK"
Answer = tuple[int, dict[str, str], bytes]


class Target:
    """`address` is host:port of gRPC, `rest` that of REST, with or without http:// or https:// ("": not looked at); `model` "" takes the first that is ready.
    `tls` and `token` are used for both."""

    def __init__(
        self, address: str, rest: str = "", model: str = "", timeout: float = 10.0, tls: ClientTls | str | None = None,
        token: str = "",
    ) -> None:  # fmt: skip
        connection = connection_of(address, timeout, tls, token, "")
        self.rest_address, self._timeout = rest.removeprefix("http://").removeprefix("https://"), timeout
        trust = connection.tls or (ClientTls() if rest.startswith("https://") else None)
        self._context = None if trust is None else context_of(trust)
        self._metadata_sent = metadata_of(connection)
        self._channel = opener_of(connection)(grpc)
        self.asked_model = model
        self._metadata: dict[str, Any] = {}

    def close(self) -> None:
        self._channel.close()

    # ---- gRPC ----

    def raw(self, path: str, data: bytes, compression: Any = None) -> bytes:
        """The answer of a unary method; grpc.RpcError."""
        call = self._channel.unary_unary(path)
        answer: bytes = call(data, timeout=self._timeout, compression=compression, metadata=self._metadata_sent)
        return answer

    def call(self, method: str, request: Any, compression: Any = None) -> Any:
        data = self.raw(f"/{SERVICE}/{method}", request.SerializeToString(), compression)
        return getattr(pb, f"{method}Response").FromString(data)

    def extension(self, method: str, request: Any) -> Any:
        """As `call`, of a method that a server may lack."""
        try:
            return self.call(method, request)
        except grpc.RpcError as error:
            if error.code().name in ("UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"):
                raise NotHere(f"{method} is {error.code().name}") from None
            raise

    def code(self, method: str, request: Any) -> str:
        """The name of the status."""
        try:
            self.call(method, request)
        except grpc.RpcError as error:
            return str(error.code().name)
        return OK

    def stream(
        self, path: str, messages: Iterable[bytes], metadata: tuple[tuple[str, str], ...] = ()
    ) -> Iterator[bytes]:
        answers: Iterator[bytes] = self._channel.stream_stream(path)(
            iter(messages), timeout=self._timeout, metadata=(*self._metadata_sent, *metadata)
        )
        return answers

    # ---- REST ----

    def http(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """(status, headers with lower-case names, body); `body` a document or bytes."""
        if not self.rest_address:
            raise NotHere("no REST address was given")
        if self._context is None:
            connection = http.client.HTTPConnection(self.rest_address, timeout=self._timeout)
        else:
            connection = http.client.HTTPSConnection(self.rest_address, timeout=self._timeout, context=self._context)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {**dict(self._metadata_sent), **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Differs(f"the connection broke ({type(error).__name__})") from None
        finally:
            connection.close()

    def document(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that must be 200."""
        status, _, data = self.http(method, path, body)
        if status != 200:
            raise Differs(f"{method} {path} answers {status}")
        return json.loads(data) if data else None

    # ---- a model ----

    @functools.cached_property
    def models(self) -> list[str]:
        """The models that are ready, as far as the server tells."""
        if self.asked_model:
            return [self.asked_model]
        try:
            rows = self.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models
            names = [row.name for row in rows]
        except grpc.RpcError:
            names = []
            if self.rest_address:
                status, _, data = self.http("GET", "/v2/models")
                names = json.loads(data).get("models", []) if status == 200 else []
        found = [
            name
            for name in dict.fromkeys(names)
            if self.code("ModelMetadata", pb.ModelMetadataRequest(name=name)) == OK
        ]
        if not found:
            raise NotHere("the server names no model that is ready; name one with --model")
        return found

    @functools.cached_property
    def model(self) -> str:
        """The one that most checks use: with fixed-size elements where there is one."""
        for name in self.models:
            if all(row.datatype != "BYTES" for row in self.metadata(name).inputs):
                return name
        return self.models[0]

    def metadata(self, model: str) -> Any:
        if model not in self._metadata:
            self._metadata[model] = self.call("ModelMetadata", pb.ModelMetadataRequest(name=model))
        return self._metadata[model]

    @functools.cached_property
    def echoes(self) -> dict[str, str]:
        """datatype -> a model with one input and one output that gives back what it gets."""
        found: dict[str, str] = {}
        for name in self.models:
            facts = self.metadata(name)
            if (
                len(facts.inputs) != 1
                or len(facts.outputs) != 1
                or facts.inputs[0].datatype != facts.outputs[0].datatype
            ):
                continue
            request = self.request(name)
            try:
                answer = self.call("ModelInfer", request)
            except grpc.RpcError:
                continue
            if list(answer.raw_output_contents) == list(request.raw_input_contents):
                found.setdefault(facts.inputs[0].datatype, name)
        return found

    def request(self, model: str = "", seed: int = 0, **fields: Any) -> Any:
        """A ModelInferRequest that fits a model; free dimensions are 1."""
        model = model or self.model
        rng = np.random.default_rng(seed)
        request = pb.ModelInferRequest(model_name=model, **fields)
        for row in self.metadata(model).inputs:
            shape = [1 if size < 0 else size for size in row.shape]
            request.inputs.add(name=row.name, datatype=row.datatype, shape=shape)
            request.raw_input_contents.append(values(row.datatype, shape, rng))
        return request

    def documents(self, model: str = "") -> dict[str, Any]:
        """The same request as JSON. NotHere where its datatypes have none."""
        request = self.request(model)
        tensors = []
        for row, data in zip(request.inputs, request.raw_input_contents):
            if row.datatype in ("FP16", "BF16", "BYTES"):
                raise NotHere(f"the model has {row.datatype} inputs")
            flat = np.frombuffer(data, DATATYPES[row.datatype].dtype).tolist()
            tensors.append({"name": row.name, "datatype": row.datatype, "shape": list(row.shape), "data": flat})
        return {"inputs": tensors}


def values(datatype: str, shape: list[int], rng: np.random.Generator) -> bytes:
    """The raw form of some elements: small whole numbers, which every datatype holds exactly."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return encode_bytes([f"text {n}" for n in range(count)])
    return bytes(to_wire(rng.integers(0, 2, count).astype(DATATYPES[datatype].dtype)))


__all__ = ["OK", "Target", "values"]
