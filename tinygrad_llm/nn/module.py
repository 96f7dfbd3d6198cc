"""Module: a tree of parameters, buffers and other modules, with a forward function.

A module keeps its tensors in three dictionaries, filled by plain attribute assignment, and everything else here
(`parameters`, `state_dict`, `to`, the printed form) is a walk over the tree that these dictionaries span.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Self

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.tensor import RemovableHandle

from . import state_dict as states
from .parameter import Parameter
from .printing import in_brackets, indent

TABLES = ("_parameters", "_buffers", "_modules")  # where a module keeps what was assigned to it, by kind


class Module:
    """Base class of every layer and model: subclass it, assign parameters and modules, write `forward`.

    Assigning a `Parameter` or a `Module` to an attribute registers it; a plain tensor is registered as a buffer
    by `register_buffer`. A subclass calls `super().__init__()` before its first assignment.
    """

    training: bool
    _version = 1  # of what a state dict holds; PyTorch's files carry it
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        set_plain = super().__setattr__
        set_plain("training", True)
        for table in TABLES:
            set_plain(table, {})
        set_plain("_non_persistent_buffers", set())
        set_plain("_forward_pre_hooks", {})  # id -> (hook, with_kwargs), in the order in which they run
        set_plain("_forward_hooks", {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass writes its own."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._forward_pre_hooks and not self._forward_hooks:
            return self.forward(*args, **kwargs)
        for hook, with_kwargs in tuple(self._forward_pre_hooks.values()):
            args, kwargs = _changed_input(hook, with_kwargs, self, args, kwargs)
        output = self.forward(*args, **kwargs)
        for hook, with_kwargs in tuple(self._forward_hooks.values()):  # a hook may remove itself
            changed = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            output = output if changed is None else changed
        return output

    def is_plainly(self, kind: type[Module]) -> bool:
        """Whether the module is of this very class, its forward too, and no hook watches: another may do its work."""
        watched = self._forward_pre_hooks or self._forward_hooks or "forward" in self.__dict__
        return type(self) is kind and not watched

    # Attributes ---------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        home = _home_of(value)
        if home is not None:
            if home not in self.__dict__:
                kind = {"_parameters": "parameters", "_modules": "module"}[home]
                raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
            self._forget(name, keep=home)
            if home == "_parameters":
                self.register_parameter(name, value)
            else:
                self._modules[name] = value
            return
        for table, kind in (("_parameters", "parameter"), ("_modules", "child module"), ("_buffers", "buffer")):
            members = self.__dict__.get(table)
            if members is None or name not in members:
                continue
            if value is not None and not (kind == "buffer" and isinstance(value, Tensor)):
                expected = {"parameter": "torch.nn.Parameter", "child module": "torch.nn.Module"}.get(
                    kind, "torch.nn.Buffer, torch.Tensor"
                )
                raise TypeError(f"cannot assign '{_typename(value)}' as {kind} '{name}' ({expected} or None expected)")
            members[name] = value
            return
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:  # reached only where the ordinary look-up found nothing
        for table in TABLES:
            members = self.__dict__.get(table)
            if members is not None and name in members:
                return members[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for table in TABLES:
            if name in self.__dict__.get(table, ()):
                del self.__dict__[table][name]
                self._non_persistent_buffers.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        names = chain(super().__dir__(), self._parameters, self._buffers, self._modules)
        return sorted({name for name in names if not name[0].isdigit()})

    def _forget(self, name: str, keep: str) -> None:
        """Remove `name` wherever it is known except in the table `keep`: a new kind of value replaces the old."""
        self.__dict__.pop(name, None)
        for table in TABLES:
            if table != keep:
                self.__dict__[table].pop(name, None)
        self._non_persistent_buffers.discard(name)

    # Registration -------------------------------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`; None stands for one that the module could have and does not.

        Raises: TypeError, KeyError for a name that is not a fresh, non-empty string without dots; ValueError for a
        tensor that was computed: a parameter must be a leaf.
        """
        self._check_name("parameter", name, "_parameters")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{_typename(param)}' object to parameter '{name}' (torch.nn.Parameter or None required)"
            )
        if param is not None and not param.is_leaf:
            raise ValueError(
                f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly. "
                f"To express '{name}' as a function of another Tensor, compute the value in the forward() method."
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that moves and is saved with the module but is not trained; saved only if `persistent`."""
        self._check_name("buffer", name, "_buffers")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{_typename(tensor)}' object to buffer '{name}' (torch Tensor or None required)"
            )
        self._buffers[name] = tensor
        (self._non_persistent_buffers.discard if persistent else self._non_persistent_buffers.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child module under `name`."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{_typename(module)} is not a Module subclass")
        self._check_name("module", name, "_modules")
        self._modules[name] = module

    register_module = add_module

    def _check_name(self, kind: str, name: str, table: str) -> None:
        if table not in self.__dict__:
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {_typename(name)}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and name not in self.__dict__[table]:
            raise KeyError(f"attribute '{name}' already exists")

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns, if not None, replaces the arguments.

        With `with_kwargs` it is `hook(module, args, kwargs)` and returns a pair. `.remove()` the handle to stop it.
        """
        return _add_hook(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; what it returns, if not None, replaces the output.

        With `with_kwargs` it is `hook(module, args, kwargs, output)`. `.remove()` the handle to stop it.
        """
        return _add_hook(self._forward_hooks, (hook, with_kwargs), prepend)

    # Walking the tree ---------------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and every module below it, parents first, with dotted names; a shared one once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, _join(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and every module below it, parents first; a shared one once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one; a shared one once, under its first name."""
        seen = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below this one."""
        return (child for _, child in self.named_children())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its dotted name; a shared one (a tied head) once, under its first name."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter, a shared one once: what an optimizer is given."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its dotted name; a shared one once."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer, a shared one once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def _named_members(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[Any]:
        owners = self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]
        seen: set[int] = set()
        for path, module in owners:
            for name, member in getattr(module, table).items():
                if member is None or (remove_duplicate and id(member) in seen):
                    continue
                seen.add(id(member))
                yield _join(path, name), member

    def get_submodule(self, target: str) -> Module:
        """The module at the dotted path `target`; "" is this one. Raises: AttributeError where there is none."""
        module = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at the dotted path `target`. Raises: AttributeError where there is none."""
        return self._get_member(target, "_parameters", "an nn.Parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at the dotted path `target`. Raises: AttributeError where there is none."""
        return self._get_member(target, "_buffers", "a buffer")

    def _get_member(self, target: str, table: str, kind: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if getattr(module, table).get(name) is None:
            raise AttributeError(f"`{name}` is not {kind}")
        return getattr(module, table)[name]

    # State --------------------------------------------------------------------------------------------------------

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> OrderedDict[str, Tensor]:
        """Every parameter and persistent buffer under its dotted name; shared ones under each of their names.

        The tensors are detached but not copied: they follow further training. `keep_vars` gives the parameters.
        The attribute `_metadata` names every module's version, as in PyTorch's.
        """
        state: OrderedDict[str, Tensor] = OrderedDict()
        versions: OrderedDict[str, dict[str, int]] = OrderedDict()
        state._metadata = versions  # type: ignore[attr-defined]
        for path, module in self.named_modules(None, prefix.removesuffix("."), remove_duplicate=False):
            versions[path] = {"version": module._version}
            for name, member in chain(module._parameters.items(), module._buffers.items()):
                if member is not None and name not in module._non_persistent_buffers:
                    state[_join(path, name)] = member if keep_vars else member.detach()
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> states.IncompatibleKeys:
        """Copy the tensors of `state_dict` into this module's, matched by name; all are checked before any is copied.

        assign: put them in the place of this module's instead, with their dtype and device, sharing their memory;
        whether a parameter requires a gradient stays as it is here. An optimizer must be made afterwards.

        Raises: RuntimeError that lists every missing, unexpected and mis-shaped key; `strict=False` allows the
        missing and the unexpected and returns them. TypeError for something that is not a mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        own = self.state_dict(keep_vars=True)
        errors = states.complaints(own, state_dict, strict, assign)
        if errors:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors)
            )
        if assign:
            self._assign(own, state_dict)
            return states.compare(own, state_dict)
        with no_grad():
            for key, tensor in own.items():
                if key in state_dict:
                    tensor.copy_(state_dict[key])
        return states.compare(own, state_dict)

    def _assign(self, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        """Let tensors of a state dict take the place of this module's."""
        made: dict[tuple[int, int], Tensor] = {}  # a tensor under two names stays one where both are given one memory
        for key, tensor in own.items():
            if key not in given:
                continue
            value = given[key]
            if isinstance(tensor, Parameter):
                place = id(tensor), value.data_ptr()
                if place not in made:
                    made[place] = value if isinstance(value, Parameter) else Parameter(value.detach(), False)
                    made[place].requires_grad = tensor.requires_grad
                value = made[place]
            path, _, name = key.rpartition(".")
            setattr(self.get_submodule(path), name, value)

    # Changing every module or tensor ------------------------------------------------------------------------------

    def apply(self, fn: Callable[[Module], None]) -> Self:
        """Call `fn(module)` on every module below this one and then on this one; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout draws) here and below; `mode=False` is evaluation mode. Returns self."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode (dropout passes through) here and below; returns self."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let every parameter record gradients, or freeze them with False; returns self."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or with `set_to_none=False` fill it with zeros in place."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move parameters and buffers to a device, a floating dtype, or both; in place, returns self.

        Accepts `to(device)`, `to(dtype)`, `to(device, dtype)` and `to(tensor)`. Integer buffers keep their dtype.
        Raises: TypeError for a dtype that is not floating.
        """
        device, dtype = _destination(*args, **kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )
        return self._convert(
            lambda t: t.to(device=device or t.device, dtype=dtype if dtype and t.dtype.is_floating_point else t.dtype)
        )

    def _convert(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Replace the data of every tensor by fn of it; the Parameter objects stay, so optimizers keep theirs."""
        with no_grad():
            for parameter in self.parameters():
                grad = parameter.grad
                parameter.data = fn(parameter.data)
                parameter.grad = None if grad is None else fn(grad)
            for module in self.modules():
                for name, buffer in module._buffers.items():
                    module._buffers[name] = None if buffer is None else fn(buffer)
        return self

    def float(self) -> Self:
        """Cast floating parameters and buffers to float32."""
        return self.to(dtypes.float32)

    def double(self) -> Self:
        """Cast floating parameters and buffers to float64."""
        return self.to(dtypes.float64)

    def half(self) -> Self:
        """Cast floating parameters and buffers to float16."""
        return self.to(dtypes.float16)

    def bfloat16(self) -> Self:
        """Cast floating parameters and buffers to bfloat16."""
        return self.to(dtypes.bfloat16)

    def cpu(self) -> Self:
        """Move parameters and buffers to the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None) -> Self:
        """Move parameters and buffers to a GPU."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else device or "cuda")

    # Printed form -------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The arguments between the brackets of the printed form; subclasses name theirs."""
        return ""

    def __repr__(self) -> str:
        own = self.extra_repr().split("\n") if self.extra_repr() else []
        below = [f"({name}): {indent(repr(child))}" for name, child in self._modules.items()]
        return in_brackets(type(self).__name__, own, below)


def _home_of(value: Any) -> str | None:
    """The table in which a value is registered by being assigned."""
    if isinstance(value, Parameter):
        return "_parameters"
    return "_modules" if isinstance(value, Module) else None


def _add_hook(table: dict[int, Any], entry: Any, first: bool) -> RemovableHandle:
    """Register a hook after those in the table, or before them."""
    others = dict(table)
    if first:
        table.clear()
    handle = RemovableHandle(table, entry)
    if first:
        table.update(others)
    return handle


def _changed_input(hook: Callable[..., Any], with_kwargs: bool, module: Module, args: Any, kwargs: Any) -> Any:
    """The arguments as a pre-hook leaves them."""
    if not with_kwargs:
        changed = hook(module, args)
        if changed is None:
            return args, kwargs
        return (changed if isinstance(changed, tuple) else (changed,)), kwargs
    changed = hook(module, args, kwargs)
    if changed is None:
        return args, kwargs
    if not (isinstance(changed, tuple) and len(changed) == 2):
        raise RuntimeError(
            f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {changed}."
        )
    return changed


def _destination(*args: Any, device: Any = None, dtype: Any = None) -> tuple[Any, Any]:
    """(device, dtype) out of the arguments of `Module.to`."""
    for arg in args:
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, (dtypes.dtype, type)):
            dtype = arg
        elif isinstance(arg, (str, devices.device)):
            device = arg
        elif arg is not None:
            raise TypeError(f"Module.to: expected a dtype, a device or a Tensor, not {type(arg).__name__}")
    return device, dtypes.argument(dtype)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _typename(value: Any) -> str:
    return type(value).__name__

