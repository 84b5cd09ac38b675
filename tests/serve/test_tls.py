"""TLS and client certificates on every port of both fronts: exactly the good ones pass, and they change under load."""

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import serve_fake
from serve_certificates import DAY, NOW, Authority
from serve_packages import X, package
from serve_start import FRONTS, LIMITS, need

from headrace.serve import Client
from headrace.serve.client import ClientTls
from headrace.serve.config import ConfigError, Drain, Listen, Settings, Tls
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.server import Server
from headrace.serve.tls import Certificates, expiry, read

PORTS = ["grpc", "rest", "metrics"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(place):
    return Authority(place, "authority")


@pytest.fixture(scope="module")
def clients(place, authority):
    """What a client may show."""
    other = Authority(place, "other")
    return {
        "good": authority.sign("client"),
        "expired": authority.sign("expired", days=-1),
        "other authority": other.sign("stranger"),
    }


def secured(front, root, pair, authority="", limits=LIMITS, **options):
    need(front)
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0, front=front),
        tls=Tls(pair.certificate, pair.key, authority),
        limits=limits,
        drain=Drain(lame_duck_s=0, grace_s=10),
    )
    return Server(root, settings=settings, **options)


@pytest.fixture(scope="module", params=FRONTS)
def front(request):
    return request.param


@pytest.fixture(scope="module", params=["TLS", "mTLS"])
def server(request, front, tmp_path_factory, authority):
    root = serve_fake.repository(tmp_path_factory.mktemp("repository"), {"fp32": "identity FP32"})
    pair = authority.sign(f"server-{front}-{request.param}")
    asked = authority.certificate if request.param == "mTLS" else ""
    with secured(front, root, pair, asked, loader=serve_fake.load) as running:
        yield running


def metrics(server, tls):
    """The page, as a verb of a client would get it."""
    context = ssl.create_default_context(cafile=tls.authority)
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key)
    connection = http.client.HTTPSConnection("127.0.0.1", server.metrics_port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def passes(server, port, tls):
    """Whether a client gets an answer at a port."""
    if port == "metrics":
        try:
            return "headrace_build_info" in metrics(server, tls)
        except (OSError, http.client.HTTPException):
            return False
    url = f"127.0.0.1:{server.grpc_port}" if port == "grpc" else f"https://127.0.0.1:{server.http_port}"
    with Client(url, timeout=20, tls=tls) as client:
        try:
            y = client.infer("fp32", x=np.ones((1, 3), np.float32))["y"]
        except ServeError as error:
            assert error.meaning is Meaning.UNAVAILABLE
            return False
        return y.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("shown", ["good", "no", "expired", "other authority"])
def test_exactly_the_good_clients_pass(server, authority, clients, port, shown):
    pair = clients.get(shown)
    tls = ClientTls(authority.certificate, pair.certificate, pair.key) if pair else ClientTls(authority.certificate)
    needs = bool(server.settings.tls.authority)
    assert passes(server, port, tls) == (shown == "good" or not needs)


@pytest.mark.parametrize("port", PORTS)
def test_a_server_of_another_authority_is_not_trusted(server, place, clients, port):
    good = clients["good"]
    assert not passes(server, port, ClientTls(str(place / "other.pem"), good.certificate, good.key))


@pytest.mark.parametrize("port", PORTS)
def test_plain_text_gets_no_answer_and_harms_nobody(server, authority, clients, port):
    number = {"grpc": server.grpc_port, "rest": server.http_port, "metrics": server.metrics_port}[port]
    good = ClientTls(authority.certificate, clients["good"].certificate, clients["good"].key)
    with Client(f"127.0.0.1:{server.grpc_port}", tls=good) as standing:
        x = np.ones((1, 3), np.float32)
        standing.infer("fp32", x=x)
        for data in (
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\xff\xff" * 9,
        ):
            with socket.create_connection(("127.0.0.1", number), timeout=20) as sock:
                sock.sendall(data)
                answer = b""
                with contextlib.suppress(OSError):
                    answer = sock.recv(4096)
                assert b"headrace" not in answer and b"HTTP/1.1" not in answer
            standing.infer("fp32", x=x)  # on a connection that the failure of the other must not touch


def test_handshakes_that_stop_are_closed(front, tmp_path, authority):
    """Silence, and half of a client's first message: closed after the time for headers, while a good client is served."""
    root = serve_fake.repository(tmp_path, {"fp32": "identity FP32"})
    limits = msgspec.structs.replace(LIMITS, header_timeout_s=1.0)
    with secured(front, root, authority.sign(f"silent-{front}"), limits=limits, loader=serve_fake.load) as running:
        ports = (running.grpc_port, running.http_port, running.metrics_port)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20)
        socks = [socket.create_connection(("127.0.0.1", port), timeout=20) for port in ports for _ in range(2)]
        for sock in socks[::2]:
            sock.sendall(hello)
        for port in PORTS:
            assert passes(running, port, ClientTls(authority.certificate))
        for sock in socks:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            sock.close()


def test_protocols_are_negotiated(server, authority, clients):
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(clients["good"].certificate, clients["good"].key)
    for number, name in ((server.grpc_port, "h2"), (server.http_port, "http/1.1"), (server.metrics_port, "http/1.1")):
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", number), timeout=20) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as secure,
        ):
            assert secure.selected_alpn_protocol() == name


def test_old_tls_versions_are_refused(server, authority):
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    for number in (server.grpc_port, server.http_port, server.metrics_port):
        with (
            socket.create_connection(("127.0.0.1", number), timeout=20) as sock,
            pytest.raises(OSError),
        ):
            context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_large_tensors_and_many_requests_on_one_connection(server, authority, clients):
    tls = ClientTls(authority.certificate, clients["good"].certificate, clients["good"].key)
    x = np.arange(200_000, dtype=np.float32).reshape(4, -1)
    for url in (f"127.0.0.1:{server.grpc_port}", f"https://127.0.0.1:{server.http_port}"):
        with Client(url, tls=tls) as client:
            for _ in range(3):
                assert client.infer("fp32", x=x)["y"].tobytes() == x.tobytes()


