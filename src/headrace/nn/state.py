"""state_dict: a module's values by dotted name, and back."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.autograd.mode import no_grad
from headrace.nn.parameter import Parameter, UninitializedParameter
from headrace.tensors import Tensor, wrap


class IncompatibleKeys(namedtuple("IncompatibleKeys", "missing_keys unexpected_keys")):
    """What load_state_dict did not find, and what it found too much."""

    def __repr__(self) -> str:
        return (
            "<All keys matched successfully>"
            if not self.missing_keys and not self.unexpected_keys
            else super().__repr__()
        )


class Stateful:
    """The part of Module that gives and takes its state."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _transient: set[str]
    _state_hooks: dict[int, Any]
    _load_pre_hooks: dict[int, Any]
    _load_post_hooks: dict[int, Any]

    def get_extra_state(self) -> Any:
        """More state for the state_dict; override together with set_extra_state."""
        raise RuntimeError("get_extra_state() is not implemented")

    def set_extra_state(self, state: Any) -> None:
        raise RuntimeError("set_extra_state() is not implemented")

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted name (sharing memory with the module)."""
        found: Any = OrderedDict() if destination is None else destination
        for name, value in [
            *self._parameters.items(),
            *((n, v) for n, v in self._buffers.items() if n not in self._transient),
        ]:
            if value is not None:
                found[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not Stateful.get_extra_state:
            found[prefix + "_extra_state"] = self.get_extra_state()
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=found, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in list(self._state_hooks.values()):
            hook(self, found, prefix, {})
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values by dotted name into parameters and buffers (assign: take the tensors themselves).

        RuntimeError for shapes that differ, and with strict also for missing and unexpected names; all are listed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}.")
        state = OrderedDict(state_dict)
        missing: list[str] = []
        errors: list[str] = []
        known: set[str] = set()
        with no_grad():
            self._load(state, "", known, missing, errors, assign)
        unexpected = [key for key in state if key not in known]
        keys = IncompatibleKeys(missing, unexpected)
        for hook in list(self._load_post_hooks.values()):
            hook(self, keys)
        if strict and unexpected:
            errors.insert(0, "Unexpected key(s) in state_dict: " + ", ".join(f'"{k}"' for k in unexpected) + ". ")
        if strict and missing:
            errors.insert(0, "Missing key(s) in state_dict: " + ", ".join(f'"{k}"' for k in missing) + ". ")
        if errors:
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        return keys

    def _load(
        self, state: dict[str, Any], prefix: str, known: set[str], missing: list[str], errors: list[str], assign: bool
    ) -> None:
        for hook in list(self._load_pre_hooks.values()):
            hook(self, state, prefix, {}, True, missing, [], errors)
        self._load_from_state_dict(state, prefix, known, missing, errors, assign)
        for name, module in self._modules.items():
            if module is not None:
                module._load(state, f"{prefix}{name}.", known, missing, errors, assign)

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, known: set[str], missing: list[str], errors: list[str], assign: bool
    ) -> None:
        own = [*self._parameters.items(), *((n, v) for n, v in self._buffers.items() if n not in self._transient)]
        for name, value in own:
            key = prefix + name
            known.add(key)
            if value is None:
                continue
            if key not in state:
                missing.append(key)
                continue
            self._load_one(name, value, key, state[key], errors, assign)
        extra = prefix + "_extra_state"
        if type(self).set_extra_state is not Stateful.set_extra_state:
            known.add(extra)
            if extra in state:
                self.set_extra_state(state[extra])
            else:
                missing.append(extra)

    def _load_one(self, name: str, value: Tensor, key: str, given: Any, errors: list[str], assign: bool) -> None:
        if isinstance(given, np.ndarray):
            given = wrap(given)
        if not isinstance(given, Tensor):
            errors.append(
                f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from checkpoint but received {type(given).__name__}'
            )
            return
        if isinstance(value, UninitializedParameter):
            value.materialize(given._data.shape)
        if given._data.shape == (1,) and value._data.shape == ():
            given = given.reshape(())
        if given._data.shape != value._data.shape:
            errors.append(
                f"size mismatch for {key}: copying a param with shape {given.shape} from checkpoint, the shape in current model is {value.shape}."
            )
            return
        if assign:
            new = (
                Parameter(given, value.requires_grad)
                if isinstance(value, Parameter) and not isinstance(given, Parameter)
                else given
            )
            (self._parameters if isinstance(value, Parameter) else self._buffers)[name] = new
        else:
            value.copy_(given)
