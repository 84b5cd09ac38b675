"""Log settings, as the protocol reads and changes them: which levels are written. No setting over the network names a file."""

import logging
from collections.abc import Mapping
from typing import Any

from headrace.serve.errors import bad_argument, quoted, unsupported

_FIXED = ("log_file", "log_format")


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
