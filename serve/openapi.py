"""The OpenAPI document of the REST front: what `GET /v2/openapi.json` answers."""

from typing import Any

Document = dict[str, Any]


def _object(required: str = "", **properties: Any) -> Document:
    found: Document = {"type": "object", "properties": properties}
    return found | ({"required": required.split()} if required else {})


def _array(items: Document) -> Document:
    return {"type": "array", "items": items}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


TEXT: Document = {"type": "string"}
NUMBER: Document = {"type": "integer"}
FLAG: Document = {"type": "boolean"}
PARAMETERS = {"type": "object", "additionalProperties": {"oneOf": [FLAG, {"type": "number"}, TEXT]}}
DATA = {"type": "array", "items": {}, "description": "Flat, or nested as the shape; absent where the tensor is binary."}
SETTINGS = {"type": "object", "additionalProperties": True}
TENSOR = {"name": TEXT, "shape": _array(NUMBER), "datatype": _ref("Datatype"), "parameters": PARAMETERS, "data": DATA}

SCHEMAS: Document = {
    "Datatype": TEXT
    | {
        "enum": [
            "BOOL",
            "UINT8",
            "UINT16",
            "UINT32",
            "UINT64",
            "INT8",
            "INT16",
            "INT32",
            "INT64",
            "FP16",
            "FP32",
            "FP64",
            "BF16",
            "BYTES",
        ]
    },
    "Error": _object("error", error=TEXT),
    "Server": _object("name version extensions", name=TEXT, version=TEXT, extensions=_array(TEXT)),
    "TensorMetadata": _object("name datatype shape", name=TEXT, datatype=_ref("Datatype"), shape=_array(NUMBER)),
    "Model": _object(
        "name versions platform inputs outputs",
        name=TEXT,
        versions=_array(TEXT),
        platform=TEXT,
        inputs=_array(_ref("TensorMetadata")),
        outputs=_array(_ref("TensorMetadata")),
        properties={"type": "object", "additionalProperties": TEXT},
    ),
    "Input": _object("name shape datatype", **TENSOR),
    "Output": _object("name shape datatype", **TENSOR),
    "RequestedOutput": _object("name", name=TEXT, parameters=PARAMETERS),
    "InferRequest": _object(
        "inputs",
        id=TEXT,
        parameters=PARAMETERS,
        inputs=_array(_ref("Input")),
        outputs=_array(_ref("RequestedOutput")),
    ),
    "InferResponse": _object(
        "model_name model_version outputs",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=PARAMETERS,
        outputs=_array(_ref("Output")),
    ),
    "Statistics": _object("model_stats", model_stats=_array(SETTINGS)),
    "Index": _array(_object("name", name=TEXT, version=TEXT, state=TEXT, reason=TEXT)),
}

