"""Every meaning of an error has its code on each front, and its text arrives unchanged."""

import http.client
import json

import grpc
import pytest

from headrace.protos import inference_pb2 as pb
from headrace.serve.errors import Meaning, ServeError

ROWS = {  # meaning: (gRPC status, HTTP status)
    Meaning.BAD_ARGUMENT: ("INVALID_ARGUMENT", 400),
    Meaning.NOT_FOUND: ("NOT_FOUND", 404),
    Meaning.EXISTS: ("ALREADY_EXISTS", 400),
    Meaning.UNSUPPORTED: ("UNIMPLEMENTED", 501),
    Meaning.UNAVAILABLE: ("UNAVAILABLE", 503),
    Meaning.OVERLOADED: ("RESOURCE_EXHAUSTED", 429),
    Meaning.EXPIRED: ("DEADLINE_EXCEEDED", 504),
    Meaning.CANCELLED: ("CANCELLED", 499),
    Meaning.TOO_LARGE: ("RESOURCE_EXHAUSTED", 413),
    Meaning.UNAUTHENTICATED: ("UNAUTHENTICATED", 401),
    Meaning.FORBIDDEN: ("PERMISSION_DENIED", 403),
    Meaning.INTERNAL: ("INTERNAL", 500),
}


@pytest.mark.parametrize("meaning", Meaning)
def test_a_meaning_is_a_code(meaning, server, channel, monkeypatch):
    retry = 1500 if meaning is Meaning.OVERLOADED else None

    def fail(name, version):
        raise ServeError(meaning, f"about {name!r}: 5 ≤ 7 % \\", retry_after_ms=retry)

    monkeypatch.setattr(server._plane, "model_metadata", fail)
    code, status = ROWS[meaning]
    request = pb.ModelMetadataRequest(name="m").SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")(request, timeout=20)
    assert caught.value.code().name == code
    assert caught.value.details() == "about 'm': 5 ≤ 7 % \\"
    trailers = dict(caught.value.trailing_metadata() or ())
    assert trailers.get("grpc-retry-pushback-ms") == (str(retry) if retry else None)
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("GET", "/v2/models/m")
    answer = connection.getresponse()
    assert answer.status == status and json.loads(answer.read()) == {"error": "about 'm': 5 ≤ 7 % \\"}
    assert answer.headers.get("Retry-After") == ("2" if retry else None)
    connection.close()