def test_a_client_that_leaves_is_seen_through_tls(front, tmp_path, authority):
    root = serve_fake.repository(tmp_path, {"slow": "slow 0.4"})
    pair = authority.sign(f"leaving-{front}")
    with secured(front, root, pair, loader=serve_fake.load) as running:
        context = ssl.create_default_context(cafile=authority.certificate)
        body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
        head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        keep = []
        for _ in range(8):  # more than run at a time: the last ones wait in the queue
            sock = context.wrap_socket(
                socket.create_connection(("127.0.0.1", running.http_port)), server_hostname="127.0.0.1"
            )
            sock.sendall(head + body)
            keep.append(sock)
        time.sleep(0.1)
        for sock in keep:
            sock.close()
        version = running._manager.versions()[0]
        end = time.monotonic() + 20
        while sum(version.statistics.meanings.values()) < 8 and time.monotonic() < end:
            time.sleep(0.02)
        assert version.statistics.meanings.get(("http", "cancelled"), 0) >= 1, version.statistics.meanings


def shown_expiry(server, tls):
    (row,) = [
        line for line in metrics(server, tls).splitlines() if line.startswith("headrace_certificate_expiry_seconds")
    ]
    return float(row.split()[1])


def replace(pair, by):
    """As an operator does it: new files renamed over the old ones."""
    for name in ("certificate", "key"):
        place = getattr(pair, name)
        shutil.copyfile(getattr(by, name), place + ".new")
        os.replace(place + ".new", place)


def test_a_new_certificate_without_a_lost_call(front, tmp_path, authority):
    """Calls go on, on old connections and new ones, while the certificate changes; new connections see the new one."""
    package(tmp_path / "models" / "double" / "1" / "model.hr", 2.0)
    pair, later = authority.sign(f"rotating-{front}", days=5), authority.sign(f"later-{front}", days=9)
    tls = ClientTls(authority.certificate)
    with secured(front, tmp_path / "models", pair) as running:
        urls = [f"127.0.0.1:{running.grpc_port}", f"https://127.0.0.1:{running.http_port}"]
        done, answers, failures = threading.Event(), [], []

        def work(url, standing):
            client = Client(url, tls=tls)
            while not done.is_set():
                try:
                    answers.append(client.infer("double", x=X)["y"].tolist() == (2 * X).tolist())
                except ServeError as error:
                    failures.append(str(error))
                if not standing:
                    client.close()
                    client = Client(url, tls=tls)
            client.close()

        threads = [threading.Thread(target=work, args=(u, s)) for u in urls for s in (True, False)]
        for thread in threads:
            thread.start()
        ends = [shown_expiry(running, tls)]
        for _ in range(3):
            replace(pair, later)
            running.reload()
            before = len(answers)
            while len(answers) < before + 20 and not failures:
                time.sleep(0.005)
        done.set()
        for thread in threads:
            thread.join()
        assert not failures and all(answers)
        assert [*ends, shown_expiry(running, tls)] == [(NOW + days * DAY).timestamp() for days in (5, 9)]
        for number in (running.grpc_port, running.http_port, running.metrics_port):
            shown = ssl.get_server_certificate(("127.0.0.1", number))
            assert shown.strip() == Path(later.certificate).read_text().strip()


def test_a_broken_certificate_changes_nothing(front, tmp_path, authority, caplog):
    root = serve_fake.repository(tmp_path, {"fp32": "identity FP32"})
    pair = authority.sign(f"broken-{front}")
    with secured(front, root, pair, loader=serve_fake.load) as running:
        Path(pair.key).write_text("no key")
        running.reload()
        assert "what was in force stays" in caplog.text and str(tmp_path) not in caplog.text
        for port in PORTS:
            assert passes(running, port, ClientTls(authority.certificate))


def test_settings_that_cannot_be_used(tmp_path, authority, place):
    pair, other = authority.sign("one"), authority.sign("two")
    for settings, words in (
        (Tls(pair.certificate), "together"),
        (Tls(authority=authority.certificate), "together"),
        (Tls(pair.certificate, other.key), "certificate and key cannot be used together: KEY_VALUES_MISMATCH"),
        (Tls(pair.certificate, str(tmp_path / "none.key")), r"none\.key: No such file"),
        (Tls(pair.certificate, pair.key, pair.key), "authority"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(settings)


@pytest.mark.parametrize("end", [NOW + 3 * DAY, NOW.replace(year=2060)])
def test_expiry(place, authority, end):
    """UTCTime until 2049, GeneralizedTime from 2050."""
    pair = authority.sign("dated", days=(end - NOW) / DAY)
    assert expiry(Path(pair.certificate).read_bytes()) == end.timestamp()
    both = Path(pair.certificate).read_bytes() + Path(authority.certificate).read_bytes()
    assert expiry(both) == min(end, NOW + 30 * DAY).timestamp()
    with pytest.raises(ConfigError):
        expiry(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----")


def test_a_certificate_near_its_end_is_named(authority, caplog):
    pair = authority.sign("soon", days=2)
    Certificates(Tls(pair.certificate, pair.key))
    assert "the TLS certificate ends at" in caplog.text


def test_a_client_without_tls_is_told_what_it_lacks(server):
    with (
        Client(f"127.0.0.1:{server.grpc_port}") as client,
        pytest.raises(ServeError, match="closed the connection at once"),
    ):
        client.infer("fp32", x=np.zeros((1, 4), np.float32))
