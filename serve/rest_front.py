"""The REST front: `/v2` over the data plane. It translates, and does nothing else."""

import contextlib
import itertools
import json
import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import unquote

from headrace.serve import incidents, openapi, rest_codec, rest_generate
from headrace.serve.config import Limits
from headrace.serve.dataplane import DataPlane
from headrace.serve.datatypes import Buffer
from headrace.serve.errors import Meaning, ServeError, bad_argument, quoted
from headrace.serve.guard import Guard
from headrace.serve.http_messages import HttpRequest, HttpResponse
from headrace.serve.rejections import MESSAGE
from headrace.serve.request import InferResponse
from headrace.serve.tracing import Reading, read_traced, traced

STATUS = {
    Meaning.BAD_ARGUMENT: 400,
    Meaning.NOT_FOUND: 404,
    Meaning.EXISTS: 400,
    Meaning.UNSUPPORTED: 501,
    Meaning.UNAVAILABLE: 503,
    Meaning.OVERLOADED: 429,
    Meaning.EXPIRED: 504,
    Meaning.CANCELLED: 499,
    Meaning.TOO_LARGE: 413,
    Meaning.UNAUTHENTICATED: 401,
    Meaning.FORBIDDEN: 403,
    Meaning.INTERNAL: 500,
}
LOAD_FORM, LOAD_REPORT = b"endpoint-load-metrics-format", b"endpoint-load-metrics"
JSON = (b"content-type", b"application/json")
WORTHWHILE = 1024  # bytes: smaller answers are not compressed; native/rest.cpp has the same
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
BINARY = (b"content-type", b"application/octet-stream")

Handler = Callable[[HttpRequest], HttpResponse]
Routes = dict[str, Handler]


def group_of(parts: list[str]) -> str:
    """The group that a path belongs to, as restrictions and roles name it."""
    match parts:
        case ["v2", "health", *_] | ["v2", "models", _, "ready"] | ["v2", "models", _, "versions", _, "ready"]:
            return "health"
        case ["v2", "headrace", "slow"]:
            return "statistics"
        case ["v2", "models", "stats"] | ["v2", "models", _, "stats"] | ["v2", "models", _, "versions", _, "stats"]:
            return "statistics"
        case ["v2", "models", _, "config"] | ["v2", "models", _, "versions", _, "config"]:
            return "model-config"
        case ["v2", "models", _, ("infer" | "generate" | "generate_stream")]:
            return "inference"
        case ["v2", "models", _, "versions", _, ("infer" | "generate" | "generate_stream")]:
            return "inference"
        case ["v2", "repository", *_]:
            return "model-repository"
        case ["v2", ("systemsharedmemory" | "cudasharedmemory"), *_]:
            return "shared-memory"
        case ["v2", "trace", *_] | ["v2", "models", _, "trace", *_]:
            return "trace"
        case ["v2", "logging"]:
            return "logging"
        case (
            ["v2"]
            | ["v2", "openapi.json"]
            | ["v2", "models"]
            | ["v2", "models", _]
            | ["v2", "models", _, "versions", _]
        ):
            return "metadata"
    return "model-repository"  # what is not named here needs the most


