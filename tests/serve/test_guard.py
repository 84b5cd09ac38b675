"""Tokens by role and restricted groups on both fronts, the native one's path through C++ included."""

import hashlib
import http.client
import os
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from serve_packages import X, package
from serve_start import FRONTS, LIMITS, need

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client, engine
from headrace.serve.config import Auth, ConfigError, Drain, Listen, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.guard import Guard
from headrace.serve.server import Server

CALLS = {  # call -> roles that may
    "ready": ("nobody", "unknown", "expired", "metadata", "infer", "metrics", "manage"),
    "infer": ("infer", "manage"),
    "stream": ("infer", "manage"),
    "metadata": ("metadata", "infer", "manage"),
    "config": ("metadata", "infer", "manage"),
    "statistics": ("metadata", "infer", "metrics", "manage"),
    "index": ("manage",),
    "load": ("manage",),
    "page": ("metrics", "manage"),
}
CALLERS = ("nobody", "unknown", "expired", "metadata", "infer", "metrics", "manage")


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def token(name, roles, expires=""):
    end = f"expires = {expires}\n" if expires else ""
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest(name)}"\nroles = {list(roles)}\n{end}'.replace("'", '"')


def restricted(groups, key, value, fronts=("grpc", "http")):
    return f'[[restricted]]\ngroups = {groups}\nkey = "{key}"\nsha256 = "{digest(value)}"\nfronts = {list(fronts)}\n'


TOKENS = "".join(token(role, [role]) for role in ("metadata", "infer", "metrics", "manage")) + token(
    "expired", ["manage"], "2020-01-01T00:00:00Z"
)


def guarded(front, root, auth, **options):
    need(front)
    listen = Listen("127.0.0.1", 0, 0, 0, front=front)
    settings = Settings(listen=listen, auth=auth, limits=LIMITS, drain=Drain(lame_duck_s=0, grace_s=10))
    return Server(root, settings=settings, **options)


@pytest.fixture(scope="module", params=FRONTS)
def front(request):
    return request.param


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    package(root / "double" / "1" / "model.hr", 2.0)
    return root


@pytest.fixture(scope="module")
def server(front, models, tmp_path_factory):
    file = tmp_path_factory.mktemp("auth") / "tokens.toml"
    file.write_text(TOKENS)
    with guarded(front, models, Auth(tokens=str(file))) as running:
        yield running


def address(server, protocol):
    return f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else f"http://127.0.0.1:{server.http_port}"


def outcome(server, protocol, caller, call):
    """What the call ends with: "ok" or a meaning."""
    given = "" if caller == "nobody" else caller
    if call == "page":
        connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=20)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {given}"} if given else {})
        status = connection.getresponse().status
        connection.close()
        return {200: "ok", 401: "unauthenticated", 403: "forbidden"}[status]
    with Client(address(server, protocol), token=given) as client:
        try:
            if call == "infer":
                assert client.infer("double", x=X)["y"].tolist() == (2 * X).tolist()
            elif call == "stream":
                assert len(list(client.stream("double", [{"x": X}]))) == 1
            elif call == "load":
                client.load("double")
            elif call == "index":
                client.index()
            elif call == "ready":
                assert client.ready("double") and client.ready()
            else:
                getattr(client, call)("double")
        except ServeError as error:
            return error.meaning.value
    return "ok"


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("call", CALLS)
def test_exactly_the_good_tokens_pass(server, protocol, call):
    if protocol == "rest" and call == "stream":
        assert outcome(server, "rest", "manage", call) == "unsupported"
        return
    found = {caller: outcome(server, protocol, caller, call) for caller in CALLERS}
    refused = dict.fromkeys(("nobody", "unknown", "expired"), "unauthenticated")
    assert found == {caller: "ok" if caller in CALLS[call] else refused.get(caller, "forbidden") for caller in CALLERS}


