"""Which device a model runs on: from what the caller asked for to a device, or the reason why it is the CPU."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.runtime.errors import LoadError

if TYPE_CHECKING:
    from headrace.runtime.cuda.interface import Device

log = logging.getLogger("headrace")

ALLOWED = "'auto', 'cpu', 'cuda', 'cuda:N', 'emulated', or a Device"
_opened: dict[int, Device] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Placed:
    """The device (None: the CPU), and what a model says about it."""

    device: Device | None
    properties: dict[str, str] = field(default_factory=dict)


def choose(wanted: str | Device) -> Placed:
    """LoadError where the device does not exist or cannot be used; it names the cause and the next step."""
    if not isinstance(wanted, str):
        if not hasattr(wanted, "launch"):
            raise LoadError(f"device is {type(wanted).__name__}; allowed: {ALLOWED}")
        return Placed(wanted, {"device": wanted.name})
    name, _, index = wanted.partition(":")
    if wanted == "cpu":
        return Placed(None, {"device": "cpu"})
    if wanted == "auto":
        return _auto()
    if wanted == "emulated":
        from headrace.runtime.cuda.emul import EmulationError, EmulDevice

        try:
            return Placed(EmulDevice(), {"device": "emulated"})
        except EmulationError as error:
            raise LoadError(f"device 'emulated': {error}") from error
    if name == "cuda" and (index.isdecimal() or wanted == "cuda"):
        device = _gpu(int(index or 0))
        return Placed(device, {"device": device.name})
    raise LoadError(f"device {wanted!r} does not exist; allowed: {ALLOWED}")


def _auto() -> Placed:
    try:
        device = _gpu(0)
    except LoadError as error:
        log.info("running on the CPU: %s", error)
        return Placed(None, {"device": "cpu", "device_reason": str(error)})
    return Placed(device, {"device": device.name})


def _gpu(index: int) -> Device:
    """The GPU of that number: one object for the whole process, so that all models share its stream and workspace."""
    from headrace.runtime.cuda import driver

    driver.devices()  # where there is none, nothing else is imported
    from headrace.runtime.cuda.device import open_device

    with _lock:
        if index not in _opened:
            _opened[index] = open_device(index)
        return _opened[index]
