"""Trace and log settings, as the protocol reads and changes them. No setting over the network names a file.

Tracing is not built in, so its settings can be read but not changed. Log settings choose which levels are written.
"""

import logging
from collections.abc import Mapping
from typing import Any

from headrace.serve.errors import bad_argument, quoted, unsupported

TRACE: dict[str, Any] = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "0",
    "trace_count": "0",
    "log_frequency": "0",
    "trace_mode": "off",
}
_FIXED = ("log_file", "log_format")


def trace(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The trace settings after `changes` (None clears one: it is as clear as can be)."""
    for key, value in changes.items():
        if key not in TRACE:
            raise bad_argument(f"trace setting {quoted(key)} is unknown; known are {', '.join(TRACE)}")
        now = TRACE[key]
        if value is not None and value not in (now, [now]) and [value] != now:
            raise unsupported(f"trace setting {quoted(key)} cannot be changed: this server does not trace")
    return dict(TRACE)


class LogControl(logging.Filter):
    """Which records of a logger are written, by level; a filter of that logger."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "log_file": "",
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            "log_format": "default",
        }

    def change(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """All changes or none; answers the settings in force. bad_argument or unsupported for what cannot be set."""
        for key, value in changes.items():
            where = f"log setting {quoted(key)}"
            if key not in self.settings:
                raise bad_argument(f"{where} is unknown; known are {', '.join(self.settings)}")
            if key in _FIXED:
                if value != self.settings[key]:
                    raise unsupported(f"{where} cannot be changed over the network")
            elif key == "log_verbose_level":
                if type(value) is not int or not 0 <= value < 2**32:
                    raise bad_argument(f"{where} must be a whole number from 0")
            elif not isinstance(value, bool):
                raise bad_argument(f"{where} must be true or false")
        self.settings = self.settings | dict(changes)
        return dict(self.settings)

    def filter(self, record: logging.LogRecord) -> bool:
        now = self.settings
        if record.levelno >= logging.ERROR:
            return bool(now["log_error"])
        if record.levelno >= logging.WARNING:
            return bool(now["log_warning"])
        return bool(now["log_info"] if record.levelno >= logging.INFO else now["log_verbose_level"])
