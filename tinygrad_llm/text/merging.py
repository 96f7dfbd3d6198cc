"""Byte-pair encoding of one piece, step by step: for study, and to find the merges that made a vocabulary.

tiktoken does the same, fast; a test holds the two together.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise


def merge_steps(
    piece: bytes, ranks: Mapping[bytes, int], below: int | None = None
) -> Iterator[tuple[list[bytes], tuple[bytes, bytes]]]:
    """Merge the neighbours whose union has the lowest rank wherever they stand, until no union has a rank.

    Yields the parts after each merge, and the pair that was merged. below: unions of this rank or a higher one are left
    alone.
    """
    parts = [piece[i : i + 1] for i in range(len(piece))]
    limit = 1 + max(ranks.values(), default=0) if below is None else below
    while True:
        lowest = min((ranks.get(left + right, limit) for left, right in pairwise(parts)), default=limit)
        if lowest >= limit:
            return
        merged: list[bytes] = []
        rest = iter(pairwise([*parts, b""]))
        for left, right in rest:
            if right and ranks.get(left + right) == lowest:
                pair = (left, right)
                merged.append(left + right)
                next(rest)  # the right half is used up
            else:
                merged.append(left)
        parts = merged
        yield parts, pair


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts that each token of more than one byte was merged from, in the order of the ranks.

    A token was learned when its parts stood side by side, so they are what the merges before it make of its bytes.

    Raises: ValueError naming a token that no merge makes.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        for after, _ in merge_steps(token, ranks, below=rank):
            parts = after
        if len(parts) != 2:
            raise ValueError(f"token {token!r} (id {rank}) cannot be merged from two tokens with lower ids")
        merges.append((parts[0], parts[1]))
    return merges
