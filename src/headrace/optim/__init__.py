"""torch.optim: optimizers and learning-rate schedules."""

from __future__ import annotations

import headrace.functional  # attaches the tensor methods
from headrace.optim import lr_scheduler
from headrace.optim.adam import Adam, Adamax, AdamW, NAdam, RAdam
from headrace.optim.lbfgs import LBFGS
from headrace.optim.matrix import Adafactor, Muon
from headrace.optim.optimizer import Optimizer
from headrace.optim.rmsprop import ASGD, Adadelta, Adagrad, RMSprop, Rprop
from headrace.optim.sgd import SGD
