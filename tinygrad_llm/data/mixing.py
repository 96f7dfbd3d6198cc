"""Several corpora in one stream, each with its share, in an order that is fixed by a seed and can be taken up anywhere.

Source: Conneau and Lample, Cross-lingual language model pretraining (2019), section 3.1, for p ~ w^alpha.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinygrad_llm.data.fingerprint import Examples, fingerprint
from tinygrad_llm.data.permutation import Permutation


class Mixture:
    """An endless stream of the examples of several sources, source i with the share p_i = w_i^alpha / sum_j w_j^alpha.

    weights: w by name, by default how many examples a source has. alpha: 1 mixes in proportion to w, 0 gives all the
    same; between them the small ones are raised.

    The order: next comes the source that is furthest behind its share, but not the one that was just drawn from, unless
    its share is over a half. So neighbours come from different sources, no random clump delays any, and after k draws
    each has had within two of k p_i. A source gives each of its examples once, in an order shuffled by the seed, before
    any a second time, in another order. All that changes are the counts, and they are the state.

    Raises: ValueError for no sources, an empty one, sources whose examples have other shapes, weights that are not
    positive or lack a name, or a negative alpha.
    """

    def __init__(
        self,
        sources: Mapping[str, Examples],
        weights: Mapping[str, float] | None = None,
        alpha: float = 0.7,
        seed: int = 0,
    ) -> None:
        self.names, self.sources = list(sources), list(sources.values())
        if not self.names:
            raise ValueError("Mixture: there are no sources")
        if empty := [name for name in self.names if not len(sources[name])]:
            raise ValueError(f"Mixture: source {empty[0]!r} is empty; leave it out")
        shapes = {name: [part.shape[1:] for part in sources[name].take(np.zeros(1, np.int64))] for name in self.names}
        for name in self.names:
            if shapes[name] != shapes[self.names[0]]:
                raise ValueError(f"Mixture: all sources must give arrays of the same shapes, found {shapes}")
        if not (math.isfinite(alpha) and alpha >= 0) or seed < 0:
            raise ValueError(f"Mixture: alpha {alpha} and seed {seed} must be at least 0")
        self.alpha, self.seed = alpha, seed
        self._shares = self._from(weights)
        self._texts = {name: fingerprint(sources[name]) for name in self.names}
        self._drawn = [0] * len(self.names)
        self._last: int | None = None

    def _from(self, weights: Mapping[str, float] | None) -> np.ndarray:
        if weights is None:
            weights = {name: len(source) for name, source in zip(self.names, self.sources, strict=True)}
        if set(weights) != set(self.names):
            raise ValueError(f"Mixture: weights are for {sorted(weights)}, the sources are {sorted(self.names)}")
        if wrong := [f"{name}: {w}" for name, w in weights.items() if not (math.isfinite(w) and w > 0)]:
            raise ValueError(f"Mixture: weights must be positive, found {wrong[0]}")
        raised = np.array([weights[name] for name in self.names], float) ** self.alpha
        return raised / raised.sum()

    @property
    def shares(self) -> dict[str, float]:
        """p_i by name."""
        return dict(zip(self.names, self._shares.tolist(), strict=True))

    @property
    def drawn(self) -> dict[str, int]:
        """How many examples each source has given."""
        return dict(zip(self.names, self._drawn, strict=True))

    @property
    def epochs(self) -> dict[str, float]:
        """How often each source has been gone through."""
        return {name: self.drawn[name] / len(s) for name, s in zip(self.names, self.sources, strict=True)}

    def batch(self, size: int) -> tuple[np.ndarray, ...]:
        """The next `size` examples: what `take` of a source gives, arrays (size, ...)."""
        return self.take(*self.places(size))

    def places(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Go on by `count`: the source of each example (count,), and its index there (count,)."""
        sources, nth = np.empty(count, np.int64), np.empty(count, np.int64)
        for place in range(count):
            source = self._next()
            sources[place], nth[place] = source, self._drawn[source]
            self._drawn[source] += 1
            self._last = source
        indices = np.empty(count, np.int64)
        for source in set(sources.tolist()):
            here, n = sources == source, len(self.sources[source])
            epochs = nth[here] // n
            for epoch in set(epochs.tolist()):
                at = np.flatnonzero(here)[epochs == epoch]
                indices[at] = Permutation(n, self.seed, source, epoch)(nth[at] % n)
        return sources, indices

    def _next(self) -> int:
        behind = (sum(self._drawn) + 1) * self._shares - self._drawn
        if self._last is not None and len(self.names) > 1 and self._shares[self._last] <= 0.5:
            behind[self._last] = -np.inf
        return int(behind.argmax())

    def take(self, sources: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """The examples at these indices of these sources, in this order."""
        present = np.unique(sources)
        parts = [self.sources[source].take(indices[sources == source]) for source in present]
        back = np.argsort(np.argsort(sources, kind="stable"), kind="stable")  # from by-source order to this one
        joined = [np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)]
        kind: Any = type(parts[0])
        return kind(*joined) if hasattr(kind, "_fields") else tuple(joined)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as JSON values."""
        return {
            "seed": self.seed,
            "shares": self.shares,
            "examples": {name: len(source) for name, source in zip(self.names, self.sources, strict=True)},
            "texts": self._texts,
            "drawn": self.drawn,
            "last": None if self._last is None else self.names[self._last],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where a stream of the same sources stood.

        Raises: ValueError when seed, shares or sources are others, so that the order would be another.
        """
        mine = self.state_dict()
        if set(state) != set(mine):
            raise ValueError(f"Mixture: a state has the keys {sorted(mine)}, found {sorted(state)}")
        for key in ("seed", "examples", "shares", "texts"):
            if state[key] != mine[key]:
                raise ValueError(f"Mixture: the state's {key} {state[key]} differ from those here, {mine[key]}")
        drawn, last = state["drawn"], state["last"]
        counts = all(isinstance(n, int) and n >= 0 for n in drawn.values())
        if set(drawn) != set(self.names) or not counts or last not in (None, *self.names):
            raise ValueError(f"Mixture: the state's counts {drawn} and last source {last!r} do not fit {self.names}")
        self._drawn = [drawn[name] for name in self.names]
        self._last = None if last is None else self.names.index(last)


class MixedBatches:
    """The stream of a mixture's batches of `batch` examples, for a training loop; a mixture of one source shuffles it.

    Raises: ValueError for a batch below 1.
    """

    def __init__(self, mixture: Mixture, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"MixedBatches: a batch of {batch} examples must have at least 1")
        self.mixture, self.batch = mixture, batch

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.mixture.batch(self.batch)

    def state_dict(self) -> dict[str, Any]:
        """The mixture's state; batches of another size may go on from it."""
        return self.mixture.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises: ValueError as `Mixture.load_state_dict`."""
        self.mixture.load_state_dict(state)
