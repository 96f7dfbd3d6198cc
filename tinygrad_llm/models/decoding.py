"""A token of each row on a GPU, in few launches, all of them recorded once and repeated.

A token's arithmetic is next to nothing: what it costs is the reading of every weight, and whatever keeps the GPU from
that. So a step is made of launches that do as much as fits between two reads of a weight (`Kernels.linear_step` and its
neighbours), five a block. They write to arrays that are there, and what changes from one token to the next lies on the
GPU, the token itself included. So they can be recorded once and repeated by one call, and the host looks at a token
while the next one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm import cuda, devices
from tinygrad_llm.cuda.graphs import usual_stream
from tinygrad_llm.kernels import CUDA, of
from tinygrad_llm.kernels.cuda.launch import REALS
from tinygrad_llm.kernels.cuda.mail import Mail
from tinygrad_llm.kernels.step import CHUNK, FEW
from tinygrad_llm.warning import warn

from .plain import Layer, PlainGPT
from .sampling import Ahead, Sampling

if TYPE_CHECKING:
    from .cache import KVCache

WIDEST = 128  # of the heads that the kernels take
DRAWN = 128  # steps whose draws are moved at once
WORTH = 8  # steps to be repeated before recording them pays


def serves(gpt: PlainGPT | None) -> bool:
    """Whether a model's tokens can be computed so: plain layers on a GPU, in float32 or 16 bits, heads not too wide."""
    if gpt is None or not gpt.tok_emb.weight.is_cuda:
        return False
    table, widths = gpt.tok_emb.weight.array, {block.first.arrays()[0].shape for block in gpt.blocks}
    usual = gpt.head.arrays()[0].shape == table.shape and len(widths) == 1
    return usual and table.dtype in REALS and table.shape[1] // gpt.heads <= WIDEST


