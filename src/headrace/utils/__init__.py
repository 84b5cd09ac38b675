"""torch.utils: `headrace.utils.data` is `headrace.data` under torch's name."""

from __future__ import annotations

import sys

import headrace.data as data

# `from headrace.utils.data import DataLoader` must find the same modules, not a second copy of them.
for _name, _module in list(sys.modules.items()):
    if _name == "headrace.data" or _name.startswith("headrace.data."):
        sys.modules["headrace.utils" + _name.removeprefix("headrace")] = _module
