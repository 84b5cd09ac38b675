"""Golden re-verification, on real packages: what does not reproduce here is not ready, and says by how much."""

import pytest
from serve_packages import X, package

from headrace.runtime import load
from headrace.serve import Client, Server
from headrace.serve.errors import Meaning, ServeError


@pytest.mark.parametrize("url", ["127.0.0.1:{0.grpc_port}", "http://127.0.0.1:{0.http_port}"])
def test_a_package_whose_golden_outputs_do_not_come_out_is_not_ready(tmp_path, url):
    package(tmp_path / "good/1/model.hr", 2, off=5e-4)
    package(tmp_path / "bad/1/model.hr", 2, off=0.5)
    with Server(tmp_path) as server, Client(url.format(server)) as client:
        assert client.ready("good") and not client.ready("bad") and not client.ready()
        assert client.metadata("good")["properties"]["headrace.verified"] == "true"
        rows = {row["name"]: row for row in client.index()}
        assert rows["good"]["state"] == "READY" and rows["bad"]["state"] == "UNAVAILABLE"
        reason = rows["bad"]["reason"]
        assert "golden case 0, output 'y' deviates by 0.5; allowed are 0.001" in reason
        with pytest.raises(ServeError) as caught:
            client.infer("bad", x=X)
        assert caught.value.meaning is Meaning.UNAVAILABLE and "deviates by 0.5" in caught.value.text


def test_a_new_version_that_does_not_reproduce_leaves_the_old_one(tmp_path):
    package(tmp_path / "m/1/model.hr", 2)
    with Server(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        package(tmp_path / "m/2/model.hr", 3, off=0.25)
        with pytest.raises(ServeError, match=r"version '?2'?: .*deviates by 0.25"):
            client.load("m")
        assert (client.infer("m", x=X)["y"] == 2 * X).all()
        package(tmp_path / "m/2/model.hr", 3)
        client.load("m")
        assert (client.infer("m", x=X)["y"] == 3 * X).all()


def test_a_package_that_is_cut_off_never_becomes_a_version(tmp_path):
    """Every length of the file, as a slow copy would show it: refused by its container or its digests."""
    package(tmp_path / "whole.hr", 2)
    data = (tmp_path / "whole.hr").read_bytes()
    part = tmp_path / "part.hr"
    for size in {*range(0, len(data), 97), len(data) - 1}:
        part.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"part\.hr"):
            load(part)
