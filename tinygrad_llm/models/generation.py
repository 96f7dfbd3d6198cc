"""Writing on: one token at a time, each drawn from the model's distribution given those before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.nn import Module

from .cache import Reader
from .sampling import Ahead, Generators, Sampling, draws

Ends = int | Collection[int] | None


def generate(
    model: Module,
    ids: Tensor,
    max_new_tokens: int,
    context_size: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: Ends = None,
    generator: Generators = None,
    *,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    slide: int = 1,
    cache: bool = True,
) -> Tensor:
    """Continue each row of ids (B, T) -> (B, T + up to max_new_tokens), the prompt included.

    temperature, top_k, top_p, min_p, repetition_penalty: see `Sampling`; without any, the likeliest token is taken.
    eos_id: one or several; a row that has written one goes on writing it, and all stops when every row has.
    generator: where draws come from, by default the one that manual_seed seeds; or one for each row.
    context_size: how many of the last positions the model sees; by default its config's.
    slide: by how many positions what it sees moves on when the context is full; 1 sees the most, more is faster.
    cache: whether keys and values are remembered; the tokens are the same. See `models.cache` for both.
    The model is put into evaluation mode for the time, and nothing is recorded.

    Raises: ValueError for options out of range, an empty prompt or a model whose logits are nan.
    """
    if ids.ndim != 2 or ids.shape[1] < 1:
        raise ValueError(f"generate: ids must have shape (B, T) with T of at least 1, not {tuple(ids.shape)}")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    reader = Reader(model, context_size, slide, cache, most=ids.shape[1] + max(max_new_tokens, 0))
    rows = ids.tolist()
    for _ in tokens(reader, rows, max_new_tokens, sampling, eos_id, generator):
        pass
    return filled_up(rows, ids)


def filled_up(rows: Sequence[list[int]], prompts: Tensor) -> Tensor:
    """Continuations of prompts (B, T) as (B, the longest): who ended early goes on writing its last token."""
    longest = max(map(len, rows), default=prompts.shape[1])
    full = [row + row[-1:] * (longest - len(row)) for row in rows]
    return Tensor(np.array(full, prompts.array.dtype).reshape(len(rows), longest)).to(prompts.device)


def generate_batch(
    model: Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    context_size: int | None = None,
    *,
    sampling: Sampling | None = None,
    eos_id: Ends = None,
    generator: Generators = None,
    slide: int = 1,
    cache: bool = True,
) -> list[list[int]]:
    """Continue prompts of any lengths, all at once: each row's prompt and continuation, up to and with its eos_id.

    A row gets the tokens that its prompt alone would get; where they are drawn, from its own generator of a sequence.
    The options are those of `generate`.

    Raises: as `generate`.
    """
    rows = [list(map(int, prompt)) for prompt in prompts]
    most = max(map(len, rows), default=0) + max(max_new_tokens, 0)
    reader = Reader(model, context_size, slide, cache, most)
    for _ in tokens(reader, rows, max_new_tokens, sampling or Sampling(), eos_id, generator):
        pass
    return rows


def stream(
    model: Module,
    ids: Sequence[int],
    max_new_tokens: int,
    context_size: int | None = None,
    *,
    sampling: Sampling | None = None,
    eos_id: Ends = None,
    generator: Generators = None,
    slide: int = 1,
    reader: Reader | None = None,
) -> Iterator[int]:
    """The continuation of one prompt, a token at a time as each is chosen, up to and with eos_id.

    reader: one to go on with, as a conversation does: what it has read of the prompt before is not read again. It
    brings its model, context_size and slide. The other options are those of `generate`.

    Raises: as `generate`, when the first token is asked for.
    """
    row = list(map(int, ids))
    reader = reader or Reader(model, context_size, slide, most=len(row) + max(max_new_tokens, 0))
    for _ in tokens(reader, [row], max_new_tokens, sampling or Sampling(), eos_id, generator):
        yield row[-1]


def tokens(
    reader: Reader, rows: list[list[int]], max_new_tokens: int, sampling: Sampling, eos_id: Ends, generator: Generators
) -> Iterator[None]:
    """Lengthen each row by one token and yield, up to max_new_tokens times; a row that has ended stays as it is.

    Rows that have ended are not computed any more; on a GPU, where a row more costs nothing, once they are half of all.
    Of one generator every row of the batch takes its number, ended or not, so that what the others get does not depend
    on it.

    Raises: ValueError for an empty row, a negative max_new_tokens or another number of generators than of rows.
    """
    if not all(rows):
        raise ValueError(f"generate: prompt {rows.index([])} is empty; the model needs a token to go on from")
    if max_new_tokens < 0:
        raise ValueError(f"generate: max_new_tokens must not be negative, but is {max_new_tokens}")
    if isinstance(generator, Sequence) and len(generator) != len(rows):
        raise ValueError(f"generate: {len(generator)} generators for {len(rows)} rows; give one, or one for each row")
    ends, batch = ends_of(eos_id), len(rows)
    alive, over = list(range(batch)), set[int]()  # rows that are computed, and which of these have ended
    left = max_new_tokens if rows else 0
    while left:
        if over:
            going = [i for i in range(len(alive)) if i not in over]
            reader.select(going)
            alive, over = [alive[i] for i in going], set()
        here = [rows[b] for b in alive]
        ahead = min(left, reader.steps_ahead(here))
        for chosen in _chosen(reader, here, sampling, generator, alive, batch, ahead):
            if ahead and sampling.temperature:  # the numbers that it was drawn by are taken now
                draws(generator, [b for i, b in enumerate(alive) if i not in over], batch)
            left -= 1
            for i, token in enumerate(chosen):
                if i not in over:
                    here[i].append(token)
            yield
            over |= {i for i, token in enumerate(chosen) if token in ends}
            if len(over) == len(alive):
                return
            if over and (not ahead or 2 * len(over) >= len(alive)):  # to leave rows out of a step costs many steps
                break


def _chosen(
    reader: Reader, rows: list[list[int]], sampling: Sampling, generator: Generators, which: list[int], batch: int,
    ahead: int,
) -> Iterator[list[int]]:  # fmt: skip
    """The next token of each row, or the next tokens of as many steps as a GPU may be ahead."""
    if ahead:
        numbers = Ahead(generator, which, batch) if sampling.temperature else None
        yield from reader.write(rows, sampling, numbers, ahead)
        return
    logits = sampling.penalize(reader(rows), rows)
    u = draws(generator, which, batch) if sampling.temperature else None
    yield sampling.choose(logits, u).tolist()


def ends_of(eos_id: Ends) -> set[int]:
    """The tokens that end a row."""
    return set() if eos_id is None else {eos_id} if isinstance(eos_id, int) else set(eos_id)


def generate_text_simple(model: Module, idx: Tensor, max_new_tokens: int, context_size: int) -> Tensor:
    """Continue each row of idx (B, T) with the likeliest token each time -> (B, T + max_new_tokens)."""
    return generate(model, idx, max_new_tokens, context_size)
