"""torch.nn.functional: layers without state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.nn.functional.activation import *  # noqa: F403
from headrace.nn.functional.affine import *  # noqa: F403
from headrace.nn.functional.attention import *  # noqa: F403
from headrace.nn.functional.convolution import *  # noqa: F403
from headrace.nn.functional.distance import *  # noqa: F403
from headrace.nn.functional.dropping import *  # noqa: F403
from headrace.nn.functional.loss import *  # noqa: F403
from headrace.nn.functional.normalization import *  # noqa: F403
from headrace.nn.functional.padding import *  # noqa: F403
from headrace.nn.functional.pooling import *  # noqa: F403
from headrace.nn.functional.vision import *  # noqa: F403

if TYPE_CHECKING:  # the modules compute their `__all__`, which a type checker cannot follow

    def __getattr__(name: str) -> Any: ...