def test_texts_and_logs_hold_no_secret(server, caplog):
    with Client(address(server, "rest"), token="a secret that is wrong") as client:
        with pytest.raises(ServeError, match="unknown or has expired") as caught:
            client.metadata()
        assert "secret" not in str(caught.value)
    with (
        Client(address(server, "grpc"), token="infer") as client,
        pytest.raises(ServeError, match="model-repository; allowed with the role manage"),
    ):
        client.index()
    assert "secret" not in caplog.text


def test_the_native_path_checks_by_itself(server, monkeypatch):
    """A good token takes an inference through C++; every other one reaches the guard in Python, which refuses it."""
    asked = []
    check = server._guard.check
    monkeypatch.setattr(server._guard, "check", lambda *args: asked.append(args[1]) or check(*args))
    assert outcome(server, "grpc", "infer", "infer") == "ok"
    assert asked == ([] if engine._native is not None else ["inference"])
    for caller, meaning in (("unknown", "unauthenticated"), ("expired", "unauthenticated"), ("metrics", "forbidden")):
        asked.clear()
        assert outcome(server, "grpc", caller, "infer") == meaning and asked == ["inference"]


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer"],
        ["infer"],
        ["Basic infer"],
        ["Bearer infer2"],
        ["Bearer unknown", "Bearer infer"],
        ["bearer infer"],
    ],
)
def test_forms_of_the_header(server, values):
    """The scheme is read without regard to case; of two headers the first counts; anything else is no token."""
    request = pb.ModelInferRequest(model_name="double")
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    with grpc.insecure_channel(address(server, "grpc")) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = [("authorization", value) for value in values]
        if values == ["bearer infer"]:
            assert call(request.SerializeToString(), metadata=metadata, timeout=20)
            return
        with pytest.raises(grpc.RpcError) as caught:
            call(request.SerializeToString(), metadata=metadata, timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_tokens_rotate(front, models, tmp_path):
    """On a standing connection: the new token passes, the old one no longer; a broken file changes nothing."""
    file = tmp_path / "tokens.toml"

    def write(text):
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    write(token("old", ["infer"]))
    with (
        guarded(front, models, Auth(tokens=str(file))) as running,
        Client(address(running, "grpc"), token="old") as old,
        Client(address(running, "grpc"), token="new") as new,
    ):
        old.infer("double", x=X)
        for text in (token("new", ["infer"]), "[[token]]\nname = 3", 'what = "is this"', "no toml"):
            write(text)
            running.reload()
            new.infer("double", x=X)
            with pytest.raises(ServeError) as caught:
                old.infer("double", x=X)
            assert caught.value.meaning is Meaning.UNAUTHENTICATED
        write("")  # no token at all: nobody passes
        running.reload()
        with pytest.raises(ServeError) as caught:
            new.infer("double", x=X)
        assert caught.value.meaning is Meaning.UNAUTHENTICATED


def test_restricted_groups(front, models, tmp_path):
    """As in Triton: a header opens the group, one front may be restricted and the other not."""
    file = tmp_path / "restricted.toml"
    file.write_text(
        restricted(["inference"], "infer-key", "one", ["grpc"])
        + restricted(["model-repository", "logging"], "admin-key", "two").replace("'", '"')
    )
    file.write_text(file.read_text().replace("'", '"'))
    request = pb.ModelInferRequest(model_name="double")
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    with (
        guarded(front, models, Auth(restricted=str(file))) as running,
        grpc.insecure_channel(address(running, "grpc")) as channel,
    ):

        def code(method, message, **headers):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            metadata = [(f"triton-grpc-protocol-{k.replace('_', '-')}", v) for k, v in headers.items()]
            try:
                call(message.SerializeToString(), metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        assert code("ModelInfer", request) == "PERMISSION_DENIED"
        assert code("ModelInfer", request, infer_key="two") == "PERMISSION_DENIED"
        assert code("ModelInfer", request, infer_key="one") == "OK"
        assert code("RepositoryIndex", pb.RepositoryIndexRequest(), infer_key="one") == "PERMISSION_DENIED"
        assert code("RepositoryIndex", pb.RepositoryIndexRequest(), admin_key="two") == "OK"
        assert code("ServerMetadata", pb.ServerMetadataRequest()) == "OK"
        with Client(address(running, "rest")) as client:
            client.infer("double", x=X)  # not restricted there
            with pytest.raises(ServeError, match="header admin-key") as caught:
                client.load("double")
            assert caught.value.meaning is Meaning.FORBIDDEN
        connection = http.client.HTTPConnection("127.0.0.1", running.http_port, timeout=20)
        connection.request("POST", "/v2/repository/models/double/load", b"", {"Admin-Key": "two"})
        assert connection.getresponse().status == 200
        connection.close()


def test_who_may_change_the_server(tmp_path):
    """Without credentials the server's own machine; with tokens those who manage, from wherever they are."""
    none = lambda name: None  # noqa: E731
    bearer = lambda name: {"authorization": "Bearer manage", "key": "value"}.get(name)  # noqa: E731
    assert Guard().check("http", "model-repository", none, True)
    assert not Guard().check("http", "model-repository", none, False)
    file = tmp_path / "tokens.toml"
    file.write_text(token("manage", ["manage"]))
    tokens = Guard(Auth(tokens=str(file)))
    assert tokens.check("http", "model-repository", bearer, False)
    with pytest.raises(ServeError, match="a token is needed"):
        tokens.check("http", "model-repository", none, True)
    file.write_text(restricted(["model-repository"], "key", "value").replace("'", '"'))
    groups = Guard(Auth(restricted=str(file)))
    assert groups.check("http", "model-repository", bearer, False)
    assert not groups.check("http", "logging", bearer, False)


def test_expiry_to_the_moment(tmp_path):
    file, end = tmp_path / "tokens.toml", datetime(2030, 1, 1, tzinfo=UTC)
    file.write_text(token("t", ["infer"], end.isoformat()))
    now = end - timedelta(microseconds=1)
    guard = Guard(Auth(tokens=str(file)), clock=lambda: now)
    header = lambda name: "Bearer t"  # noqa: E731
    guard.check("grpc", "inference", header, False)
    now = end
    with pytest.raises(ServeError, match="expired"):
        guard.check("grpc", "inference", header, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no toml", "not TOML"),
        ("[[tokens]]", "did you mean 'token'"),
        ('[[token]]\nname = "a"\nsha256 = "plain"\nroles = ["infer"]', "sha256"),
        (token("a", ["admin"]), "roles"),
        (token("a", ["infer"], "2030-01-01T00:00:00"), "timezone"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, words):
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        Guard(Auth(tokens=str(file)))
    assert "plain" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_every_method_and_path_has_a_group():
    from headrace.serve import grpc_methods, rest_front
    from headrace.serve.guard import ALLOWED

    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
    found = {name: grpc_methods.group_of(name) for name in methods}
    assert set(found.values()) == ALLOWED["manage"] - {"metrics"}
    assert {name for name, group in found.items() if group == "model-repository"} == {
        "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    }  # fmt: skip
    paths = {
        "v2": "metadata", "v2/models": "metadata", "v2/models/m": "metadata", "v2/models/m/versions/1": "metadata",
        "v2/health/live": "health", "v2/models/m/ready": "health", "v2/models/m/versions/1/infer": "inference",
        "v2/models/m/infer": "inference", "v2/models/stats": "statistics", "v2/models/m/versions/1/config": "model-config",
        "v2/repository/index": "model-repository", "v2/repository/models/m/load": "model-repository", "v2/logging": "logging",
        "v2/trace/setting": "trace", "v2/models/m/trace/setting": "trace", "v2/systemsharedmemory/status": "shared-memory",
        "v2/cudasharedmemory/region/r/register": "shared-memory", "v2/what/comes/later": "model-repository",
    }  # fmt: skip
    assert {path: rest_front.group_of(path.split("/")) for path in paths} == paths
