"""Tensor: an array, and the node that says how it was computed.

The class holds what gradients need: what an array is by itself stands in `base.py`, writing into one in `in_place.py`,
and the functions that users call in `functions/`, which attaches them as methods. `apply` runs an op on tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd import graph, registry, views
from tinygrad_llm.autograd.base import TensorBase
from tinygrad_llm.autograd.grad_mode import state as grad_state
from tinygrad_llm.autograd.registry import Op

VIEW, INFERENCE, UNDATED = 1, 2, 4  # bits of `flags`: shows the memory of another; made in inference mode; `.data`


class Tensor(TensorBase):
    """A multi-dimensional array that can be differentiated.

    array: the raw NumPy or CuPy array. node: its place in the graph, None where no gradient is wanted. A node without
    an op makes the tensor a leaf, whose gradients are summed up in `grad`. source: how a view was taken (see views.py).
    flags: VIEW, INFERENCE, and UNDATED, through which writes go unnoticed.
    """

    __slots__ = ("_grad", "_node", "flags", "source")
    holds = "tensors"  # what its memory counts as, where somebody asks who holds a device's
    _grad: Tensor | None
    _node: graph.Node | None
    source: tuple[Tensor, Op, dict[str, Any]] | None

    def __init__(self, *data: Any, requires_grad: bool = False):
        """Tensor(data) holds numbers in the default dtype; Tensor(2, 3) has that size, its elements mean nothing."""
        if len(data) == 1 and not isinstance(data[0], int):
            array = data[0].array if isinstance(data[0], Tensor) else data[0]
        else:
            array = np.zeros(data or (0,), dtypes.get_default_dtype().numpy)
        if not hasattr(array, "__array_interface__") and not hasattr(array, "__cuda_array_interface__"):
            array = np.asarray(array, dtypes.get_default_dtype().numpy)
        dtypes.of(array)
        self.array = np.asarray(array) if isinstance(array, np.generic) else array
        self._node = self._grad = self.source = None
        self.flags = INFERENCE if grad_state.inference else 0
        if requires_grad:
            self.requires_grad = True

    def is_inference(self) -> bool:
        """Whether the tensor was made in inference mode."""
        return bool(self.flags & INFERENCE)

    # --- its place in the graph ---

    @property
    def node(self) -> graph.Node | None:
        """The node that says how the tensor was computed; None where no gradient is wanted."""
        return self._node if self.source is None else views.node_of(self)

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value == (self.node is not None):
            return
        if not value:
            if not self.is_leaf:
                raise RuntimeError(
                    "you can only change requires_grad flags of leaf variables. If you want to use a computed variable "
                    "in a subgraph that doesn't require differentiation use var_no_grad = var.detach()."
                )
            self._node = None
            return
        if not self.is_floating_point():
            raise RuntimeError(f"only Tensors of floating point dtype can require gradients, not {self.dtype}")
        if self.flags & INFERENCE and not grad_state.inference:
            raise RuntimeError(
                "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed; take its clone()"
            )
        self._node = graph.Node(None, (), None, self.array)
        self._node.sink = self._sink()

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Say whether gradients are wanted for this leaf; returns the tensor."""
        self.requires_grad = requires_grad
        return self

    def _sink(self) -> Callable[[Any, bool], Any]:
        """What adds a gradient to `grad`. It holds the tensor weakly: no gradient can be read from one that is gone."""
        reference = weakref.ref(self)

        def add_to_grad(g: Any, owned: bool) -> Any:
            tensor = reference()
            if tensor is None:
                return None
            if isinstance(g, registry.Later):
                if tensor.grad is None:
                    return False
                g.add_into(tensor.grad.array)
                graph.note_write(tensor.grad.array)
                return True
            if tensor.grad is None:
                tensor.grad = wrap(g if owned else g.copy())
            else:
                tensor.grad.array += g
                graph.note_write(tensor.grad.array)
            return None

        return add_to_grad

    @property
    def grad(self) -> Tensor | None:
        """The gradient summed up so far; None before the first."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got {type(value).__name__}")
            if value.array.shape != self.array.shape or value.array.dtype != self.array.dtype:
                raise RuntimeError(
                    f"assigned grad has {value.dtype} of shape {list(value.shape)}, but its tensor is {self.dtype} of "
                    f"shape {list(self.shape)}; they must be equal"
                )
        self._grad = value

    @property
    def is_leaf(self) -> bool:
        return self.node is None or self.node.op is None

    @property
    def grad_fn(self) -> graph.Node | None:
        """The node of the op that made this tensor; None for a leaf."""
        return None if self.is_leaf else self.node

    @property
    def retains_grad(self) -> bool:
        return not self.is_leaf and self.node.sink is not None  # type: ignore[union-attr]

    def retain_grad(self) -> None:
        """Keep the gradient of a result in `grad`, as leaves do."""
        if self.node is None:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self.node.sink is None:
            self.node.sink = self._sink()

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call hook(gradient) when this tensor's gradient is complete; a tensor that it returns takes its place."""
        if self.node is None:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")

        def on_arrays(g: Any) -> Any:
            changed = hook(wrap(g))
            if changed is None:
                return None
            if not isinstance(changed, Tensor):
                raise TypeError(f"a hook must return a Tensor or None, not {type(changed).__name__}")
            if changed.array.shape != g.shape:
                raise RuntimeError(
                    f"a hook returned a gradient of shape {list(changed.shape)} for one of shape {list(g.shape)}"
                )
            return changed.array.astype(g.dtype, copy=False)

        if self.node.hooks is None:
            self.node.hooks = {}
        return RemovableHandle(self.node.hooks, on_arrays)

    def detach(self) -> Tensor:
        """The same memory outside the graph."""
        return wrap(self.array)

    def detach_(self) -> Tensor:
        """Leave the graph; returns the tensor.

        Raises:
            RuntimeError: the tensor is a view, which follows its base.
        """
        if self.source is not None:
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self._node = None
        return self

    @property
    def _base(self) -> Tensor | None:
        """The tensor that a view shows a part of; None for a tensor that is no view."""
        return None if self.source is None else views.base_of(self)

    def _is_view(self) -> bool:
        """Whether the tensor follows another one that it shares memory with."""
        return self.source is not None

    @property
    def data(self) -> Tensor:
        """The same memory outside the graph, where writes go unnoticed. Assigning replaces the array."""
        data = wrap(self.array)
        data.flags |= UNDATED
        return data

    @data.setter
    def data(self, value: Tensor) -> None:
        self.array = value.array
        if self.node is not None:  # gradients come in the new array's shape and dtype
            self.node.shape, self.node.dtype = value.array.shape, value.array.dtype

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Add d self / d leaf, times gradient, to the `grad` of every leaf (or of `inputs` only).

        gradient: of self's shape; 1 for a tensor of one element. The graph's captured arrays are freed unless
        retain_graph.

        Raises:
            RuntimeError: nothing requires a gradient, the shape does not fit, or the graph was freed already.
        """
        from tinygrad_llm.autograd.derivatives import backward

        backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    # --- to NumPy, to files, to the screen ---

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The elements as a NumPy array that shares the memory; force: detached, and copied from a GPU where needed."""
        if force:
            return devices.move(self.array, devices.CPU)
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if self.is_cuda:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")
        if self.dtype is dtypes.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16; convert with .float() first")
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Tensor:
        """What a NumPy function of the tensor gives is a tensor again: np.sin(x)."""
        return Tensor(array)

    def __repr__(self) -> str:
        from tinygrad_llm.autograd.printing import tensor_text

        return tensor_text(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
                "moment; detach() it first"
            )
        copy = type(self).__new__(type(self))
        Tensor.__init__(copy, devices.run(self.array.copy, [self.array]), requires_grad=self.requires_grad)
        copy.grad = None if self.grad is None else self.grad.__deepcopy__(memo)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self.is_leaf:
            raise RuntimeError("a recorded Tensor cannot be pickled; detach() it first")
        return _rebuild, (type(self), self.array, self.requires_grad)


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook out again."""

    def __init__(self, hooks: dict[int, Any], hook: Any):
        self._hooks, self.id = hooks, next(graph.clock)
        hooks[self.id] = hook

    def remove(self) -> None:
        """Take the hook out; doing so twice is harmless."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def _rebuild(cls: type[Tensor], array: Any, requires_grad: bool) -> Tensor:
    tensor = cls.__new__(cls)
    Tensor.__init__(tensor, array, requires_grad=requires_grad)
    return tensor