REPOSITORY = "/v2/repository/"  # what is below is there of one repository by name, too
Operation = tuple[str, str, Document | None, Document | None]  # method, summary, body, answer
EMPTY = _object()
MODEL = "/v2/models/{model}"
PATHS: dict[str, list[Operation]] = {
    "/v2": [("get", "Name, version and extensions of the server", None, _ref("Server"))],
    "/v2/health/live": [("get", "Whether the process works", None, _object(live=FLAG))],
    "/v2/health/ready": [("get", "Whether the server takes requests (200 or 400)", None, _object(ready=FLAG))],
    "/v2/models": [("get", "The names of the models that are ready", None, _object(models=_array(TEXT)))],
    MODEL: [("get", "Inputs, outputs and properties of a model", None, _ref("Model"))],
    f"{MODEL}/ready": [("get", "Whether a model takes requests (200 or 400)", None, _object(name=TEXT, ready=FLAG))],
    f"{MODEL}/infer": [("post", "Run a model", _ref("InferRequest"), _ref("InferResponse"))],
    f"{MODEL}/generate": [("post", "Run a model that answers in parts, all parts in one answer", SETTINGS, SETTINGS)],
    f"{MODEL}/generate_stream": [("post", "The same, each part as a server-sent event", SETTINGS, None)],
    f"{MODEL}/config": [("get", "The configuration in force (ModelConfig)", None, SETTINGS)],
    f"{MODEL}/stats": [("get", "Cumulative statistics of a model", None, _ref("Statistics"))],
    f"{MODEL}/trace/setting": [
        ("get", "The trace settings of a model", None, SETTINGS),
        ("post", "Change them", SETTINGS, SETTINGS),
    ],
    "/v2/models/stats": [("get", "Cumulative statistics of all models", None, _ref("Statistics"))],
    "/v2/repository/index": [("post", "Every version that is known", _object(ready=FLAG), _ref("Index"))],
    "/v2/repository/models/{model}/load": [("post", "Load, or load again and switch", EMPTY, None)],
    "/v2/repository/models/{model}/unload": [
        ("post", "Unload; answers when the memory is free", _object(parameters=PARAMETERS), None)
    ],
    "/v2/systemsharedmemory/status": [("get", "The registered regions", None, _array(SETTINGS))],
    "/v2/systemsharedmemory/region/{region}/status": [("get", "One region", None, _array(SETTINGS))],
    "/v2/systemsharedmemory/unregister": [("post", "Unregister all regions", EMPTY, None)],
    "/v2/systemsharedmemory/region/{region}/register": [
        (
            "post",
            "Register a POSIX shared memory object",
            _object("key byte_size", key=TEXT, offset=NUMBER, byte_size=NUMBER),
            None,
        )
    ],
    "/v2/systemsharedmemory/region/{region}/unregister": [("post", "Unregister a region", EMPTY, None)],
    "/v2/cudasharedmemory/status": [("get", "None: regions on a GPU cannot be registered", None, _array(SETTINGS))],
    "/v2/trace/setting": [
        ("get", "The trace settings", None, SETTINGS),
        ("post", "Change them", SETTINGS, SETTINGS),
    ],
    "/v2/logging": [("get", "The log settings", None, SETTINGS), ("post", "Change them", SETTINGS, SETTINGS)],
    "/v2/headrace/slow": [("get", "The slowest requests of the last minutes, with phases", None, SETTINGS)],
    "/v2/openapi.json": [("get", "This document", None, SETTINGS)],
}
VERSIONED = (
    "",
    "/ready",
    "/infer",
    "/generate",
    "/generate_stream",
    "/config",
    "/stats",
)  # of a model: also after /versions/{version}


def document(version: str) -> Document:
    """OpenAPI 3.1; `version` is the server's."""
    paths = dict(PATHS)
    for suffix in VERSIONED:
        paths[f"{MODEL}/versions/{{version}}{suffix}"] = PATHS[MODEL + suffix]
    for path in PATHS:
        if path.startswith(REPOSITORY):
            paths[f"/v2/repository/{{repository}}/{path.removeprefix(REPOSITORY)}"] = PATHS[path]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headrace",
            "version": version,
            "description": "Open Inference Protocol v2 with Triton's extensions. Binary tensors follow the JSON of a body; the "
            "header Inference-Header-Content-Length then says how long the JSON is.",
        },
        "paths": {path: _path(path, operations) for path, operations in sorted(paths.items())},
        "components": {"schemas": SCHEMAS},
    }


def _path(path: str, operations: list[Operation]) -> Document:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    found: Document = {method: _operation(summary, body, answer) for method, summary, body, answer in operations}
    if names:
        found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
    return found


def _operation(summary: str, body: Document | None, answer: Document | None) -> Document:
    good: Document = {"description": "done"}
    if answer is not None:
        good["content"] = {"application/json": {"schema": answer}}
    error = {"description": "what was wrong", "content": {"application/json": {"schema": _ref("Error")}}}
    found: Document = {"summary": summary, "responses": {"200": good, "default": error}}
    if body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return found


__all__ = ["document"]
