"""Fast NumPy kernels of the operators that training calls most, and the view operators.

Each answers exactly what the operator's reference answers (a test runs both on the operator's own samples), with less work
around it. An operator that is not here runs its reference. Modules are found by folder.
"""

from __future__ import annotations

import importlib
import pkgutil

from headrace.eager import native
from headrace.eager.gradients import find_rule
from headrace.eager.registry import KERNELS, VIEWS, Kernel
from headrace.runtime.ops.base import Operator

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
native.register()


def find(operator: Operator) -> Kernel | None:
    """The fast kernel of an operator, if there is one."""
    return KERNELS.get(operator.kind)


__all__ = ["KERNELS", "VIEWS", "Kernel", "find", "find_rule"]
