"""Tensors that still lie in files, and a model filled from them: all names and shapes first, then the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, serialization
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import empty
from tinygrad_llm.nn import Parameter, init

from .gpt import GPTConfig, GPTModel

BLOCK = 2**22  # bytes that are read at once, so that loading takes the model's memory and no more
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its bytes begin at offset, row after row."""

    path: Path
    offset: int
    dtype: np.dtype
    shape: Shape

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Some rows at a time, with which they are."""
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        rows = max(1, BLOCK // max(row, 1))
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.shape[0], rows):
                part = slice(start, min(start + rows, self.shape[0]))
                block = np.empty((part.stop - start, *self.shape[1:]), self.dtype)
                view = block.reshape(-1).view(np.uint8)
                if file.readinto(view.data) != view.size:
                    raise ValueError(f"{self.path}: ends before its tensors do; copy or download it again")
                yield part, block


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor that is in memory already."""

    path: Path
    array: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        return self.array.dtype

    @property
    def shape(self) -> Shape:
        """Of the array."""
        return self.array.shape

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All of it at once."""
        yield slice(0, len(self.array)), self.array


def pickled(path: Path, within: str | None = None) -> dict[str, Stored | Held]:
    """The tensors of a state dict in a file of PyTorch's, or of the one that it keeps under the name `within`.

    The file is read once to compare its checksums and then let go, so that it does not stand in memory beside the
    model; the tensors come from it again, piece by piece.

    Raises: ValueError for a file that is damaged, or holds no state dict.
    """
    try:
        values = serialization.load(path, map_location="cpu", mmap=True)
    except serialization.LoadError as error:
        raise ValueError(str(error)) from None
    if within is not None and isinstance(values, Mapping) and isinstance(values.get(within), Mapping):
        values = values[within]
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(f"{path}: holds no state dict, names with a tensor each; save model.state_dict()")
    return {str(name): _let_go(path, tensor.array) for name, tensor in values.items()}


def _let_go(path: Path, array: np.ndarray) -> Stored | Held:
    """Where in its file a tensor lies, or the tensor, if its elements do not lie there one after the other."""
    place = serialization.place_in_file(array)
    if place is None or not array.flags.c_contiguous or not array.ndim:
        return Held(path, array)
    return Stored(path, place, array.dtype, array.shape)


@dataclass(frozen=True)
class Piece:
    """What a tensor of a file is to the model.

    ours: the parameter. shape: what the tensor must have. rows: those that it fills of the parameter, by default all.
    turned: it is the transpose, (in, out).
    """

    ours: str
    shape: Shape
    rows: tuple[int, int] | None = None
    turned: bool = False


def parameters(c: GPTConfig) -> dict[str, Shape]:
    """The shape of each parameter of a GPT, by its name; tied weights once."""
    C = c.emb_dim
    block = {
        "norm1.weight": (C,), "norm1.bias": (C,),
        "att.qkv.weight": (3 * C, C), "att.qkv.bias": (3 * C,),
        "att.out_proj.weight": (C, C), "att.out_proj.bias": (C,),
        "norm2.weight": (C,), "norm2.bias": (C,),
        "ff.layers.0.weight": (4 * C, C), "ff.layers.0.bias": (4 * C,),
        "ff.layers.2.weight": (C, 4 * C), "ff.layers.2.bias": (C,),
    }  # fmt: skip
    if not c.qkv_bias:
        del block["att.qkv.bias"]
    found: dict[str, Shape] = {"tok_emb.weight": (c.vocab_size, C), "pos_emb.weight": (c.context_length, C)}
    for i in range(c.n_layers):
        found |= {f"trf_blocks.{i}.{name}": shape for name, shape in block.items()}
    found |= {"final_norm.weight": (C,), "final_norm.bias": (C,)}
    return found if c.tie_weights else {**found, "out_head.weight": (c.vocab_size, C)}


def filled(
    where: Path,
    config: GPTConfig,
    tensors: Mapping[str, Any],
    pieces: Mapping[str, Piece],
    dtype: dtypes.dtype | None,
    classes: int | None = None,
) -> GPTModel:
    """A GPT in evaluation mode with the tensors (Stored or Held) of a file, each put where its piece says.

    dtype: of the model, None for that of the file. classes: the outputs of a head that classifies.

    Raises: ValueError with every name that is missing, unexpected, of another shape or no floating-point number, before
    any memory is taken; or naming a tensor that holds nan or infinity.
    """
    if errors := complaints(tensors, pieces):
        raise ValueError(f"{where}: its tensors are not those of its configuration: {'; '.join(errors)}")
    kinds = {np.dtype(tensors[name].dtype) for name in pieces}
    kind = dtype or (dtypes.BY_NUMPY[kinds.pop()] if len(kinds) == 1 else dtypes.float32)
    with init.skip_random(), devices.CPU:  # where the numbers are read to
        model = GPTModel(config)
        if classes is not None:
            model.replace_head(classes, bias=False)
    own = dict(model.named_parameters())
    for parameter in own.values():
        if parameter.dtype is not kind:
            parameter.data = empty(parameter.shape, dtype=kind, device=devices.CPU)
    for name, piece in pieces.items():
        _fill(own[piece.ours], name, tensors[name], piece)
    return model.to(devices.get_default_device()).eval()


def complaints(tensors: Mapping[str, Any], pieces: Mapping[str, Piece]) -> list[str]:
    """Everything that stands against filling pieces from tensors, in words."""
    found = []
    if missing := [name for name in pieces if name not in tensors]:
        found.append(f"missing are {listed(missing)}")
    if unexpected := [name for name in tensors if name not in pieces]:
        found.append(f"not expected are {listed(unexpected)}")
    both = [name for name in pieces if name in tensors]
    shapes = [(name, tensors[name].shape, pieces[name].shape) for name in both]
    found += [f"{name} has shape {given}, not {right}" for name, given, right in shapes if given != right]
    floating = (np.float16, np.float32, np.float64, dtypes.bfloat16.numpy)
    found += [
        f"{n} holds {tensors[n].dtype}, no floating-point numbers" for n in both if tensors[n].dtype not in floating
    ]
    return found


def listed(names: Iterable[str]) -> str:
    """Names in a row."""
    return ", ".join(names)


def _fill(parameter: Parameter, name: str, stored: Any, piece: Piece) -> None:
    """Copy a tensor to its place."""
    target = parameter.array[slice(*piece.rows) if piece.rows else slice(None)]
    for part, block in stored.blocks():
        if not np.isfinite(block).all():
            raise ValueError(f"{stored.path}: {name} holds nan or infinity; the run that wrote it had failed")
        if piece.turned:
            target[:, part] = block.T
        else:
            target[part] = block