class RestFront:
    """An `http_messages.Application`."""

    def __init__(self, plane: DataPlane, limits: Limits, guard: Guard | None = None) -> None:
        self._plane = plane
        self._guard = guard or Guard()
        self._limit = limits.max_message_bytes

    @property
    def closing(self) -> bool:
        return self._plane.draining

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            path = request.target.split("?", 1)[0]
            parts = [unquote(part) for part in path.strip("/").split("/")]
            routes = self._routes(parts)
            if routes is None:
                return self.refuse(404, "the path is unknown; a model is run by POST /v2/models/NAME/infer")
            handler = routes.get("GET" if request.method == "HEAD" else request.method)
            if handler is None:
                response = self.refuse(405, f"the method is not allowed here; allowed: {', '.join(routes)}")
                response.headers.append((b"allow", ", ".join(routes).encode()))
                return response
            request.trusted = self._guard.check("http", group_of(parts), request.header, request.local)
            request.body = self._inflated(request)
            return handler(request)
        except ServeError as error:
            return failure(error)
        except Exception as error:
            return failure(incidents.internal("a REST request", error))

    def refuse(self, status: int, text: str) -> HttpResponse:
        return _answer({"error": text}, status)

    # ---- routes ----

    def _routes(self, parts: list[str]) -> Routes | None:
        plane = self._plane
        match parts:
            case ["v2"]:
                return {"GET": lambda _: _answer(plane.server_metadata())}
            case ["v2", "openapi.json"]:
                return {"GET": lambda _: _answer(openapi.document(plane.server_metadata()["version"]))}
            case ["v2", "health", "live"]:
                return {"GET": lambda _: _answer(plane.server_live())}
            case ["v2", "health", "ready"]:
                return {"GET": lambda _: _ready(plane.server_ready())}
            case ["v2", "models"]:
                return {"GET": lambda _: _answer({"models": sorted({v.name for v in plane.manager.versions()})})}
            case ["v2", "headrace", "slow"]:
                return {"GET": lambda _: _answer(plane.slow())}
            case ["v2", "models", "stats"]:
                return {"GET": lambda _: _answer(plane.statistics("", ""))}
            case ["v2", "models", name, "trace", "setting"] if name:
                return self._trace(name)
            case ["v2", "models", name, "versions", version, *rest] if version:
                return self._model(name, version, rest)
            case ["v2", "models", name, *rest] if name:
                return self._model(name, "", rest)
            case ["v2", "repository", *rest]:
                return self._repository(rest)
            case ["v2", ("systemsharedmemory" | "cudasharedmemory") as kind, *rest]:
                return self._shared_memory(kind, rest)
            case ["v2", "trace", "setting"]:
                return self._trace("")
            case ["v2", "logging"]:
                change: Handler = lambda r: _answer(plane.log_settings(_document(r), r.trusted)["settings"])  # noqa: E731
                return {"GET": lambda r: _answer(plane.log_settings({}, r.trusted)["settings"]), "POST": change}
        return None

    def _model(self, name: str, version: str, rest: list[str]) -> Routes | None:
        plane = self._plane
        match rest:
            case []:
                return {"GET": lambda _: _answer(plane.model_metadata(name, version))}
            case ["ready"]:
                return {"GET": lambda _: _ready({"name": name} | plane.model_ready(name, version))}
            case ["config"]:
                return {"GET": lambda _: _answer(plane.model_config(name, version))}
            case ["stats"]:
                return {"GET": lambda _: _answer(plane.statistics(name, version))}
            case ["infer"]:
                return {"POST": lambda request: self._infer(name, version, request)}
            case ["generate"]:
                return {"POST": lambda request: self._generate(name, version, request)}
            case ["generate_stream"]:
                return {"POST": lambda request: self._generate_stream(name, version, request)}
        return None

    def _repository(self, rest: list[str]) -> Routes | None:
        plane = self._plane
        match rest:
            case ["index"] | [_, "index"]:
                store = rest[0] if len(rest) == 2 else ""
                return {
                    "POST": lambda r: _answer(plane.repository_index(store, _flag(_document(r), "ready"))["models"])
                }
            case ["models", name, ("load" | "unload")] | [_, "models", name, ("load" | "unload")]:
                store = rest[0] if len(rest) == 4 else ""
                verb = plane.load if rest[-1] == "load" else plane.unload

                def change(request: HttpRequest) -> HttpResponse:
                    parameters = _document(request).get("parameters", {})
                    if type(parameters) is not dict:
                        raise bad_argument("parameters must be an object")
                    verb(store, name, parameters, request.trusted)
                    return HttpResponse(200)

                return {"POST": change}
        return None

    def _shared_memory(self, kind: str, rest: list[str]) -> Routes | None:
        plane = self._plane
        region = rest[1] if len(rest) == 3 and rest[0] == "region" else ""
        system = kind == "systemsharedmemory"
        status = plane.shared_memory_status if system else plane.cuda_shared_memory_status

        def register(request: HttpRequest) -> HttpResponse:
            if not system:
                return _answer(plane.cuda_shared_memory_register())
            plane.regions.check_enabled()
            document = _document(request)
            key, offset, size = document.get("key"), document.get("offset", 0), document.get("byte_size")
            if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
                raise bad_argument("key must be a string, offset and byte_size whole numbers")
            return _answer(plane.shared_memory_register(region, key, offset, size, request.trusted))

        def forget(request: HttpRequest) -> HttpResponse:
            if not system:
                return _answer(plane.cuda_shared_memory_unregister(region))
            return _answer(plane.shared_memory_unregister(region, request.trusted))

        match rest:
            case ["status"] | ["region", _, "status"]:
                return {"GET": lambda _: _answer(list(status(region)["regions"].values()))}
            case ["region", _, "register"]:
                return {"POST": register}
            case ["unregister"] | ["region", _, "unregister"]:
                return {"POST": forget}
        return None

    def _trace(self, name: str) -> Routes:
        plane = self._plane

        def answer(request: HttpRequest) -> HttpResponse:
            changes = _document(request) if request.method == "POST" else {}
            return _answer(plane.trace_setting(name, changes, request.trusted)["settings"])

        return {"GET": answer, "POST": answer}

    # ---- inference ----

    def _infer(self, name: str, version: str, request: HttpRequest) -> HttpResponse:
        tracer = self._plane.tracer
        if not tracer.on:
            return self._inference(name, version, request, None)
        with traced(tracer, request.header, "http") as reading:
            return self._inference(name, version, request, reading)

    def _inference(self, name: str, version: str, request: HttpRequest, trace: Reading | None) -> HttpResponse:
        with self._reading(name, version, request):
            length = _length(request.headers.get(rest_codec.LENGTH_HEADER))
            if length == 0:
                config = self._plane.model_config(name, version)
                asked, wishes = rest_codec.read_raw(name, version, request.body, config)
            else:
                asked, wishes = rest_codec.read_infer(name, version, request.body, length)
        if trace is not None:
            trace.read(lambda: asked)
        asked.watch, asked.size = request.watch, len(request.body)
        asked.principal = self._guard.name_of(request.header)
        body, json_length = rest_codec.write_infer(self._plane.infer(asked), wishes)
        headers = [JSON] if json_length is None else [BINARY, (rest_codec.LENGTH_HEADER, b"%d" % json_length)]
        form = request.headers.get(LOAD_FORM, b"").strip().lower()
        if form in (b"text", b"json"):
            headers.append((LOAD_REPORT, _load_report(self._plane.load_report("http"), form)))
        return _deflated(request, HttpResponse(200, body, headers))

    def _reading(self, name: str, version: str, request: HttpRequest) -> AbstractContextManager[None]:
        size, header = len(request.body), request.header
        return self._plane.reading("http", size, lambda: self._guard.name_of(header), name, version)

    # ---- generation: one JSON object for a request, one or several for its answer ----

    def _answers(self, name: str, version: str, request: HttpRequest) -> Generator[InferResponse, None, None]:
        with self._reading(name, version, request):
            inputs = self._plane.model_metadata(name, version)["inputs"]
            asked, through = read_traced(
                self._plane.tracer,
                request.header,
                "http",
                lambda: rest_generate.read(name, version, request.body, inputs),
            )
        asked.watch, asked.size = request.watch, len(request.body)
        asked.principal = self._guard.name_of(request.header)
        return through(self._plane.stream(asked))

    def _generate(self, name: str, version: str, request: HttpRequest) -> HttpResponse:
        return _answer(rest_generate.joined(self._answers(name, version, request)))

    def _generate_stream(self, name: str, version: str, request: HttpRequest) -> HttpResponse:
        answers = self._answers(name, version, request)
        first = next(answers)  # an error before it has a status

        def events() -> Generator[bytes, None, None]:
            with contextlib.closing(answers):
                try:
                    for response in itertools.chain((first,), answers):
                        yield _event(rest_generate.shown(response))
                except ServeError as error:
                    yield _event({"error": error.text})

        return HttpResponse(200, headers=[EVENTS, (b"cache-control", b"no-store")], stream=events())

    # ---- content coding ----

    def _inflated(self, request: HttpRequest) -> bytearray:
        coding = request.headers.get(b"content-encoding", b"identity").strip().lower()
        if coding == b"identity":
            return request.body
        if coding not in (b"gzip", b"deflate"):
            raise bad_argument("Content-Encoding must be gzip, deflate or identity")
        inflate = zlib.decompressobj(31 if coding == b"gzip" else 15)
        try:
            data = inflate.decompress(request.body, self._limit + 1)
        except zlib.error:
            raise bad_argument(f"the body is not valid {coding.decode()}") from None
        if len(data) > self._limit:
            self._plane.rejections.add(MESSAGE)
            raise ServeError(Meaning.TOO_LARGE, f"the body inflates to more than {self._limit} bytes")
        if not inflate.eof or inflate.unused_data:
            raise bad_argument(f"the body is not one complete {coding.decode()} stream")
        return bytearray(data)


