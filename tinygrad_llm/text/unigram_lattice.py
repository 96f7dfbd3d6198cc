"""One word and every way to spell it with pieces: the best, the n best, the sum of all, and one drawn at random.

The ways are the paths of a lattice from place 0 to place T of a word with T characters; each piece that stands in it is
an edge (start, id, score) to the place where it ends. `unigram_training` does the same for many words at once.
"""

import heapq
import math
from collections.abc import Callable

Edge = tuple[int, int, float]  # start, id, score (log-probability)
Lattice = list[list[Edge]]  # the edges that end at each place 0..T, those that start first first


def lattice(
    word: str, ids: dict[str, int], scores: list[float], longest: int, unknown: int, unknown_score: float
) -> Lattice:
    """The lattice of a word; a character that is no piece is an edge of its own, the unknown one."""
    ends: Lattice = [[] for _ in range(len(word) + 1)]
    for start in range(len(word)):
        for end in range(start + 1, min(len(word), start + longest) + 1):
            i = ids.get(word[start:end])
            if i is not None:
                ends[end].append((start, i, scores[i]))
            elif end == start + 1:
                ends[end].append((start, unknown, unknown_score))
    return ends


def best(ends: Lattice) -> list[Edge]:
    """The path with the highest sum of scores. Of equal ones the one whose last piece starts first, and so on back."""
    total, back = [0.0], [(0, 0, 0.0)]
    for edges in ends[1:]:
        top, choice = -math.inf, edges[0]
        for edge in edges:
            value = total[edge[0]] + edge[2]
            if value > top:
                top, choice = value, edge
        total.append(top)
        back.append(choice)
    return _path(len(ends) - 1, lambda end: back[end])


def _path(end: int, last: Callable[[int], Edge]) -> list[Edge]:
    """The path to a place, from a function that says which edge comes last on the way to each."""
    path = []
    while end:
        edge = last(end)
        path.append(edge)
        end = edge[0]
    return path[::-1]


def n_best(ends: Lattice, n: int) -> list[tuple[float, list[Edge]]]:
    """The n paths with the highest sums, highest first, and these sums. Fewer where there are fewer."""
    ways: list[list[tuple[float, list[Edge]]]] = [[(0.0, [])]]
    for edges in ends[1:]:
        longer = [(total + edge[2], [*path, edge]) for edge in edges for total, path in ways[edge[0]]]
        ways.append(heapq.nlargest(n, longer, key=lambda way: way[0]))
    return ways[-1]


def sums(ends: Lattice, alpha: float = 1.0) -> list[float]:
    """log sum over the paths to each place of exp(alpha * score of the path): the forward pass, (T + 1,)."""
    total = [0.0]
    for edges in ends[1:]:
        values = [total[start] + alpha * score for start, _, score in edges]
        top = max(values)
        total.append(top + math.log(sum(math.exp(value - top) for value in values)))
    return total


def draw(ends: Lattice, alpha: float, uniform: Callable[[], float]) -> list[Edge]:
    """A path, drawn with probability proportional to exp(alpha * its score): forward sums, then edges drawn backwards.

    The last edge of a path to a place is `edge` with probability exp(sums[start] + alpha score - sums[place]).
    """
    total = sums(ends, alpha)

    def last(end: int) -> Edge:
        left = uniform()
        for edge in ends[end]:
            left -= math.exp(total[edge[0]] + alpha * edge[2] - total[end])
            if left < 0:
                return edge
        return ends[end][-1]  # what rounding left over

    return _path(len(ends) - 1, last)
