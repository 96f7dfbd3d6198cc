"""Random numbers, drawn as PyTorch's CPU generator draws them.

The generator is the 32-bit Mersenne Twister with the classic integer seeding, which is NumPy's MT19937 with legacy
seeding. What turns its words into numbers follows PyTorch's kernels, so that `manual_seed(123)` is followed by
the same numbers here and there.

Source: Matsumoto and Nishimura, Mersenne Twister (1998); Box and Muller, A Note on the Generation of Random Normal
Deviates (1958).
"""

from __future__ import annotations

import contextlib
import secrets
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm.kernels.cuda import capture

if TYPE_CHECKING:
    from tinygrad_llm.autograd import Tensor

DEFAULT_SEED = 67280421310721
AT_ONCE = 65_536  # numbers made from words at a time, so that memory holds little more than the result


class Generator:
    """A stream of random words and what is made of them. All methods return fresh NumPy arrays."""

    def __init__(self, device: Any = "cpu"):
        if str(device) != "cpu":
            raise RuntimeError(f"Generator: only cpu has one, not {device}")
        self.manual_seed(DEFAULT_SEED)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream anew from an integer seed; the generator keeps its low 32 bits, as PyTorch's does."""
        self._initial_seed = int(seed)
        self._twister = np.random.MT19937()
        self._twister._legacy_seeding(self._initial_seed & 0xFFFFFFFF)
        self._next_normal: float | None = None
        return self

    def initial_seed(self) -> int:
        """The seed this stream was started from."""
        return self._initial_seed

    def seed(self) -> int:
        """Start the stream anew from a seed of the operating system, and return it."""
        seed = secrets.randbits(63)
        self.manual_seed(seed)
        return seed

    def words(self, count: int) -> np.ndarray:
        """The next 32-bit words, as uint64 (count,).

        Raises:
            RuntimeError: a CUDA graph is being captured, which would repeat them in each replay.
        """
        if capture.at_work() is not None:
            raise RuntimeError(
                "random numbers that are drawn in main memory would be the same in each replay of a CUDA graph; draw "
                "them before, and copy them into a tensor that the graph reads (the masks of dropout are drawn anew)"
            )
        return self._twister.random_raw(count)

    def words64(self, count: int) -> np.ndarray:
        """The next pairs of words, as uint64 (count,): the first word of a pair is the high half."""
        pairs = self.words(2 * count).reshape(count, 2)
        return pairs[:, 0] << np.uint64(32) | pairs[:, 1]

    def key(self) -> Any:
        """The key below 2^63 of a counter-based stream, which a GPU makes its masks of dropout from.

        While a CUDA graph is captured: int64 (1,) on the GPU, where a new one will stand in each replay.
        """
        captured = capture.at_work()
        return self._draw_key() if captured is None else captured.key(self._draw_key)

    def _draw_key(self) -> int:
        return int(self.words64(1)[0]) >> 1

    def uniform(self, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        """Uniform in [0, 1): the low 24 bits of a word times 2^-24; for float64 the low 53 of a pair times 2^-53."""
        values = np.empty(int(np.prod(shape)), dtype)
        draw, bits = (self.words64, 53) if values.dtype == np.float64 else (self.words, 24)
        for start in range(0, values.size, AT_ONCE):
            part = values[start : start + AT_ONCE]
            part[...] = (draw(part.size) & np.uint64(2**bits - 1)) * 2.0**-bits
        return values.reshape(shape)

    def normal(self, shape: Any, dtype: Any = np.float32, out: np.ndarray | None = None) -> np.ndarray:
        """Standard normal numbers, in memory of their own or in `out`, an array (n,) of the dtype.

        16 numbers or more: groups of 16 uniforms, 8 radii sqrt(-2 ln(1 - u)) and 8 angles 2 pi u; a last group that is
        not full is drawn again over the last 16 places. Fewer: one pair at a time in double precision, the second kept.
        """
        count = int(np.prod(shape))
        if count < 16:
            return np.array([self._one_normal() for _ in range(count)], dtype).reshape(shape)
        values = np.empty(count, dtype) if out is None else out
        for start in range(0, count, AT_ONCE):
            part = values[start : start + AT_ONCE]
            part[...] = self.uniform(part.size, dtype)
            whole = part.size - part.size % 16
            part[:whole] = _box_muller(part[:whole])
        if count % 16:
            values[-16:] = _box_muller(self.uniform(16, dtype))
        return values.reshape(shape)

    def _one_normal(self) -> float:
        if self._next_normal is not None:
            value, self._next_normal = self._next_normal, None
            return value
        angle, u = self.uniform(2, np.float64).tolist()
        radius = float(np.sqrt(-2.0 * np.log1p(-u)))
        self._next_normal = radius * float(np.sin(2.0 * np.pi * angle))
        return radius * float(np.cos(2.0 * np.pi * angle))

    def integers(self, low: int, high: int, shape: Any) -> np.ndarray:
        """Integers in [low, high) as int64: a word modulo the range (a pair of words from 2^32 on)."""
        count, span = int(np.prod(shape)), high - low
        words = self.words64(count) if span >= 2**32 else self.words(count)
        return ((words % np.uint64(span)).astype(np.int64) + low).reshape(shape)

    def permutation(self, n: int) -> np.ndarray:
        """A random order of 0..n-1, by swapping each place with a later one.

        Source: Durstenfeld, Algorithm 235: Random permutation (1964).
        """
        order = list(range(n))
        jumps = self.words(max(n - 1, 0)) % np.arange(n, 1, -1, dtype=np.uint64)
        for i, jump in enumerate(jumps.tolist()):
            order[i], order[i + jump] = order[i + jump], order[i]
        return np.array(order, dtype=np.int64)

    def keep_mask(self, shape: Any, p: float) -> np.ndarray:
        """A bool array for dropout: each element is True (kept) with probability 1 - p.

        Kept is where a float64 uniform is below 1 - p, as in PyTorch where it draws without MKL; inside `fast_masks`,
        where 16 random bits are at least 65,536 p.
        """
        count = int(np.prod(shape))
        if _fast_masks:
            return (_fast_bits(self.words64(3), count) >= round(p * 65536)).reshape(shape)
        keep = np.empty(count, bool)
        limit, low_bits = np.uint64(np.ceil((1 - p) * 2.0**53)), np.uint64(2**53 - 1)
        for start in range(0, count, AT_ONCE):
            part = keep[start : start + AT_ONCE]
            np.less(self.words64(part.size) & low_bits, limit, out=part)
        return keep.reshape(shape)

    def get_state(self) -> Tensor:
        """All that decides the numbers to come, as PyTorch lays it out: uint8 (5056,)."""
        twister = self._twister.state["state"]
        spare = self._next_normal
        state = STATE.pack(
            self._initial_seed % 2**64,
            max(1, 625 - twister["pos"]) if twister["pos"] < 624 else 1,
            1,
            twister["pos"] % 624,
            twister["key"].astype(np.uint64).tobytes(),
            spare or 0.0,
            spare is not None,
        )
        return _tensor(np.frombuffer(state, np.uint8).copy())

    def set_state(self, new_state: Tensor) -> Generator:
        """Go on from a state that get_state, or PyTorch's, returned.

        Raises:
            TypeError: not a tensor of bytes. RuntimeError: not of that length, or no state of a twister.
        """
        array = getattr(new_state, "array", None)
        if array is None or array.dtype != np.uint8:
            raise TypeError(f"expected a torch.ByteTensor that get_rng_state returned, but got {type(new_state)}")
        if array.nbytes != STATE.size:
            raise RuntimeError(f"expected a CPUGeneratorImplState of size {STATE.size} but found {array.nbytes} bytes")
        seed, left, seeded, place, words, spare, has_spare = STATE.unpack(array.tobytes())
        if not seeded or not 0 < left <= 624 or place > 624:
            raise RuntimeError(f"Invalid mt19937 state: {left} words left at place {place}")
        self.manual_seed(seed)
        key = np.frombuffer(words, np.uint64).astype(np.uint32)
        self._twister.state = {
            "bit_generator": "MT19937",
            "state": {"key": key, "pos": place if left > 1 else 624},
        }
        self._next_normal = spare if has_spare else None
        return self


# PyTorch's CPUGeneratorImplState: seed, words left, seeded, place of the next word, the words, x and the spare normal
# number, rho, whether there is a spare one, and a spare float that is no longer used.
STATE = struct.Struct("<QiiQ4992s8xd8x?15x")


def _tensor(array: np.ndarray) -> Tensor:
    from tinygrad_llm.autograd.tensor import wrap  # tensors draw from here, so they come later

    return wrap(array)


_fast_masks = False


@contextlib.contextmanager
def fast_masks(enabled: bool = True) -> Iterator[None]:
    """Inside, dropout draws its masks about ten times faster, from streams that PyTorch does not have.

    Masks are the bulk of what training draws. Each then comes from an SFC64 stream, seeded by six words of the default
    one: 16 random bits an element, which give p to within 1/65,536. `Trainer` trains so.
    """
    global _fast_masks
    before, _fast_masks = _fast_masks, enabled
    try:
        yield
    finally:
        _fast_masks = before


def _fast_bits(seeds: np.ndarray, count: int) -> np.ndarray:
    """Random uint16 (count,) from three words of 64 bits."""
    stream = np.random.SFC64(0)
    stream.state = {
        "bit_generator": "SFC64",
        "state": {"state": np.append(seeds, np.uint64(1))},
        "has_uint32": 0,
        "uinteger": 0,
    }
    stream.random_raw(12)  # until every bit of the seeds has reached every word
    return stream.random_raw(-(-count // 4)).view(np.uint16)[:count]


def _box_muller(uniforms: np.ndarray) -> np.ndarray:
    """Groups of 16 uniforms -> groups of 16 normals: (16 n,) -> (16 n,)."""
    groups = uniforms.reshape(-1, 2, 8)
    one, angle_scale, minus_two = (uniforms.dtype.type(v) for v in (1.0, 2.0 * np.pi, -2.0))
    radius = np.sqrt(minus_two * np.log(one - groups[:, 0]))
    angle = angle_scale * groups[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Start the default stream anew from a seed."""
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the default stream."""
    return default_generator.initial_seed()


def seed() -> int:
    """Start the default stream anew from a seed of the operating system, and return it."""
    return default_generator.seed()


def get_rng_state() -> Tensor:
    """The state of the default stream."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Put the default stream into a state that get_rng_state returned."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, device_type: str = "cuda") -> Iterator[None]:
    """Inside, draw as you like: afterwards the default stream goes on as if nothing had been drawn.

    devices and device_type name streams of GPUs, of which there are none: every device draws from the CPU's.
    """
    state = get_rng_state()
    try:
        yield
    finally:
        if enabled:
            set_rng_state(state)


def snapshot() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Remember where the default stream stands: `with again():` draws the numbers that come now once more.

    After the block the stream goes on as if nothing had been drawn in it.
    """
    state, fast = get_rng_state(), _fast_masks
    captured = capture.at_work()
    drawn = 0 if captured is None else len(captured.keys)

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        with fork_rng(), fast_masks(fast), contextlib.nullcontext() if captured is None else captured.again(drawn):
            set_rng_state(state)
            yield

    return again