def wrap(array: Any) -> Tensor:
    """A tensor outside the graph around a raw array, unchecked and uncopied."""
    tensor = Tensor.__new__(Tensor)
    tensor.array = array if not isinstance(array, np.generic) else np.asarray(array)
    tensor._node = tensor._grad = tensor.source = None
    tensor.flags = INFERENCE if grad_state.inference else 0
    return tensor


def apply(op: Op, *args: Any, **static: Any) -> Tensor:
    """Run an op on tensors, scalars and None, and record it if a gradient is wanted.

    A pullback that nobody needs is dropped here, and with it the arrays that only it captured.
    """
    function = op.function
    if devices.in_use:
        args, arrays = on_one_device(op.name, args, lend=op.broadcasts)
        function = partial(devices.run, function, arrays)
    else:
        arrays = [a.array if isinstance(a, Tensor) else a for a in args]
    half = None if op.moves or op.half else _half_dtype(arrays)
    if half is not None:
        arrays = [a.astype(np.float32) if getattr(a, "dtype", None) == half else a for a in arrays]
    watch = registry.watch
    if watch is None:
        out, pull = function(*arrays, **static)
    else:
        out, pull = watch(op.name, "forward", partial(function, *arrays, **static))
    if half is not None and out.dtype == np.float32:
        out = out.astype(half)
    result = wrap(out)
    if op.moves and _is_view(out, arrays[0]):
        result.flags |= VIEW | args[0].flags & (INFERENCE | UNDATED)
        if grad_state.enabled and result.array is out:
            result.source = (args[0], op, static)
    if grad_state.enabled:
        parents = tuple([a.node if isinstance(a, Tensor) else None for a in args])
        for parent in parents:
            if parent is not None:
                if type(pull) is tuple:
                    pull = tuple([d if p is not None else None for d, p in zip(pull, parents, strict=True)])
                if grad_state.inference_seen:
                    refuse_inference(op, args, pull)
                result._node = graph.Node(op, parents, pull, result.array)
                break
    return result