def _deflated(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The answer to an inference in a coding that the client accepts.

    Other answers stay plain: tritonclient's asyncio client says that it accepts gzip, and decodes inferences only.
    """
    accepted = [part.split(b";")[0].strip() for part in request.headers.get(b"accept-encoding", b"").split(b",")]
    coding = next((part for part in accepted if part in (b"gzip", b"deflate")), None)
    if coding is None or sum(map(len, response.body)) < WORTHWHILE:
        return response
    deflate = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == b"gzip" else 15)
    response.body = [*(deflate.compress(part) for part in response.body), deflate.flush()]
    response.headers.append((b"content-encoding", coding))
    return response


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"


def _answer(document: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, [json.dumps(document, separators=(",", ":")).encode()], [JSON])


def _load_report(report: dict[str, float], form: bytes) -> bytes:
    """An Open Request Cost Aggregation report (ORCA): what has no name there is a named metric."""
    share, named = report["application_utilization"], {k: v for k, v in report.items() if k in ("inflight", "waiting")}
    if form == b"json":
        document = {"application_utilization": share, "named_metrics": named}
        return b"JSON " + json.dumps(document, separators=(",", ":")).encode()
    parts = [f"application_utilization={share}", *(f"named_metrics.{k}={v}" for k, v in named.items())]
    return b"TEXT " + ", ".join(parts).encode()


def _ready(answer: dict[str, Any]) -> HttpResponse:
    return _answer(answer, 200 if answer["ready"] else 400)


def failure(error: ServeError) -> HttpResponse:
    """The answer that an error stands for."""
    response = _answer({"error": error.text}, STATUS[error.meaning])
    if error.meaning is Meaning.UNAUTHENTICATED:
        response.headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_ms is not None:
        response.headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_ms / 1000))))
    return response


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise bad_argument("Inference-Header-Content-Length must be a whole number from 0")
    return int(value)


def _document(request: HttpRequest) -> dict[str, Any]:
    """The JSON object of a management call; an empty body is an empty object."""
    body: Buffer = request.body
    document = rest_codec.parse_json(body) if len(body) else {}
    if type(document) is not dict:
        raise bad_argument("the body must be a JSON object")
    return document


def _flag(document: dict[str, Any], key: str) -> bool:
    value = document.get(key, False)
    if not isinstance(value, bool):
        raise bad_argument(f"{quoted(key)} must be true or false")
    return value
