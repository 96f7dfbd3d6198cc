"""The next token's logits, step by step: what was computed for the tokens before is remembered, not computed again.

Attention at a new position needs, of those before it, their keys and values alone, and no later token changes these. So
the prompt goes through the model once, and after it one position a token.

Where the context is full the window moves on, and with learned absolute positions nothing of the memory can stay: each
token in the window now has another position, so another embedding, another key and another value in every layer. The
window is then read anew, in one pass. How often is the matter of `slide`. With 1 the model always sees the last
`context` tokens, as in the plain loop over `ids[:, -context:]`, and each token costs a pass over all of them. With
`slide` the window moves that many positions at once, so that it is read anew only every `slide` tokens, and the model
sees between `context - slide + 1` and `context` tokens. With half the context a token costs two positions on average.

Source: Shazeer, Fast transformer decoding (2019), section 2.4.1, for keys and values that are kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, no_grad, registry
from tinygrad_llm.autograd.tensor import wrap
from tinygrad_llm.kernels import of
from tinygrad_llm.nn import Module, MultiHeadAttention, TransformerBlock

from .decoding import Step, serves
from .gpt import GPTModel
from .modes import evaluating
from .plain import plain
from .sampling import Ahead, Sampling

Rows = Sequence[Sequence[int]]


class Keys:
    """The keys and values of one layer: arrays (B, H, size, D), made when the first ones come."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = weakref.proxy(cache)  # a circle would keep the memory until Python looks for circles
        self.k: Any = None
        self.v: Any = None

    def held_arrays(self) -> list[tuple[str, Any]]:
        """See `autograd.held`."""
        return [("keys and values", array) for array in (self.k, self.v) if array is not None]

    def attend(self, qkv: Tensor, heads: int) -> Tensor:
        """`mix` for tensors."""
        return wrap(devices.run(self.mix, [qkv.array], qkv.array, heads))

    def mix(self, x: Any, heads: int) -> Any:
        """Remember the new keys and values, and mix those that each new position sees: (B, T, 3 C) -> (B, T, C)."""
        cache = self.cache
        rows, past, counts = cache.rows, cache.past, cache.counts
        batch, t, c3 = x.shape
        q, k, v = x.reshape(batch, t, 3, heads, -1).transpose(2, 0, 3, 1, 4)  # (B, H, T, D) each
        if self.k is None:
            shape = (cache.batch, heads, cache.size, k.shape[-1])
            zeros = devices.array_module(x).zeros  # what no row has come to yet weighs 0, and must not be nan
            self.k, self.v = zeros(shape, x.dtype), zeros(shape, x.dtype)
        alike = len(rows) == cache.batch and len({*zip(past, counts, strict=True)}) == 1  # all rows at once
        places: Any = zip(range(batch), rows, past, counts, strict=True)
        if alike:
            places = [(slice(None), slice(None), past[0], counts[0])]
        for i, row, start, count in places:
            self.k[row, :, start : start + count] = k[i, :, :count]
            self.v[row, :, start : start + count] = v[i, :, :count]
        if cache.causal:  # nothing was there before: what is new sees what is new
            seen = k, v
        else:
            which = slice(None) if len(rows) == cache.batch else rows
            seen = self.k[which, :, : cache.seen], self.v[which, :, : cache.seen]
        scale = (c3 // (3 * heads)) ** -0.5
        y, _ = of(q).attention(q, *seen, cache.mask, cache.causal, scale, None, 1.0)
        return y.astype(x.dtype, copy=False).swapaxes(1, 2).reshape(batch, t, c3 // 3)


class KVCache:
    """Keys and values of every layer for `batch` rows of up to `size` positions each, and where a pass puts new ones.

    Row b knows `lengths[b]` positions. A pass adds to some rows, to each a number of its own: they are padded on the
    right, where causal attention does not see the padding, and the next token takes its place.
    """

    def __init__(self, layers: int, batch: int, size: int) -> None:
        self.batch, self.size = batch, size
        self.lengths = [0] * batch
        self.layers = [Keys(self) for _ in range(layers)]

    def start(self, rows: list[int], counts: list[int]) -> np.ndarray:
        """Prepare a pass that adds counts[i] positions to rows[i]; returns their positions (R, T), T the longest."""
        self.rows, self.counts = rows, counts
        self.past = [self.lengths[row] for row in rows]
        longest = max(counts)
        self.causal = not any(self.past)
        self.seen = max(past + count for past, count in zip(self.past, counts, strict=True))
        positions = np.array(self.past)[:, None] + np.arange(longest)
        self.mask: Any = None
        if not self.causal and not (longest == 1 and len(set(self.past)) == 1):
            self.mask = (np.arange(self.seen) <= positions[:, :, None])[:, None]  # (R, 1, T, S)
        for row, past, count in zip(rows, self.past, counts, strict=True):
            self.lengths[row] = past + count
        return np.minimum(positions, self.size - 1)  # of padding: any that exists

    def select(self, rows: Sequence[int]) -> None:
        """Row i is from now on what row rows[i] was; rows may be left out or be there twice."""
        if list(rows) == list(range(self.batch)):
            return
        self.batch, self.lengths = len(rows), [self.lengths[row] for row in rows]
        for layer in self.layers:
            if layer.k is not None:
                layer.k, layer.v = layer.k[list(rows)], layer.v[list(rows)]


class Reader:
    """Reads rows of ids that grow, and tells what the model expects after each: `reader(rows)` -> logits (B, V).

    Rows may differ in length. Each call gets them whole and the reader computes what it has not read yet: all of a new
    row, one position of a row that grew by one, everything again where the window moved, and in a row that went on
    otherwise than before, what comes after the part in common. The window is the last `context_size` ids, and moves by
    `slide` at a time. most: the length that no row will exceed, if known; the memory is made for no more.

    A model that is no GPTModel, or has something else in the place of a block, is called on whole windows. For the time
    of a call the model is in evaluation mode, and nothing is recorded.

    Raises: ValueError for a context_size or slide out of range.
    """

    def __init__(
        self,
        model: Module,
        context_size: int | None = None,
        slide: int = 1,
        cache: bool = True,
        most: int | None = None,
    ) -> None:
        size = context_size if context_size is not None else _context(model)
        if size < 1:
            raise ValueError(f"generate: context_size must be at least 1, not {size}")
        if not 1 <= slide <= size:
            raise ValueError(f"generate: slide must lie in 1..{size}, the context, not {slide}")
        self.model, self.context, self.slide = model, size, slide
        self.modules, self.plain = list(model.modules()), plain(model)
        self.size = size if most is None else max(1, min(size, most))
        self.cached = cache and remembers(model) and size <= _context(model)
        self.known: list[list[int]] = []  # the window of each row, as far as it is in the cache
        self.cache: KVCache | None = None
        self._made: Step | None = None

    def window(self, row: Sequence[int]) -> list[int]:
        """What the model sees of a row."""
        hidden = max(0, len(row) - self.context)
        return list(row[-(-hidden // self.slide) * self.slide :])

    def select(self, rows: Sequence[int]) -> None:
        """Row i of the next call goes on from what row rows[i] of the last one was."""
        if self.cache is not None:
            self.cache.select(rows)
            self.known = [list(self.known[row]) for row in rows]

    def __call__(self, rows: Rows) -> Any:
        windows = [self.window(row) for row in rows]
        with no_grad(), evaluating(self.model, self.modules):
            return self._cached(windows) if self.cached else self._without(windows)

    def steps_ahead(self, rows: Rows) -> int:
        """How many tokens of each row `write` can give: until a window moves; 0 where it can give none."""
        if self.cache is None or len(rows) != self.cache.batch or not serves(self.plain):
            return 0
        windows = [self.window(row) for row in rows]
        if any(len(w) < 2 or known[: len(w) - 1] != w[:-1] for known, w in zip(self.known, windows, strict=True)):
            return 0
        return 0 if self._step() is None else self.size - max(map(len, windows)) + 1

    def write(self, rows: Rows, sampling: Sampling, ahead: Ahead | None, count: int) -> Iterator[list[int]]:
        """The next tokens of rows, as many times as asked for, up to `steps_ahead`: by a GPU, which is a step ahead.

        ahead: the numbers to draw by, where the temperature is not 0.
        Each row goes on with the tokens given. Who looks at them may end at any time; where the reader was asked for
        something else meanwhile, they end.
        """
        step = self._step()
        assert step is not None
        self.known = read = [self.window(row) for row in rows]
        lengths = [len(window) - 1 for window in read]
        for i, chosen in enumerate(step.write(rows, lengths, sampling, ahead, count)):
            yield chosen
            if self.known is not read:
                return
            if i < count - 1:  # the step after has read them
                for window, token in zip(read, chosen, strict=True):
                    window.append(token)

    def _step(self) -> Step | None:
        """A step by a GPU's kernels, where all layers are plain and nobody watches the ops."""
        if self.plain is None or self.cache is None or registry.watch is not None or not serves(self.plain):
            return None
        if self._made is None or not self._made.follows(self.cache):
            self._made = None  # before there are two
            self._made = Step(self.plain, self.cache)
        return self._made

    def _cached(self, windows: list[list[int]]) -> Any:
        """The logits after windows, of which only what is new is read."""
        if self.cache is None or len(windows) != self.cache.batch:
            self.cache, self.known = KVCache(len(self.model.trf_blocks), len(windows), self.size), [[] for _ in windows]
        cache, size = self.cache, len(windows)
        for row, (known, window) in enumerate(zip(self.known, windows, strict=True)):
            keep = min(_common(known, window), len(window) - 1)  # the last one is read in any case: for its logits
            cache.lengths[row], self.known[row] = keep, window[:keep]
        steps = [b for b in range(size) if cache.lengths[b] == len(windows[b]) - 1 > 0]
        step = self._step() if len(steps) == size else None
        if step is not None:
            self.known = windows
            return step.after([window[-1] for window in windows], cache.lengths)
        fresh = [b for b in range(size) if cache.lengths[b] == 0]
        rest = sorted({*range(size)} - {*steps} - {*fresh})
        logits: Any = None
        for group in filter(None, (fresh, rest, steps)):
            part = self._pass(group, windows)
            if len(group) == size:
                logits = part
            else:
                logits = np.empty_like(part, shape=(size, part.shape[-1])) if logits is None else logits
                logits[group] = part
        self.known = windows
        return logits

    def _pass(self, rows: list[int], windows: list[list[int]]) -> Any:
        """The model on what is new of some rows -> the logits after each, (R, V)."""
        assert self.cache is not None
        new = [windows[b][self.cache.lengths[b] :] for b in rows]
        counts = [len(ids) for ids in new]
        positions = self.cache.start(rows, counts)
        ids = np.zeros(positions.shape, np.int64)
        for i, row in enumerate(new):
            ids[i, : len(row)] = row
        device = self.model.tok_emb.weight.device
        if self.cache.mask is not None:
            self.cache.mask = devices.move(self.cache.mask, device)
        last = (np.arange(len(rows)), np.array(counts) - 1)
        given = wrap(ids).to(device), wrap(positions).to(device), last, self.cache.layers
        if self.plain is not None and not self.plain.narrow and registry.watch is None:  # a profile is of ops
            return devices.run(self.plain.after, [self.model.tok_emb.weight.array], *given)
        return self.model.after(*given).array

    def _without(self, windows: list[list[int]]) -> Any:
        """The logits after windows of one length in one call, of several in one for each length."""
        logits: list[Any] = [None] * len(windows)
        weight = next(iter(self.model.parameters()), None)
        for length in {len(window) for window in windows}:
            rows = [b for b, window in enumerate(windows) if len(window) == length]
            ids = wrap(np.array([windows[b] for b in rows], np.int64))
            part = self.model(ids if weight is None else ids.to(weight.device))[:, -1].array
            for b, row in zip(rows, part, strict=True):
                logits[b] = row
        return np.stack(logits)


def remembers(model: Module) -> bool:
    """Whether a model is a GPT of the blocks that know the cache; others are called as they stand."""
    return model.is_plainly(GPTModel) and all(
        block.is_plainly(TransformerBlock) and block.att.is_plainly(MultiHeadAttention) for block in model.trf_blocks
    )


def _context(model: Module) -> int:
    return model.config.context_length


def _common(a: list[int], b: list[int]) -> int:
    """The length of what two rows begin with alike."""
    if a == b[: len(a)]:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