class Step:
    """The step of all rows of a cache, which has been filled before: its arrays, and what was recorded of it."""

    def __init__(self, gpt: PlainGPT, cache: KVCache) -> None:
        self.gpt, self.layers, self.most = gpt, cache.layers, cache.size
        self.read = _read_by(gpt, cache)
        table = gpt.tok_emb.weight.array
        (v, c), rows, dtype = table.shape, cache.batch, table.dtype
        hidden = len(gpt.blocks[0].first.arrays()[0])
        xp, parts = devices.array_module(table), -(-cache.size // CHUNK)

        def empty(*shape: int, dtype: Any = np.float32) -> Any:
            return np.empty_like(table, dtype, shape=shape)

        tiled = dtype != np.float32 and rows > FEW and c % 8 == hidden % 8 == 0
        narrow = dtype if tiled else np.float32  # what only a product will read
        self.state = xp.zeros((3, rows), np.int64)
        self.x, self.qkv, self.logits = empty(rows, c), empty(rows, 3 * c), empty(rows, v)
        self.mixed, self.hidden = empty(rows, c, dtype=narrow), empty(rows, hidden, dtype=narrow)
        self.room = empty(rows, gpt.heads, parts, c // gpt.heads + 2), xp.zeros((rows, gpt.heads), np.int32)
        self.normed = empty(rows, c, dtype=dtype)
        summed = [layer for block in gpt.blocks for layer in (block.qkv, block.out_proj, block.second)] if tiled else []
        wide = ((layer, np.empty_like(layer.bias.array, np.float32)) for layer in summed if layer.bias is not None)
        self.wide = {id(layer): (layer, bias) for layer, bias in wide}
        self.draws, self.u = empty(DRAWN, rows, dtype=np.float64), empty(rows, 1, dtype=np.float64)
        self.seen: Any = None  # (B, V), which tokens each row has, where that counts
        self.mail = Mail(self.state[0])
        self.recorded: dict[Sampling, Callable[[], None] | None] = {}  # None where it is given launch by launch

    def held_arrays(self) -> list[tuple[str, Any]]:
        """See `autograd.held`."""
        arrays = (self.qkv, self.logits, self.hidden, self.room[0], self.draws, self.seen)
        return [("tensors", array) for array in arrays if array is not None]

    def follows(self, cache: KVCache) -> bool:
        """Whether it is a step for this cache, too; what was recorded is forgotten where arrays lie elsewhere now."""
        now = _read_by(self.gpt, cache)
        if (cache.batch, cache.size) != (self.state.shape[1], self.most) or now[0].dtype != self.read[0].dtype:
            return False
        if any(a is not b for a, b in zip(self.read, now, strict=True)):
            self.read, self.layers = now, cache.layers
            self.recorded.clear()
        return True

    def after(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        """The logits (B, V) after one more token of each row, which knows `lengths` positions before."""
        self._start(tokens, lengths)
        devices.run(self._forward, [self.x], None)
        return self.logits.copy()

    def write(
        self, rows: Sequence[Sequence[int]], lengths: Sequence[int], sampling: Sampling, ahead: Ahead | None, count: int
    ) -> Iterator[list[int]]:
        """The next tokens, `count` times, after rows of which all but the last id is known; the GPU is a step ahead."""
        self._start([row[-1] for row in rows], lengths)
        if sampling.repetition_penalty != 1:
            marks = devices.move(_marks(rows, self.logits.shape), devices.of(self.x))
            self.seen = marks if self.seen is None else self.seen
            self.seen[...] = marks
        before: Callable[[], np.ndarray] | None = None
        for i in range(count):
            if ahead is not None and i % DRAWN == 0:
                moved = ahead.next(min(DRAWN, count - i))
                devices.run(self._put_draws, [self.x], moved)
            devices.run(self._step, [self.x], sampling, count - i)
            sent = devices.run(self.mail.send, [self.x])
            if before is not None:
                yield sampling.checked(before())
            before = sent
        if before is not None:
            yield sampling.checked(before())

    def _start(self, tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Put the last tokens and the lengths before them where the launches look."""
        wrong = [token for token in tokens if not 0 <= token < self.logits.shape[1]]
        if wrong:
            raise IndexError(f"generate: id {wrong[0]} is outside of the vocabulary of {self.logits.shape[1]}")
        state = np.array([tokens, lengths, [0] * len(tokens)], np.int64)
        self.state[...] = devices.move(state, devices.of(self.x))
        devices.run(self._widen, [self.x])

    def _widen(self) -> None:
        """The biases of products that give float32, as such a product takes them; the layers' own may have changed."""
        for layer, bias in self.wide.values():
            bias[...] = layer.arrays()[1]

    def _put_draws(self, u: np.ndarray) -> None:
        """The numbers that the next steps draw by."""
        self.draws[: len(u)] = devices.move(u, devices.of(self.x))
        self.state[2] = 0

    def _step(self, sampling: Sampling, left: int) -> None:
        """One token more: by what was recorded, or by launches that are recorded for the next time."""
        again = self.recorded.get(sampling)
        if again is not None:
            again()
            return
        self._choose(sampling)
        if left > WORTH and sampling not in self.recorded and of(self.x) is CUDA:
            self.recorded[sampling] = captured(lambda: self._choose(sampling))

    def _choose(self, sampling: Sampling) -> None:
        """The launches of one step, and of the choice."""
        self._forward(sampling)
        kernels, options = of(self.x), (sampling.top_k, sampling.top_p, sampling.min_p)
        if sampling.repetition_penalty != 1:
            kernels.penalize(self.logits, self.seen, sampling.repetition_penalty)
        kernels.sample(self.logits, self.u, sampling.temperature, *options, self.state[0])

    def _forward(self, sampling: Sampling | None) -> None:
        """The launches from tokens to logits."""
        k, gpt, x = of(self.x), self.gpt, self.x
        draws = (self.draws, self.u) if sampling is not None and sampling.temperature else (None, None)
        seen = self.seen if sampling is not None and sampling.repetition_penalty != 1 else None
        tables = gpt.tok_emb.weight.array, gpt.pos_emb.weight.array
        k.embedding_step(self.state, *draws, *tables, x, seen, self.most)
        scale = (x.shape[1] // gpt.heads) ** -0.5
        blocks = [(block.qkv, block.out_proj, block.first, block.second) for block in gpt.blocks]
        weights = [layer.arrays()[0] for layer in (*chain(*blocks), gpt.head)]
        ahead = iter(weights[2:] + weights[:2])  # of each product what the second after it reads, over to the next step

        def linear(
            x: Any, layer: Layer, out: Any, norm: Layer | None = None, form: Any = None, add: bool = False
        ) -> None:
            given = None if norm is None else (*norm.arrays(), norm.eps)
            weight, bias = layer.arrays()
            _, bias = self.wide.get(id(layer), (layer, bias))
            k.linear_step(x, weight, bias, out, given, form, add, self.normed, next(ahead))

        for block, layer in zip(gpt.blocks, self.layers, strict=True):
            linear(x, block.qkv, self.qkv, block.norm1)
            k.attention_step(self.qkv, layer.k, layer.v, self.state[1], scale, self.mixed, self.room)
            linear(self.mixed, block.out_proj, x, add=True)
            linear(x, block.first, self.hidden, block.norm2, block.form)
            linear(self.hidden, block.second, x, add=True)
        linear(x, gpt.head, self.logits, gpt.final_norm)


def _read_by(gpt: PlainGPT, cache: KVCache) -> list[Any]:
    """The arrays of a model and of its memory."""
    return [*gpt.arrays(), *(array for layer in cache.layers for array in (layer.k, layer.v))]


def captured(work: Callable[[], None]) -> Callable[[], None] | None:
    """What repeats some work as one launch; None where that is not possible, with a warning."""
    graph, stream = cuda.CUDAGraph(), usual_stream(devices.current())
    stream.wait_stream(cuda.current_stream())
    try:
        with cuda.stream(stream):
            graph.capture_begin()
            try:
                work()
            finally:
                graph.capture_end()
    except (RuntimeError, MemoryError) as error:
        warn(f"generate: a step cannot be recorded and is given launch by launch ({error})")
        return None
    cuda.current_stream().wait_stream(stream)
    return graph.replay


def _marks(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> np.ndarray:
    """Which tokens each row has: bool (B, V)."""
    marks = np.zeros(shape, bool)
    for mark, row in zip(marks, rows, strict=True):
        mark[np.asarray(row, np.int64)] = True
    return marks
