"""Servers of fake models for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import serve_fake

from headrace.serve import engine
from headrace.serve.config import Drain, Limits, Listen, Log, Settings
from headrace.serve.server import Server

MODELS = {name.lower(): f"identity {name}" for name in serve_fake.DTYPES} | {
    "add": "add",
    "dependent": "dependent",
    "poison": "poison",
    "slow": "slow 0.4",
    "bad": "nonsense",
    "wrong": "golden bad",
}
LIMITS = Limits(max_message_bytes=1024 * 1024)
FRONTS = ["portable", "native"]


def need(front: str) -> None:
    """Skip the test where this front was not built."""
    if front == "native" and engine._native is None:
        pytest.skip("built without libnghttp2: there is no native front")


def start(root: Path, front: str = "auto", **options) -> Server:
    listen = Listen("127.0.0.1", 0, 0, 0, front=front)
    settings = Settings(listen=listen, limits=LIMITS, drain=Drain(lame_duck_s=0, grace_s=10), log=Log(access="off"))
    return Server(root, settings=settings, **{"loader": serve_fake.load, **options})
