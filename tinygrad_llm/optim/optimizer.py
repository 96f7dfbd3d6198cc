"""Optimizer: parameters in groups, each group with its options, each parameter with its state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any, NoReturn

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, enable_grad, no_grad
from tinygrad_llm.autograd.graph import note_write
from tinygrad_llm.interrupts import uninterrupted
from tinygrad_llm.kernels.cuda import capture
from tinygrad_llm.kernels.memory import zeros_apart
from tinygrad_llm.profiler import record_function

Group = dict[str, Any]

TILE = 65_536  # elements that a step works on at a time: a few such pieces in float32 fit a level-2 cache


def switches(**given: Any) -> Group:
    """PyTorch's switches of how a step is computed: they print and are saved, so that both libraries read each other's.

    `foreach` and `fused` change nothing here; the others have one position.

    Raises: NotImplementedError for differentiable or capturable. RuntimeError for foreach and fused at once.
    """
    options = {"differentiable": False, "foreach": None, "fused": None, **given}
    _check_options(options)
    if options["fused"] and options["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    return options


def moment(p: Tensor) -> Tensor:
    """Zeros like p, to stay from step to step."""
    return Tensor(zeros_apart(p.array))


class Optimizer:
    """Base class of the optimizers. A subclass checks its options, passes them as `defaults` and writes `update`.

    params: parameters, or dictionaries {"params": parameters, option: value} that set options for a group of them.
    `param_groups` is the list of groups; `state` maps a parameter to its dictionary of moments and the like.

    Raises: ValueError for no parameters, for one that appears twice or is not a leaf; TypeError for what is no tensor.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got a Tensor"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._stepped = False
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add {"params": parameters, option: value} to what is optimized; options left out take the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        _check_options(param_group)
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError("optimizer parameters need to be organized in ordered collections, but the ordering of "
                            "tensors in sets will change between runs. Please use a list instead.")  # fmt: skip
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
            if id(p) in known:
                raise ValueError("some parameters appear in more than one parameter group")
        if len({id(p) for p in params}) < len(params):
            raise ValueError("optimizer contains a parameter group with duplicate parameters")
        self.param_groups.append({"params": params, **self.defaults, **without(param_group, "params")})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or with `set_to_none=False` fill it with zeros in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. `closure`, if given, first computes the loss and them.

        Returns what `closure` returned. Ctrl-C waits until all parameters are updated.
        """
        self._stepped = True
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with record_function(f"{type(self).__name__}.step"), no_grad(), uninterrupted():
            for group in self.param_groups:
                moved = [p for p in group["params"] if p.grad is not None]
                for some in _of_each_device(moved):
                    devices.run(self.update_group, [some[0].array], some, group)
                for p in moved:
                    note_write(p.array)
        return loss

    def update_group(self, params: list[Tensor], group: Group) -> None:
        """Change parameters of one group and device, which have gradients; for those who can do all at once."""
        if capture.at_work() is not None:
            self.refuse_capture()
        for p in params:
            self.update(p, p.grad.array, self.state[p], group)  # type: ignore[union-attr]

    def refuse_capture(self) -> NoReturn:
        """Raise where a step would be captured with numbers that each replay would repeat."""
        raise RuntimeError(
            f"{type(self).__name__}.step: a CUDA graph would repeat the learning rate of this step; only Adam and "
            "AdamW without amsgrad, maximize and undecoupled weight decay can be captured: step outside of the graph"
        )

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: Group) -> None:
        """Change p.array in place by its gradient g, an array that is left as it is; `state` starts empty."""
        raise NotImplementedError

    def held_arrays(self) -> Iterator[tuple[str, Any]]:
        """What the state of every parameter holds; see `autograd.held`."""
        for state in self.state.values():
            yield from (("moments", value.array) for value in state.values() if isinstance(value, Tensor))

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: state}, "param_groups": groups}, with parameters as numbers in order of appearance.

        The tensors are the optimizer's own, not copies.
        """
        numbers = {id(p): i for i, p in enumerate(self._params())}
        groups = [
            {**without(group, "params"), "params": [numbers[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        return {"state": {numbers[id(p)]: state for p, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state, copied and cast to each parameter's dtype and device; groups match by position.

        Raises: ValueError if the number of groups, or of parameters in a group, differs, or a state's shape is not its
        parameter's; nothing is changed then.
        """
        theirs = state_dict["param_groups"]
        if len(theirs) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(a["params"]) != len(b["params"]) for a, b in zip(self.param_groups, theirs, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        for group in theirs:
            _check_options(group)
        numbers = [number for group in theirs for number in group["params"]]
        by_number = dict(zip(numbers, self._params(), strict=True))
        loaded: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for number, state in state_dict["state"].items():
            p = by_number[number]
            for name, value in state.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != p.shape:
                    raise ValueError(
                        f"loaded state dict has {name} of shape {list(value.shape)} for parameter {number} of shape "
                        f"{list(p.shape)}; it belongs to another model"
                    )
            loaded[p] = {name: _like(value, p, name) for name, value in state.items()}
        self.state = loaded
        for group, new in zip(self.param_groups, theirs, strict=True):
            group.update(deepcopy(without(new, "params")))

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        groups = []
        for i, group in enumerate(self.param_groups):
            options = [f"    {key}: {group[key]}\n" for key in sorted(without(group, "params"))]
            groups.append(f"\nParameter Group {i}\n{''.join(options)}")
        return f"{type(self).__name__} ({''.join(groups)})"


def _check_options(group: Group) -> None:
    """Raise on an option of PyTorch's that changes the step and does not exist here."""
    for option in ("differentiable", "capturable"):
        if group.get(option):
            raise NotImplementedError(f"optimizer: {option}={group[option]} is not supported; leave it out")


def _like(value: Any, p: Tensor, name: str) -> Any:
    """A copy of a value of p's state, a tensor on p's device and in p's dtype; a step count becomes an int."""
    if name == "step":
        return int(value)
    return value.to(device=p.device, dtype=p.dtype).clone() if isinstance(value, Tensor) else deepcopy(value)


def without(group: Group, key: str) -> Group:
    """The dictionary but for one key."""
    return {k: v for k, v in group.items() if k != key}


def in_tiles(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """Matching flat pieces of arrays of one shape (or None): what a step computes on a piece stays in the cache.

    The pieces are views that may be written to. Arrays that are not contiguous or not on the CPU come whole.
    """
    given = [a for a in arrays if a is not None]
    if not all(isinstance(a, np.ndarray) and a.flags.c_contiguous for a in given):
        yield arrays
        return
    flat = [None if a is None else a.reshape(-1) for a in arrays]
    for start in range(0, given[0].size, TILE):
        yield tuple(None if a is None else a[start : start + TILE] for a in flat)


def _of_each_device(params: list[Tensor]) -> Iterable[list[Tensor]]:
    """The parameters of each device."""
    found: defaultdict[Any, list[Tensor]] = defaultdict(list)
    for p in params:
        found[p.device if devices.in_use else None].append(p)
    return found.values()


def check_not_negative(name: str, value: float) -> None:
    """Raise PyTorch's ValueError for a negative option; nan is refused too."""
    if not value >= 0.0:
        raise ValueError(f"Invalid {name}: {value}")
