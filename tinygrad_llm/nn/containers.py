"""Modules and parameters in lists and dictionaries, so that they are registered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import chain, groupby
from operator import index as as_index
from typing import Any, NoReturn, Self

from tinygrad_llm.autograd import Tensor

from .module import Module
from .parameter import Parameter
from .printing import in_brackets, indent


class _ListOfModules(Module):
    """What Sequential and ModuleList share: children by position. A position is also the child's name unless named."""

    def _name_at(self, index: int) -> str:
        position = as_index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {index} is out of range")
        return list(self._modules)[position]

    def _of(self, named: list[tuple[str, Module]]) -> Self:
        """A container of the same class over some of the children."""
        raise NotImplementedError

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._of(list(self._modules.items())[index])  # type: ignore[arg-type]
        return self._modules[self._name_at(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        gone = list(self._modules)[index] if isinstance(index, slice) else [self._name_at(index)]
        kept = [module for name, module in self._modules.items() if name not in gone]
        self._renumber(kept)

    def _renumber(self, modules: Iterable[Module | None]) -> None:
        self._modules = {str(i): module for i, module in enumerate(modules)}

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def append(self, module: Module) -> Self:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; returns self."""
        if not isinstance(modules, Iterable):
            kind = type(self).__name__
            raise TypeError(f"{kind}.extend should be called with an iterable, but got {type(modules).__name__}")
        for module in list(modules):  # a list, so that a container can be extended with itself
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a module before a position; returns self."""
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def pop(self, index: int | slice) -> Any:
        """Take a module, or a slice of them, out."""
        taken = self[index]
        del self[index]
        return taken

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)


class Sequential(_ListOfModules):
    """Its modules one after another: x -> fn(...f1(f0(x))). Made of modules, or of one OrderedDict of named ones."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0] if len(args) == 1 and isinstance(args[0], OrderedDict) else None
        for name, module in named.items() if named is not None else enumerate(args):
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input

    def _of(self, named: list[tuple[str, Module]]) -> Self:
        return type(self)(OrderedDict(named))

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return Sequential(*self, *other)


class ModuleList(_ListOfModules):
    """A list of modules, to be called as its owner wishes."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def _of(self, named: list[tuple[str, Module]]) -> Self:
        return type(self)(module for _, module in named)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(chain(self, other))

    def __repr__(self) -> str:
        """A run of children that print alike is printed once: `(0-11): 12 x Linear(...)`."""
        lines = []
        for text, run in groupby(enumerate(self), key=lambda item: repr(item[1])):
            positions = [i for i, _ in run]
            first, last = positions[0], positions[-1]
            where, times = (f"({first})", "") if first == last else (f"({first}-{last})", f"{len(positions)} x ")
            lines.append(f"{where}: {times}{indent(text)}")
        return in_brackets(type(self).__name__, [], lines)


class ModuleDict(Module):
    """A dictionary of modules, in order of insertion."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Any]:
        """The modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Any]:
        """Pairs of name and module."""
        return self._modules.items()

    def update(self, modules: Mapping[str, Module] | ModuleDict | Iterable[tuple[str, Module]]) -> None:
        """Add modules from a mapping or from pairs, replacing those of the same name."""
        if not isinstance(modules, (Iterable, ModuleDict)):
            raise TypeError(
                "ModuleDict.update should be called with an iterable of key/value pairs, but got "
                + type(modules).__name__
            )
        for key, module in modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules:
            self[key] = module

    def pop(self, key: str) -> Any:
        """Take the module `key` out."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Take every module out."""
        self._modules.clear()


class ParameterList(Module):
    """A list of parameters; a plain tensor put into it becomes one."""

    def __init__(self, values: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        if values is not None:
            self.extend(values)

    def _name_at(self, index: int) -> str:
        position = as_index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {index} is out of range")
        return str(position % len(self))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._parameters[self._name_at(index)]

    def __setitem__(self, index: int, value: Tensor) -> None:
        setattr(self, self._name_at(index), value if isinstance(value, Parameter) else Parameter(value))

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parameters.values())

    def append(self, value: Tensor) -> Self:
        """Add a parameter at the end; returns self."""
        self.register_parameter(str(len(self)), value if isinstance(value, Parameter) else Parameter(value))
        return self

    def extend(self, values: Iterable[Tensor]) -> Self:
        """Add parameters at the end; returns self."""
        if isinstance(values, Tensor) or not isinstance(values, Iterable):
            raise TypeError(
                f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}"
            )
        for value in list(values):
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Tensor]) -> Self:
        return self.extend(values)

    def extra_repr(self) -> str:
        return "\n".join(
            f"  ({i}): Parameter containing: [{p.dtype} of size {'x'.join(map(str, p.shape))}"
            + (f" ({p.device})]" if p.device.type == "cuda" else "]")
            for i, p in enumerate(self)
        )

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("ParameterList should not be called.")


class ParameterDict(Module):
    """Parameters by name, in the order of their arrival; a plain tensor put into it becomes one."""

    def __init__(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] | None = None) -> None:
        super().__init__()
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.register_parameter(key, value if isinstance(value, Parameter) else Parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._parameters[key]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, key: str) -> bool:
        return key in self._parameters

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._parameters.keys()

    def values(self) -> ValuesView[Any]:
        """The parameters."""
        return self._parameters.values()

    def items(self) -> ItemsView[str, Any]:
        """Pairs of name and parameter."""
        return self._parameters.items()

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter `key`, or default where there is none."""
        return self._parameters.get(key, default)

    def update(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        """Add parameters from a mapping or from pairs, replacing those of the same name."""
        if not isinstance(parameters, Iterable):
            raise TypeError(
                "ParameterDict.update should be called with an iterable of key/value pairs, but got "
                + type(parameters).__name__
            )
        for key, value in parameters.items() if isinstance(parameters, Mapping) else parameters:
            self[key] = value

    def pop(self, key: str) -> Any:
        """Take the parameter `key` out."""
        return self._parameters.pop(key)

    def clear(self) -> None:
        """Take every parameter out."""
        self._parameters.clear()

    def extra_repr(self) -> str:
        return "\n".join(
            f"  ({key}): Parameter containing: [{p.type()} of size {'x'.join(map(str, p.shape))}"
            + (f" ({p.device})]" if p.device.type == "cuda" else "]")
            for key, p in self.items()
        )

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("ParameterDict should not be called.")
