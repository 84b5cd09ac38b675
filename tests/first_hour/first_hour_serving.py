"""A server and its clients."""

import contextlib
import http.client
import shutil
from pathlib import Path

import numpy as np
from book import Chapter, terminal

from headrace.serve import Client, Server

CHAPTER = Chapter("Serving")
X = np.ones((1, 4), np.float32)
FREE = "--grpc-port 0 --http-port 0 --metrics-port 0"


@contextlib.contextmanager
def serving(*models):
    """A server on free ports: (host:port of gRPC, http://host:port of REST)."""
    with Server(models or ["net.hr"]) as server:
        yield f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.http_port}"


def described(*models):
    """What the server says about its models when it starts."""
    with Server(models, http_port=-1, metrics_port=-1) as server:
        return "\n".join(server.describe())


def put(path):
    Path(path).parent.mkdir(parents=True)
    shutil.copy("net.hr", path)


@CHAPTER.mistake("A PyTorch file, served")
def _():
    return terminal("headrace serve model.pth")


@CHAPTER.mistake("Nothing to serve")
def _():
    return terminal("headrace serve")


@CHAPTER.mistake("A folder that does not exist")
def _():
    put("models/digits/1/model.hr")
    return terminal("headrace serve modles")


@CHAPTER.mistake("An empty repository")
def _():
    Path("models").mkdir()
    return described("models")


@CHAPTER.mistake("A repository without version folders")
def _():
    put("models/digits/model.hr")
    return described("models")


@CHAPTER.mistake("A version folder that is no number")
def _():
    put("models/digits/v1/model.hr")
    return described("models")


@CHAPTER.mistake("A model file under its own name")
def _():
    put("models/digits/1/digits.hr")
    return described("models")


@CHAPTER.mistake("A repository in a repository")
def _():
    put("all/models/digits/1/model.hr")
    return described("all")


@CHAPTER.mistake("A version policy that asks for a version which is not there")
def _():
    put("models/digits/1/model.hr")
    Path("models/digits/config.toml").write_text('[versions]\npolicy = "specific"\nkeep = [2]\n')
    return described("models")


@CHAPTER.mistake("A port that is taken")
def _():
    with serving() as (grpc, _):
        Server("net.hr", grpc_port=int(grpc.rpartition(":")[2])).start()


@CHAPTER.mistake("No server there")
def _():
    Client("127.0.0.1:1").infer("net", x=X)


@CHAPTER.mistake("A gRPC client at the REST port")
def _():
    with serving() as (_, rest):
        Client(rest.removeprefix("http://")).infer("net", x=X)


@CHAPTER.mistake("A REST client at the gRPC port")
def _():
    with serving() as (grpc, _):
        Client(f"http://{grpc}").infer("net", x=X)


@CHAPTER.mistake("A model name with a slip")
def _():
    with serving("digits=net.hr", "faces=images.hr") as (grpc, _):
        Client(grpc).infer("digit", x=X)


@CHAPTER.mistake("A version that does not exist")
def _():
    with serving() as (grpc, _):
        Client(grpc).infer("net", x=X, version=7)


@CHAPTER.mistake("A model that failed to load")
def _():
    put("models/digits/1/model.hr")
    Path("models/digits/1/model.hr").write_bytes(Path("net.hr").read_bytes()[:500])
    with serving("models") as (grpc, _):
        Client(grpc).infer("digits", x=X)


@CHAPTER.mistake("Double precision over the wire")
def _():
    with serving() as (grpc, _):
        Client(grpc).infer("net", x=np.ones((1, 4)))


@CHAPTER.mistake("An image with channels last, over the wire")
def _():
    with serving("images.hr") as (_, rest):
        Client(rest).infer("images", image=np.ones((1, 32, 32, 3), np.float32))


@CHAPTER.mistake("A row without its batch, over the wire")
def _():
    with serving() as (grpc, _):
        Client(grpc).infer("net", x=np.ones(4, np.float32))


@CHAPTER.mistake("The wrong input name, over the wire")
def _():
    with serving() as (grpc, _):
        Client(grpc).infer("net", y=X)


@CHAPTER.mistake("The wrong path")
def _():
    with serving() as (_, rest):
        connection = http.client.HTTPConnection(rest.removeprefix("http://"))
        connection.request("POST", "/predict", "{}")
        return connection.getresponse().read().decode()


@CHAPTER.mistake("The wrong method")
def _():
    with serving() as (_, rest):
        connection = http.client.HTTPConnection(rest.removeprefix("http://"))
        connection.request("GET", "/v2/models/net/infer")
        return connection.getresponse().read().decode()
