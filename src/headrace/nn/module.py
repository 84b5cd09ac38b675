"""Module: a tree of layers with parameters, buffers, hooks and a state_dict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from headrace import scalar_types
from headrace.autograd.hooks import Handle
from headrace.autograd.mode import MODE, no_grad
from headrace.nn.backward_hooks import BackwardMarker
from headrace.nn.parameter import Buffer, Parameter
from headrace.nn.state import Stateful
from headrace.tensors import Tensor

T = TypeVar("T", bound="Module")


class Module(Stateful):
    """Base of all layers. Assigned Parameters, Modules and registered buffers are found by name."""

    training: bool
    dump_patches = False

    def __init__(self) -> None:
        fields = self.__dict__
        fields["training"] = True
        for table in ("_parameters", "_buffers", "_modules"):
            fields[table] = {}
        fields["_transient"] = set()  # names of buffers that are not in the state_dict
        for table in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
            "_load_pre_hooks",
            "_load_post_hooks",
            "_state_hooks",
        ):
            fields[table] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # ---------------------------------------------------------------- calls and hooks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        mode = MODE
        if mode.tracer is not None:
            with mode.tracer.module(self):
                return self._run(args, kwargs, mode.tracer.forward_of(self))
        if mode.quiet:
            return self._run(args, kwargs)
        mode.quiet = True  # one switch of NumPy's warnings for the whole call
        try:
            with np.errstate(all="ignore"):
                return self._run(args, kwargs)
        except AttributeError as error:
            if error.name == "_data" and isinstance(error.obj, np.ndarray):
                raise TypeError(
                    f"{type(self).__name__} takes tensors, not NumPy arrays; give torch.from_numpy(array)"
                ) from error
            raise
        finally:
            mode.quiet = False

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Callable[..., Any] | None = None) -> Any:
        forward = forward or self.forward
        if not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks):
            return forward(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_pre_hooks.values()):
            answer = hook(self, args, kwargs) if with_kwargs else hook(self, args)
            if answer is not None:
                if with_kwargs:
                    args, kwargs = answer
                else:
                    args = answer if isinstance(answer, tuple) else (answer,)
        marker = BackwardMarker(self) if self._backward_hooks or self._backward_pre_hooks else None
        if marker is not None:
            args = marker.inputs(args)
        result = forward(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            answer = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            result = result if answer is None else answer
        return result if marker is None else marker.outputs(result)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Call `hook(module, args)` before forward; what it answers replaces the arguments."""
        return Handle.add(self._forward_pre_hooks, (hook, with_kwargs), first=prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> Handle:
        """Call `hook(module, args, output)` after forward; what it answers replaces the output."""
        return Handle.add(self._forward_hooks, (hook, with_kwargs), first=prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        """Call `hook(module, grad_input, grad_output)` when the gradients of the inputs are known; what it answers
        replaces them."""
        return Handle.add(self._backward_hooks, hook, first=prepend)

    register_backward_hook = register_full_backward_hook

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        """Call `hook(module, grad_output)` before the gradients of this module are computed."""
        return Handle.add(self._backward_pre_hooks, hook, first=prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        return Handle.add(self._load_pre_hooks, hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(module, incompatible_keys)` after a state was loaded."""
        return Handle.add(self._load_post_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(module, state_dict, prefix, local_metadata)` when the state is collected."""
        return Handle.add(self._state_hooks, hook)

    # ---------------------------------------------------------------- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__
        if isinstance(value, Parameter):
            if "_parameters" not in fields:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            _remove(fields, name, self._buffers, self._modules)
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            if "_modules" not in fields:
                raise AttributeError("cannot assign module before Module.__init__() call")
            _remove(fields, name, self._parameters, self._buffers)
            self._modules[name] = value
        elif isinstance(value, Buffer):
            _remove(fields, name, self._parameters, self._modules)
            self.register_buffer(name, value, value.persistent)
        elif "_parameters" in fields and name in self._parameters:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}' (torch.nn.Parameter or None expected)"
                )
            self._parameters[name] = None
        elif "_modules" in fields and name in self._modules:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}' (torch.nn.Module or None expected)"
                )
            self._modules[name] = None
        elif "_buffers" in fields and name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as buffer '{name}' (torch.Tensor or None expected)"
                )
            self._buffers[name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(table)
            if found is not None and name in found:
                return found[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._transient.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._parameters, *self._buffers, *self._modules})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under a name. TypeError for what is no Parameter, KeyError for a name that is taken."""
        self._check_name(name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (torch.nn.Parameter or None required)"
            )
        if param is not None and not param.is_leaf:
            raise ValueError(
                f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly."
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that belongs to the state but is not trained."""
        self._check_name(name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (torch Tensor or None required)"
            )
        self._buffers[name] = tensor
        (self._transient.discard if persistent else self._transient.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under a name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name(name, self._modules)
        self._modules[name] = module

    register_module = add_module

    def _check_name(self, name: str, table: dict[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'a name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError('a name can\'t be empty string ""')
        if name not in table and (
            name in self.__dict__
            or name in self._parameters
            or name in self._buffers
            or name in self._modules
            or hasattr(type(self), name)
        ):
            raise KeyError(f"attribute '{name}' already exists")

    # ---------------------------------------------------------------- the tree

    def children(self) -> Iterator[Module]:
        """Direct children, each once."""
        return (module for _, module in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def _named(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        ):
            for name, value in getattr(module, table).items():
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their dotted names."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters, each once."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (value for _, value in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path. AttributeError where there is none."""
        found = self
        for part in target.split(".") if target else []:
            found = getattr(found, part)
            if not isinstance(found, Module):
                raise AttributeError(f"`{part}` is not an nn.Module")
        return found

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path."""
        path, _, name = target.rpartition(".")
        found = getattr(self.get_submodule(path), name)
        if not isinstance(found, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if name not in owner._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        return owner._buffers[name]

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module at a dotted path."""
        path, _, name = target.rpartition(".")
        setattr(self.get_submodule(path), name, module)

    # ---------------------------------------------------------------- changes of the whole tree

    def apply(self: T, fn: Callable[[Module], None]) -> T:
        """Call `fn` on every module, children first."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self: T, mode: bool = True) -> T:
        """Training or evaluation mode, here and below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: T) -> T:
        """Evaluation mode."""
        return self.train(False)

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Whether the parameters are trained."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget (or zero) the gradients of all parameters."""
        for parameter in self.parameters():
            if set_to_none:
                parameter._grad = None
            elif parameter._grad is not None:
                parameter._grad.detach_().zero_()

    def _apply(self: T, fn: Callable[[Tensor], Tensor]) -> T:
        with no_grad():
            for module in self.modules():
                for parameter in module._parameters.values():
                    if parameter is not None:
                        parameter.data = fn(parameter.data)
                        if parameter._grad is not None:
                            parameter._grad = fn(parameter._grad)
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = fn(buffer)
        return self

    def to(self: T, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> T:
        """Floating-point parameters and buffers in another dtype; devices other than the CPU are refused."""
        from headrace.devices import check_device

        for value in args:
            if isinstance(value, Tensor):
                dtype = value.dtype
            elif isinstance(value, scalar_types.dtype):
                dtype = value
            elif value is not None and not isinstance(value, bool):
                device = value
        check_device(device)
        if dtype is None:
            return self
        if not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def float(self: T) -> T:
        return self.to(scalar_types.float32)

    def double(self: T) -> T:
        return self.to(scalar_types.float64)

    def half(self: T) -> T:
        return self.to(scalar_types.float16)

    def bfloat16(self: T) -> T:
        return self.to(scalar_types.bfloat16)

    def type(self: T, dst_type: Any) -> T:
        return self.to(dst_type)

    def cpu(self: T) -> T:
        return self

    def cuda(self: T, device: Any = None) -> T:
        return self.to("cuda")

    def share_memory(self: T) -> T:
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to compile: operators run as they are."""

    # ---------------------------------------------------------------- text

    def extra_repr(self) -> str:
        """What stands between the parentheses of the layer's text."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _remove(fields: dict[str, Any], name: str, *tables: dict[str, Any]) -> None:
    fields.pop(name, None)
    for table in tables:
        table.pop(name, None)