def on_one_device(name: str, args: tuple[Any, ...], lend: bool = True) -> tuple[tuple[Any, ...], list[Any]]:
    """Arguments on one device, and their arrays; lend: a 0-d tensor in main memory moves to where the others are.

    Raises:
        RuntimeError: they are on several devices.
    """
    arrays = [a.array if isinstance(a, Tensor) else a for a in args]
    moved = devices.together(name, arrays, lend)
    triples = zip(args, arrays, moved, strict=True)
    return tuple(a if m is x or not isinstance(a, Tensor) else a.to(devices.of(m)) for a, x, m in triples), moved


def _is_view(out: Any, of: Any) -> bool:
    """Whether an array shows the memory of another one; without elements, whether it was made as a view of it."""
    if of is None or out is of:
        return out is of
    if out.size:
        return devices.may_share_memory(out, of)
    return out.base is not None and (out.base is of or out.base is of.base)


def refuse_inference(op: Op, args: tuple[Any, ...], pull: Any) -> None:
    """Raise where pullbacks captured an inference tensor: writes into it are not watched, so it must not change."""
    made = [a for a in args if isinstance(a, Tensor) and a.flags & INFERENCE]
    captured = list(graph.captured(pull)) if made else []
    for tensor in made:
        if any(devices.may_share_memory(tensor.array, array) for array in captured):
            raise RuntimeError(
                f"Inference tensors cannot be saved for backward: {op.name} needs one of shape {list(tensor.shape)}; "
                "take its clone(), or make it under no_grad() instead of inference_mode()"
            )


def printing(result: Tensor, prints: str) -> Tensor:
    """A fresh result whose node prints as PyTorch's: for one function there that is several ops here."""
    if result.node is not None:
        result.node.op = result.node.op.printing(prints)  # type: ignore[union-attr]
    return result


def _half_dtype(arrays: list[Any]) -> Any:
    """The 16-bit float dtype among the arguments, if there is one."""
    for a in arrays:
        if getattr(a, "itemsize", 0) == 2 and a.dtype.kind in "fV":
            return a.dtype
    return None
