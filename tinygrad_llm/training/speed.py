"""How fast a run is against what this machine's matrix products can do, and how long it will take at least."""

import time
from typing import Any

import numpy as np

from tinygrad_llm import cuda
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.training.memory import parameter_count

SIDE, TURNS = 1024, 3  # a product of this size is large enough to run at full speed


def product_peak(device: str = "cpu") -> float:
    """The fastest of a few float32 products of (1024, 1024) matrices, in multiplications and additions a second."""
    a, b = (from_numpy(np.full((SIDE, SIDE), 0.5, np.float32)).to(device) for _ in range(2))
    fastest = float("inf")
    with no_grad():
        for _ in range(TURNS + 1):  # the first wakes threads, or a GPU
            start = time.perf_counter()
            a @ b
            if device != "cpu":
                cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - start)
    return 2 * SIDE**3 / fastest


def operations_per_token(config: dict[str, Any]) -> float:
    """Multiplications and additions of the products of a training step, for each token: forward 2 a weight, backward 4.

    6 (P - embeddings + head) + 12 L T C: every weight of a product takes part in a product forward and two backward,
    and so do queries with keys, and weights with values. Embeddings are looked up; the head is a product, tied or not.

    Source: Chowdhery et al., PaLM (2022), appendix B.
    """
    v, t, c, n = (config[k] for k in ("vocab_size", "context_length", "emb_dim", "n_layers"))
    looked_up = t * c + (0 if config["tie_weights"] else v * c)
    return 6.0 * (parameter_count(config) - looked_up) + 12.0 * n * t * c


def least_seconds(config: dict[str, Any], tokens: int, peak: float) -> float:
    """How long training on so many tokens takes if everything ran at the peak; small models need a multiple of it."""
    return operations_per_token(config) * tokens / peak
