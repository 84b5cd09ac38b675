"""torch.nn: layers, losses, containers."""

from __future__ import annotations

import headrace.functional  # attaches the tensor methods
from headrace.nn import functional, init, utils
from headrace.nn.activations import *  # noqa: F403
from headrace.nn.attention import *  # noqa: F403
from headrace.nn.containers import *  # noqa: F403
from headrace.nn.convolutions import *  # noqa: F403
from headrace.nn.dropouts import *  # noqa: F403
from headrace.nn.embeddings import *  # noqa: F403
from headrace.nn.linears import *  # noqa: F403
from headrace.nn.losses import *  # noqa: F403
from headrace.nn.module import Module
from headrace.nn.norms import *  # noqa: F403
from headrace.nn.paddings import *  # noqa: F403
from headrace.nn.parameter import Buffer, Parameter, UninitializedParameter
from headrace.nn.poolings import *  # noqa: F403
from headrace.nn.recurrent import *  # noqa: F403
from headrace.nn.shapes import *  # noqa: F403
