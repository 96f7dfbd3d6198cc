"""A shuffle that needs no array: any index is mapped on its own."""

import numpy as np

ROUNDS = 8
GOLDEN, MIX_1, MIX_2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Permutation:
    """A bijection of {0, ..., n - 1} drawn by a key (integers): `p(index)` is where each index goes, in any shape.

    An index of b bits is cut into a left and a right half; in turns, one half is changed by a hash of the other, which
    can be undone whatever the hash is: so it permutes {0, ..., 2**b - 1}. Where it leads out of the range it is applied
    again; the walk is back inside after fewer than two steps on average, and no two walks meet.

    Raises: ValueError unless 1 <= n < 2**62.
    Source: Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions"; Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains", section 3 (cycle walking).
    """

    def __init__(self, n: int, *key: int) -> None:
        if not 1 <= n < 2**62:
            raise ValueError(f"Permutation: n {n} must lie in [1, 2**62)")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._right = np.uint64(bits // 2)
        self._masks = (np.uint64(2 ** (bits // 2) - 1), np.uint64(2 ** (bits - bits // 2) - 1))
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __call__(self, index: np.ndarray | int) -> np.ndarray:
        """Where each index goes: (...) integers in [0, n) -> (...) int64. Raises: IndexError for an index outside."""
        index = np.asarray(index)
        if index.size and not (index.min() >= 0 and index.max() < self.n):
            raise IndexError(f"Permutation: an index is outside [0, {self.n})")  # its walk might never come back
        out = self._once(index.astype(np.uint64).ravel())
        while len(outside := np.flatnonzero(out >= self.n)):
            out[outside] = self._once(out[outside])
        return out.astype(np.int64).reshape(index.shape)

    def _once(self, index: np.ndarray) -> np.ndarray:
        """The permutation of {0, ..., 2**bits - 1}."""
        low, high = self._masks
        right, left = index & low, index >> self._right
        for i, key in enumerate(self._keys):
            if i % 2:
                right = right ^ (_hash(left, key) & low)
            else:
                left = left ^ (_hash(right, key) & high)
        return (left << self._right) | right


def _hash(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """64 bits that depend on every bit of x (n,) and of the key. Source: splitmix64's finalizer, Steele et al. 2014."""
    x = (x + key) * GOLDEN
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))
