"""Tensors as PyTorch's files describe them: a storage of elements, and where in it a tensor's own lie."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd import Size, Tensor
from tinygrad_llm.autograd.tensor import wrap
from tinygrad_llm.nn import Parameter
from tinygrad_llm.serialization.archive import Archive
from tinygrad_llm.serialization.errors import LoadError, shown
from tinygrad_llm.serialization.pickled import Builder, Call, Global, Means, Storage, hashable

STORAGES = {
    "FloatStorage": dtypes.float32,
    "DoubleStorage": dtypes.float64,
    "HalfStorage": dtypes.float16,
    "BFloat16Storage": dtypes.bfloat16,
    "LongStorage": dtypes.int64,
    "IntStorage": dtypes.int32,
    "ShortStorage": dtypes.int16,
    "CharStorage": dtypes.int8,
    "ByteStorage": dtypes.uint8,
    "BoolStorage": dtypes.bool_,
}
NAMES = {dtype: name for name, dtype in STORAGES.items()}
MOST_BYTES = 2**63 - 1  # that a view may span; a view of a broadcast element needs no memory of its own


class Loaded:
    """The names and storages of a file that is being read: each storage once, in the file's own memory."""

    def __init__(self, archive: Archive, map_location: Any):
        self._archive = archive
        self._device = _mapping(map_location)
        self._storages: dict[str, tuple[dtypes.dtype, _Elements]] = {}
        self._names: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): Builder(_ordered_dict),
            ("torch._utils", "_rebuild_tensor"): Builder(_tensor),
            ("torch._utils", "_rebuild_tensor_v2"): Builder(_tensor),
            ("torch._utils", "_rebuild_parameter"): Builder(_parameter),
            ("torch", "Size"): Builder(_size),
            ("torch", "device"): Builder(_device),
            ("_codecs", "encode"): Builder(_bytes),
        }
        for module in ("__builtin__", "builtins"):
            self._names[module, "set"] = Builder(lambda items=(): set(_scalars(items)))
            self._names[module, "bytes"] = Builder(lambda: b"")
            self._names[module, "frozenset"] = Builder(lambda items=(): frozenset(_scalars(items)))
        self._names |= {("torch", name): dtype for name, dtype in STORAGES.items()}
        self._names |= {("torch", dtype.name): dtype for dtype in STORAGES.values()}

    def named(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            word = f"{module:.80}.{name:.80}"
            raise LoadError(f"refused {word}: only tensors, plain containers and numbers are read from a file")
        return self._names[module, name]

    def persistent(self, key: Any) -> Any:
        """The elements of storage (storage, dtype, member, device, count)."""
        if not isinstance(key, tuple) or len(key) != 5 or key[0] != "storage" or not isinstance(key[1], dtypes.dtype):
            raise LoadError(f"refused the storage {shown(key)}")
        _, dtype, member, location, count = key
        if not isinstance(member, str) or not isinstance(location, str) or not _natural(count):
            raise LoadError(f"refused the storage {shown(key)}")
        if member not in self._storages:
            content = self._archive.storage(member)
            size = count * dtype.itemsize
            if size > content.size:
                raise LoadError(f"storage {member} promises {size} bytes and has {content.size}")
            content = content[:size]
            if content.ctypes.data % dtype.itemsize:
                content = content.copy()  # not aligned, as another writer may leave it
            elements = _Elements(devices.move(content.view(dtype.numpy), self._device(location)))
            self._storages[member] = (dtype, elements)
        known, elements = self._storages[member]
        if known is not dtype:
            raise LoadError(f"storage {member} is of {known} and of {dtype}; torch.save writes it as one of them")
        return elements


class _Elements(Means):
    """A storage on the stack of the machine: a vector that only the builders of tensors look into."""

    def __init__(self, array: Any):
        self.array = array


def _mapping(map_location: Any) -> Any:
    """A function from the device that a file names to the one that its tensors go to."""
    if isinstance(map_location, dict):
        table = {str(devices.device(k)): devices.device(v) for k, v in map_location.items()}
        for target in table.values():
            devices.module_of(target)  # says at once when it is not here
        return lambda location: table.get(location) or _here(location)
    if map_location is None:
        return _here
    if not isinstance(map_location, (str, devices.device)):
        kind = type(map_location).__name__
        raise TypeError(f"load(): map_location must be a device or a dict of devices, not a {kind}; try 'cpu'")
    target = devices.device(map_location)
    devices.module_of(target)  # says at once when it is not here
    return lambda location: target


def _here(location: str) -> devices.device:
    kind = location.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise LoadError(f"holds tensors of device {shown(location)}; load them with map_location='cpu'")
    if kind == "cuda" and (problem := devices.cuda_problem()) is not None:
        raise LoadError(f"holds tensors of {location[:20]}; load them with map_location='cpu' ({problem})")
    return devices.device(location)


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_BYTES


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """A strided view of a storage, all of whose elements lie inside."""
    if not isinstance(storage, _Elements) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise LoadError("a tensor without a storage, size or stride")
    if len(size) != len(stride) or len(size) > 64 or not all(map(_natural, (*size, *stride, offset))):
        raise LoadError(f"a tensor of offset {shown(offset)}, size {shown(size)} and stride {shown(stride)}")
    if hooks or metadata:
        raise LoadError("a tensor with hooks or metadata")
    array = storage.array
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 not in size and last >= array.size:
        raise LoadError(f"a tensor reaches element {last} of a storage that has {array.size}")
    if math.prod(size) * array.itemsize > MOST_BYTES:
        raise LoadError(f"a tensor of size {shown(size)}")
    if 0 in size:
        view = array[:0].reshape(size)
    else:
        strides = [s * array.itemsize for s in stride]
        strided = devices.array_module(array).lib.stride_tricks.as_strided
        view = strided(array[offset:], size, strides)
    tensor = wrap(view)
    return tensor.requires_grad_() if requires_grad is True and tensor.is_floating_point() else tensor


def _parameter(data: Any, requires_grad: Any, hooks: Any = None) -> Parameter:
    if not isinstance(data, Tensor) or not isinstance(requires_grad, bool) or hooks:
        raise LoadError("a parameter without data, or with hooks")
    return Parameter(data.detach(), requires_grad and data.is_floating_point())


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    if items != ():
        raise LoadError("an OrderedDict built from a list; torch.save fills it item by item")
    return OrderedDict()


def _size(items: Any) -> Size:
    if not isinstance(items, tuple) or not all(map(_natural, items)):
        raise LoadError(f"a size of {shown(items)}")
    return Size(items)


def _device(kind: Any, index: Any = None) -> devices.device:
    if not isinstance(kind, str) or not (index is None or _natural(index)):
        raise LoadError(f"a device {shown(kind)}")
    return devices.device(kind, index)


def _bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise LoadError(f"bytes in the encoding {shown(encoding)}; torch.save uses latin1")
    return text.encode("latin1")


def _scalars(items: Any) -> Any:
    if not isinstance(items, (list, tuple)):
        raise LoadError(f"a set of a {type(items).__name__}")
    return map(hashable, items)


class Saved:
    """The storages of an object that is being written: memory that tensors share is written once."""

    def __init__(self) -> None:
        self.storages: list[np.ndarray] = []  # the bytes of each
        self._keys: dict[tuple[int, int, dtypes.dtype], str] = {}
        self._alive: list[Any] = []  # copies made on the way, so that no other array takes their address

    def described(self, value: Any) -> Any:
        """A tensor, size, dtype or device as PyTorch's files describe it; None for anything else."""
        if isinstance(value, Parameter):
            call = self._tensor(value, False)
            return Call((Global(("torch._utils", "_rebuild_parameter")), (call, value.requires_grad, OrderedDict())))
        if isinstance(value, Tensor):
            return self._tensor(value, value.requires_grad)
        if isinstance(value, Size):
            return Call((Global(("torch", "Size")), (tuple(value),)))
        if isinstance(value, dtypes.dtype):
            return Global(("torch", value.name))
        if isinstance(value, devices.device):
            numbered = () if value.index is None else (value.index,)
            return Call((Global(("torch", "device")), (value.type, *numbered)))
        return None

    def _tensor(self, tensor: Tensor, requires_grad: bool) -> Call:
        array, location = tensor.array, str(tensor.device)
        memory = _memory(array)
        if memory is None:
            memory = array = array.copy()
        self._alive.append(memory)
        offset = (_address(array) - _address(memory)) // array.itemsize
        strides = tuple(s // array.itemsize for s in array.strides)
        storage = Storage(
            ("storage", Global(("torch", NAMES[tensor.dtype])), self._key(memory, tensor.dtype), location, memory.size)
        )
        return Call((
            Global(("torch._utils", "_rebuild_tensor_v2")),
            (storage, offset, tuple(array.shape), strides, requires_grad, OrderedDict()),
        ))  # fmt: skip

    def _key(self, memory: Any, dtype: dtypes.dtype) -> str:
        place = (_address(memory), memory.size, dtype)
        if place not in self._keys:
            self._keys[place] = str(len(self.storages))
            flat = devices.move(memory, devices.CPU).ravel(order="K")
            self.storages.append(flat.view(np.uint8))
        return self._keys[place]


def _memory(array: Any) -> Any:
    """The array that owns the memory which this one is a view of, if a file can describe the view of it; else None."""
    owner = array
    while isinstance(owner.base, type(array)):
        owner = owner.base
    dense = owner.flags.c_contiguous or owner.flags.f_contiguous
    steps = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
    return owner if dense and steps and owner.dtype == array.dtype else None


def _address(array: Any) -> int:
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
