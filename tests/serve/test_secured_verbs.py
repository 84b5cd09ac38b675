"""Verbs that load or look at a server which wants client certificates and a token."""

import hashlib
import json

import pytest
import serve_fake
from click.testing import CliRunner
from serve_certificates import Authority
from serve_start import LIMITS

from headrace.cli.bench import command as bench
from headrace.cli.conformance import command as conformance
from headrace.cli.infer import command as infer
from headrace.serve.config import Auth, Drain, Listen, Log, Settings, Tls
from headrace.serve.errors import ServeError
from headrace.serve.server import Server


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A running server, and the options that it asks for."""
    place = tmp_path_factory.mktemp("secured")
    authority = Authority(place, "authority")
    own, client = authority.sign("server"), authority.sign("client")
    digest = hashlib.sha256(b"secret").hexdigest()
    (place / "tokens.toml").write_text(f'[[token]]\nname = "all"\nsha256 = "{digest}"\nroles = ["infer"]\n')
    (place / "token").write_text("secret\n")
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0),
        tls=Tls(own.certificate, own.key, authority.certificate),
        auth=Auth(tokens=str(place / "tokens.toml")),
        limits=LIMITS,
        drain=Drain(lame_duck_s=0),
        log=Log(access="off"),
    )
    root = serve_fake.repository(place / "models", {"fp32": "identity FP32"})
    shown = ["--ca", authority.certificate, "--cert", client.certificate, "--key", client.key]
    with Server(root, settings=settings, loader=serve_fake.load) as running:
        yield running, shown, ["--token-file", str(place / "token")]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_load(secured, protocol):
    server, certificates, token = secured
    url = f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else f"https://127.0.0.1:{server.http_port}"
    arguments = [url, "fp32", "--clients", "2", "--seconds", "0.1", "--json"]
    result = CliRunner().invoke(bench, [*arguments, *certificates, *token])
    assert result.exit_code == 0, result.output
    (step,) = json.loads(result.stdout)["steps"]
    assert step["ok"] > 0 and not step["errors"] and not step["wrong"]
    for given in (certificates, token):  # one of the two is not enough
        assert isinstance(CliRunner().invoke(bench, [*arguments, *given]).exception, ServeError)


def test_conformance(secured):
    server, certificates, token = secured
    arguments = [f"127.0.0.1:{server.grpc_port}", "--rest", f"127.0.0.1:{server.http_port}", "--core", "--json"]
    result = CliRunner().invoke(conformance, [*arguments, *certificates, *token])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {row["protocol"] for row in found["checks"] if row["outcome"] == "pass"} == {"grpc", "rest"}
    assert not found["differing"]


def test_a_key_alone_is_refused(secured, tmp_path):
    _, certificates, _ = secured
    inputs = tmp_path / "in.npz"
    inputs.write_bytes(b"")
    result = CliRunner().invoke(infer, ["127.0.0.1:1", "m", str(inputs), *certificates[4:]])
    assert result.exit_code == 2 and "give --cert, too" in result.output
