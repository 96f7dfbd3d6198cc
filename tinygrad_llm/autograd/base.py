"""What a tensor is without its graph: an array, described in PyTorch's words and read as Python's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.size import Size

if TYPE_CHECKING:
    from tinygrad_llm.autograd.tensor import Tensor


class TensorBase:
    """A multi-dimensional array; array: NumPy's or CuPy's own. Tensor adds what gradients need."""

    __slots__ = ("__weakref__", "array")
    array: Any
    __array_priority__ = 1000  # so that `numpy_array * tensor` asks the tensor

    if TYPE_CHECKING:
        # the methods and operators that functions/ attaches to Tensor, for type checkers
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

    # --- as Python's numbers ---

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
        wanted = value.array if isinstance(value, TensorBase) else value
        return bool(devices.run(lambda: (self.array == wanted).any(), [self.array]))

    def __hash__(self) -> int:
        return id(self)

    def __format__(self, spec: str) -> str:
        """A 0-d tensor as its number: f"{loss:.3f}"."""
        return format(self.item(), spec) if self.array.ndim == 0 else object.__format__(self, spec)
