"""Tensor: an array, and the node that says how it was computed.

Ops run through `apply`; the functions and methods that users call stand in `functions/` and are attached here
by the decorator `method`.
"""

from __future__ import annotations

import builtins
import weakref
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd import graph, registry, views
from tinygrad_llm.autograd.grad_mode import state as grad_state
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.size import Size

VIEW, INFERENCE, UNDATED = 1, 2, 4  # bits of Tensor.flags; UNDATED: writes through `.data` are nobody's business


class Tensor:
    """A multi-dimensional array that can be differentiated.

    array: the raw NumPy or CuPy array. node: its place in the graph, None where no gradient is wanted. A node without
    an op makes the tensor a leaf, whose gradients are summed up in `grad`. source: how a view was taken (see views.py).
    """

    __slots__ = ("__weakref__", "_grad", "_node", "array", "flags", "source")
    holds = "tensors"  # what its memory counts as, where somebody asks who holds a device's
    array: Any
    _grad: Tensor | None
    _node: graph.Node | None
    source: tuple[Tensor, Op, dict[str, Any]] | None
    __array_priority__ = 1000  # so that `numpy_array * tensor` asks the tensor

    if TYPE_CHECKING:
        # the methods and operators attached by functions/, for type checkers
        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def __setitem__(self, key: Any, value: Any) -> None: ...
        def __neg__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...

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

    # --- what it is ---

    @property
    def shape(self) -> Size:
        return tuple.__new__(Size, self.array.shape)  # the array's sizes need no check

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> dtypes.dtype:
        return dtypes.of(self.array)

    @property
    def device(self) -> devices.device:
        return devices.of(self.array)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_cpu(self) -> bool:
        return self.device.type == "cpu"

    def get_device(self) -> int:
        """The number of the GPU; -1 for main memory."""
        return -1 if self.is_cpu else self.device.index or 0

    @property
    def itemsize(self) -> int:
        return self.array.itemsize

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one dimension of it."""
        if dim is None:
            return self.shape
        if not -self.ndim <= dim < self.ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{-self.ndim}, {self.ndim - 1}], but got {dim})"
            )
        return self.array.shape[dim]

    def dim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim

    ndimension = dim

    def numel(self) -> int:
        """The number of elements."""
        return self.array.size

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.array.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """How many elements lie between neighbours, for each dimension or for one."""
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        return strides if dim is None else strides[dim]

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self.array.ctypes.data if isinstance(self.array, np.ndarray) else self.array.data.ptr

    def is_contiguous(self) -> bool:
        """Whether the elements lie in memory in the order of their indices."""
        return bool(self.array.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating one."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the dtype is a complex one: there are none."""
        return False

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

    # --- in and out of Python and NumPy ---

    def item(self) -> Any:
        """The one element as a Python number."""
        if self.array.size != 1:
            raise RuntimeError(f"a Tensor with {self.array.size} elements cannot be converted to Scalar")
        value = devices.waited(self.array.item())
        return float(value) if self.is_floating_point() else value

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        array = devices.move(self.array, devices.CPU)
        return (array.astype(np.float32) if self.dtype is dtypes.bfloat16 else array).tolist()

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

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise RuntimeError(
                "Boolean value of Tensor with more than one value is ambiguous"
                if self.array.size
                else "Boolean value of Tensor with no values is ambiguous"
            )
        return bool(devices.waited(self.array.item()))

    def _only_element(self) -> Any:
        if self.array.size != 1:
            raise ValueError(
                f"only one element tensors can be converted to Python scalars, not one of shape {list(self.shape)}"
            )
        return self.item()

    def __float__(self) -> float:
        return float(self._only_element())

    def __int__(self) -> int:
        return int(self._only_element())

    def __index__(self) -> int:
        if self.dtype.is_floating_point or self.array.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(devices.waited(self.array.item()))

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.array.shape[0]

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind())

    def __contains__(self, value: Any) -> bool:
        wanted = value.array if isinstance(value, Tensor) else value
        return bool(devices.run(lambda: (self.array == wanted).any(), [self.array]))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        from tinygrad_llm.autograd.printing import tensor_text

        return tensor_text(self)

    def __format__(self, spec: str) -> str:
        """A 0-d tensor as its number: f"{loss:.3f}"."""
        return format(self.item(), spec) if self.array.ndim == 0 else object.__format__(self, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
                "moment; "
                "detach() it first"
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

    # --- writing in place ---

    def update(self, function: Callable[..., Tensor], name: str, *args: Any, **kwargs: Any) -> Tensor:
        """Write function(self, ...) into the tensor; returns it.

        Where a pullback captured the very memory that is to be overwritten, it gets a copy instead.
        """
        self.check_writable(name)
        start = next(graph.clock)
        result = function(self, *args, **kwargs)
        if graph.captures(result.node, self.array, start):
            before = wrap(devices.run(self.array.copy, [self.array]))
            before._node = self.node
            result = function(before, *args, **kwargs)
        return self.write(result, name)

    def write(self, result: Tensor, name: str) -> Tensor:
        """Write the values of result into the tensor's memory, so that all that share it see them; returns the tensor.

        A recorded result's node becomes the tensor's, and its base and the other views of that follow (views.py).

        Raises:
            RuntimeError: self is a leaf that requires a gradient or a view of one, or of another shape or lesser dtype.
        """
        self.check_writable(name)
        if result.array.shape != self.array.shape:
            raise RuntimeError(
                f"{name}: output with shape {list(self.shape)} doesn't match the broadcast shape {list(result.shape)}"
            )
        if result.dtype.category > self.dtype.category:
            raise RuntimeError(
                f"{name}: result type {result.dtype} can't be cast to the desired output type {self.dtype}"
            )
        if result.node is not None and self.flags & VIEW and self.source is None:
            raise RuntimeError(
                f"{name}: a view that was taken under no_grad() cannot take a recorded value, for its base would not "
                "know; take the view with gradients enabled, or write under no_grad()"
            )
        devices.run(self.array.__setitem__, [self.array], ..., result.array)
        self.written()
        if result.node is not None:
            views.rebase(self, result.to(self.dtype).node)
        return self

    def written(self) -> None:
        """Date a write into the tensor's memory, so that pullbacks that captured it notice; `.data` is exempt."""
        if not self.flags & UNDATED:
            graph.note_write(self.array)

    def check_writable(self, name: str) -> None:
        """Refuse to write into a leaf whose gradient is wanted, or into memory that elements share."""
        if grad_state.enabled:
            base = views.base_of(self)
            if base._node is not None and base._node.op is None:
                raise RuntimeError(
                    f"{name}: a {'' if base is self else 'view of a '}leaf Variable that requires grad is being used "
                    "in an in-place operation; do it under no_grad()"
                )
        if not _writeable(self.array):
            raise RuntimeError(
                f"{name}: more than one element of the written-to tensor refers to a single memory location, or the "
                "memory is read-only; clone() the tensor first"
            )


def _writeable(array: Any) -> bool:
    """Whether an array may be written to. CuPy's know no lock; those that repeat elements have a stride of 0."""
    if isinstance(array, np.ndarray):
        return array.flags.writeable
    return all(stride or n < 2 for stride, n in zip(array.strides, array.shape, strict=True))


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
    arrays = [a.array if isinstance(a, Tensor) else a for a in args]
    function = op.function
    if devices.in_use:
        args, arrays = _on_one_device(op, args, arrays)
        function = partial(devices.run, function, arrays)
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
                    _refuse_inference(op, args, pull)
                result._node = graph.Node(op, parents, pull, result.array)
                break
    return result


def _on_one_device(op: Op, args: tuple[Any, ...], arrays: list[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """The arguments and their arrays; a 0-d tensor in main memory moves to the GPU where the others are."""
    moved = devices.together(op.name, arrays, lend=op.broadcasts)
    pairs = zip(args, arrays, moved, strict=True)
    args = tuple(a if m is x or not isinstance(a, Tensor) else a.to(devices.of(m)) for a, x, m in pairs)
    return args, moved


def _is_view(out: Any, of: Any) -> bool:
    """Whether an array shows the memory of another one; without elements, whether it was made as a view of it."""
    if of is None or out is of:
        return out is of
    if out.size:
        return devices.may_share_memory(out, of)
    return out.base is not None and (out.base is of or out.base is of.base)


def _refuse_inference(op: Op, args: tuple[Any, ...], pull: Any) -> None:
    """Raise where pullbacks captured an inference tensor: writes into it are not watched, so it must not change."""
    made = [a for a in args if isinstance(a, Tensor) and a.flags & INFERENCE]
    captured = list(graph._captured(pull)) if made else []
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


def near(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where there are several GPUs, run a function that works on raw arrays on the one that its tensors are on."""

    @wraps(function)
    def placed(*args: Any, **kwargs: Any) -> Any:
        if not devices.several:
            return function(*args, **kwargs)
        with devices.near_to(a.array if isinstance(a, Tensor) else a for a in (*args, *kwargs.values())):
            return function(*args, **kwargs)

    return placed


def method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of a tensor a method of Tensor too, under its own name."""
    setattr(Tensor, public_name(function), function)
    return function


def public_name(function: Callable[..., Any]) -> str:
    """The name that users see: `sum_` is called so in the source only because `sum` would hide Python's own."""
    name = function.__name__
    return name[:-1] if hasattr(builtins, name[:-1]) else name


def in_place(function: Callable[..., Tensor]) -> None:
    """Give Tensor the in-place method `name_` of a function `name`."""
    name = public_name(function) + "_"

    def write_in_place(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.update(function, name, *args, **kwargs)

    write_in_place.__name__ = name
    write_in_place.__doc__ = f"`{name[:-1]}`, written into the tensor; returns it."
    setattr(Tensor, name, write_in_place)


def shape_in_place(function: Callable[..., Tensor]) -> None:
    """Give Tensor the method `name_` of a function that takes a view: the tensor itself then has the other shape."""
    name = public_name(function) + "_"

    def take_shape(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.check_writable(name)
        before = wrap(self.array)  # what the tensor was, for the graph
        before._node, before.source, before.flags = self._node, self.source, self.flags
        view = function(before, *args, **kwargs)
        self.array = view.array
        if before._node is not None or before.source is not None:
            self._node, self.source, self.flags = view.node, view.source, view.flags
        return self

    take_shape.__name__ = name
    take_shape.__doc__ = f"The tensor itself in the shape of `{name[:-1]}`; returns it."
    setattr(Tensor, name, take_shape)
