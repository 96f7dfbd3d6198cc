"""Training data that cannot be trusted: inputs with holes, and examples whose gradients pull another way.

Source: Charikar, Chen and Farach-Colton, Finding frequent items in data streams (2002), for the sketch; Hong et al., On
the effectiveness of mitigating data poisoning attacks with gradient shaping (2020), for poison in gradients.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, grad
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.models.modes import evaluating
from tinygrad_llm.nn import Module

SIZE = 4096  # numbers of a sketch
CHUNK = 2**20  # gradients that are hashed at a time


def mask_tokens(
    ids: np.ndarray,
    rng: np.random.Generator,
    *,
    mask_id: int | None = None,
    vocab_size: int | None = None,
    count: tuple[int, int] = (1, 3),
) -> np.ndarray:
    """A copy of the inputs ids (B, T) in which each row has between count[0] and count[1] places masked, both included.

    They become mask_id, or without one an id drawn from 0..vocab_size - 1. Targets stay as they are: the model learns
    to read over a hole, so that no single token decides. A row shorter than count is masked as a whole.

    Raises: ValueError unless there is one of mask_id and vocab_size, or for counts that are no range.
    """
    if (mask_id is None) == (vocab_size is None):
        raise ValueError("mask_tokens: say either mask_id or vocab_size")
    if not 0 <= count[0] <= count[1]:
        raise ValueError(f"mask_tokens: count {count} must be a range of numbers from 0")
    rows = rng.integers(count[0], count[1], size=(len(ids), 1), endpoint=True)
    rank = rng.random(ids.shape).argsort(axis=1).argsort(axis=1)  # a permutation of each row's places
    instead = np.asarray(mask_id) if vocab_size is None else rng.integers(vocab_size, size=ids.shape)
    return np.where(rank < rows, instead.astype(ids.dtype), ids)


Loss = Callable[[Any, Any], Tensor]


def next_token_loss(model: Any, example: Any) -> Tensor:
    """The mean loss of one window, x (T,) and y (T,)."""
    x, y = (from_numpy(np.asarray(part)[None]).to(model.tok_emb.weight.device) for part in example)
    return model.loss(x, y)


def gradient_similarity(
    model: Module,
    examples: Iterable[Any],
    trusted: Iterable[Any],
    *,
    parameters: Sequence[Tensor] | None = None,
    loss: Loss = next_token_loss,
    size: int | None = SIZE,
    seed: int = 0,
) -> np.ndarray:
    """cos(gradient of each example, mean gradient of trusted ones): (N,), the most suspicious having the lowest.

    An example that teaches what the trusted ones do pulls the parameters the same way; poison pulls them aside or back.
    So it is best judged by a model that has learned from the trusted ones a little, not by a new one, which anything
    teaches something. The options are those of `gradient_sketches`.

    Raises: ValueError where there are no examples or no trusted ones.
    """
    options: dict[str, Any] = {"parameters": parameters, "loss": loss, "size": size, "seed": seed}
    mean, count = np.zeros(()), 0
    for sketch in gradient_sketches(model, trusted, **options):
        mean, count = mean + sketch, count + 1
    if not count:
        raise ValueError("gradient_similarity: there are no trusted examples")
    scores = [_cosine(sketch, mean) for sketch in gradient_sketches(model, examples, **options)]
    if not scores:
        raise ValueError("gradient_similarity: there are no examples")
    return np.array(scores)


def gradient_sketches(
    model: Module,
    examples: Iterable[Any],
    *,
    parameters: Sequence[Tensor] | None = None,
    loss: Loss = next_token_loss,
    size: int | None = SIZE,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """The gradient of each example's loss, projected at random to (size,), one at a time.

    parameters: whose gradient; by default all that are trained, and a few layers will do. loss: (model, example) -> ().
    Each of the P numbers is added to one of `size` places with a sign, both drawn by the seed, so that products of
    sketches are on average those of the gradients, with an error of about 1 / sqrt(size) in a cosine. Nothing of size P
    but the gradient itself is kept. size=None gives the gradient whole, (P,).

    The model's own gradients and its mode are left as they were; there is no dropout.
    """
    chosen = [p for p in model.parameters() if p.requires_grad] if parameters is None else list(parameters)
    if not chosen:
        raise ValueError("gradient_sketches: no parameter is trained")
    for example in examples:
        with evaluating(model):
            found = grad(loss(model, example), chosen, allow_unused=True, materialize_grads=True)
        arrays = [devices.move(g.array, devices.CPU).reshape(-1) for g in found if g is not None]
        yield np.concatenate(arrays).astype(np.float64) if size is None else _sketch(arrays, size, seed)


def _sketch(arrays: list[np.ndarray], size: int, seed: int) -> np.ndarray:
    rng, sketch = np.random.default_rng(seed), np.zeros(size)
    for array in arrays:
        for start in range(0, len(array), CHUNK):
            part = array[start : start + CHUNK]
            drawn = rng.integers(2 * size, size=len(part))
            sketch += np.bincount(drawn >> 1, np.where(drawn & 1, part, -part), minlength=size)
    return sketch


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """a b / (|a| |b|), 0 where either is 0."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0
