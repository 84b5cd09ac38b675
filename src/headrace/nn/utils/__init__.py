"""torch.nn.utils: gradients clipped, parameters as one vector."""

from __future__ import annotations

from headrace.nn.utils import rnn
from headrace.nn.utils.clip import clip_grad_norm_, clip_grad_value_, get_total_norm
from headrace.nn.utils.vector import parameters_to_vector, vector_to_parameters
