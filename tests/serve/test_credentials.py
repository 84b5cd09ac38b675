"""The whole matrix of credentials: transports by certificates by tokens by doors, on both fronts. Exactly the good pairs pass."""

import contextlib
import hashlib
import http.client
import ssl

import numpy as np
import pytest
import serve_fake
from serve_certificates import Authority
from serve_start import FRONTS, LIMITS, need

from headrace.serve import Client
from headrace.serve.client import ClientTls
from headrace.serve.config import Auth, Drain, Listen, Log, Settings, Tls
from headrace.serve.errors import ServeError
from headrace.serve.server import Server

TOKENS = {"no": "", "bad": "guess", "expired": "old", "infer": "infer", "manage": "manage", "metrics": "metrics"}
CERTIFICATES = ("no", "expired", "other authority", "good")
DOORS = {
    "grpc": ("infer", "manage"),
    "rest": ("infer", "manage"),
    "metrics": ("metrics", "manage"),
    "admin": ("manage",),
}
X = np.ones((1, 3), np.float32)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.fixture(scope="module")
def certificates(authority, tmp_path_factory):
    other = Authority(tmp_path_factory.mktemp("others"), "other")
    return {
        "good": authority.sign("client"),
        "expired": authority.sign("expired", days=-1),
        "other authority": other.sign("stranger"),
    }


def line(name, role, expires=""):
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\nroles = ["{role}"]\n{expires}'


@pytest.fixture(scope="module", params=FRONTS)
def front(request):
    need(request.param)
    return request.param


@pytest.fixture(scope="module", params=["none", "TLS", "mTLS"])
def server(request, front, tmp_path_factory, authority):
    place = tmp_path_factory.mktemp("served")
    tokens = place / "tokens.toml"
    good = "".join(line(role, role) for role in ("infer", "manage", "metrics"))
    tokens.write_text(good + line("old", "manage", "expires = 2020-01-01T00:00:00Z\n"))
    pair = authority.sign(f"server-{front}-{request.param}")
    asked = authority.certificate if request.param == "mTLS" else ""
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0, front=front),
        tls=Tls(pair.certificate, pair.key, asked) if request.param != "none" else Tls(),
        auth=Auth(tokens=str(tokens)),
        limits=LIMITS,
        drain=Drain(lame_duck_s=0),
        log=Log(access="off"),
    )
    root = serve_fake.repository(place / "models", {"fp32": "identity FP32"})
    with Server(root, settings=settings, loader=serve_fake.load) as running:
        yield running, request.param


def enter(server, door, tls, token):
    """ "ok", a meaning, or "unavailable" where no connection comes about."""
    if door == "metrics":
        return page(server, tls, token)
    scheme = "https" if tls is not None else "http"
    url = f"{scheme}://127.0.0.1:{server.http_port}" if door == "rest" else f"127.0.0.1:{server.grpc_port}"
    with Client(url, timeout=20, tls=tls, token=token) as client:
        try:
            if door == "admin":
                client.load("fp32")
            else:
                assert client.infer("fp32", x=X)["y"].tolist() == X.tolist()
        except ServeError as error:
            return error.meaning.value
    return "ok"


def page(server, tls, token):
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=20)
    else:
        context = ssl.create_default_context(cafile=tls.authority)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        connection = http.client.HTTPSConnection("127.0.0.1", server.metrics_port, timeout=20, context=context)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
            return {200: "ok", 401: "unauthenticated", 403: "forbidden"}[connection.getresponse().status]
        except (OSError, http.client.HTTPException):
            return "unavailable"


@pytest.mark.parametrize("door", DOORS)
def test_exactly_the_good_pass(server, authority, certificates, door):
    running, transport = server
    found, wanted = {}, {}
    for shown in CERTIFICATES if transport == "mTLS" else ("no",):
        pair = certificates.get(shown)
        tls = ClientTls(authority.certificate, pair.certificate, pair.key) if pair else ClientTls(authority.certificate)
        for name, token in TOKENS.items():
            found[shown, name] = enter(running, door, tls if transport != "none" else None, token)
            if transport == "mTLS" and shown != "good":
                wanted[shown, name] = "unavailable"
            elif name in ("no", "bad", "expired"):
                wanted[shown, name] = "unauthenticated"
            else:
                wanted[shown, name] = "ok" if name in DOORS[door] else "forbidden"
    assert found == wanted
