"""Short stories drawn from a grammar whose exact entropy is known: a corpus that ships as a generator.

What no model can beat is the entropy of its text. For books nobody knows it; here it is computed, not sampled, and so
a training run can say how far its loss is from the floor. Three facts carry this:

- A story is made of draws, and the chain rule adds up their information: H(x1, x2, ..) = H(x1) + H(x2 | x1) + ...
  Who the hero is, is drawn once and costs ln 24 nats once; every later mention of the name is free for a reader who
  remembers. That is what a model has to learn here: to remember.
- The grammar is unambiguous: each text has one sequence of draws behind it (proven by `Grammar.check_prefix_code`), so
  the probability of the draws is the probability of the text, and no information hides in draws that leave no trace.
- Stories are independent, so a long text has H(story) / E[characters of a story] nats a character. A lossless
  tokenizer keeps the probability of the text: the floor in nats a token is -log_probability(text) / number of tokens.

The floor is that of a reader who sees each story from its beginning. A model whose window starts inside a story has
seen less and stays above it.

Source: Shannon, A Mathematical Theory of Communication (1948), section 6; Cover and Thomas, Elements of Information
Theory, chapter 2 (entropy, the chain rule) and section 4.2 (entropy rate).
"""

import math
from dataclasses import dataclass
from functools import cache
from random import Random

from tinygrad_llm.data.stories_engine import Grammar
from tinygrad_llm.data.stories_plots import PLOTS
from tinygrad_llm.data.stories_words import WORDS

__all__ = ["Entropy", "entropy", "generate", "grammar", "log_probability"]


@dataclass(frozen=True)
class Entropy:
    """H(story) in nats, E[characters] with the empty line that ends a story, and the first over the second."""

    nats_per_story: float
    characters_per_story: float
    nats_per_character: float


@cache
def grammar() -> Grammar:
    """The grammar of the stories, read once."""
    return Grammar(WORDS + PLOTS)


def generate(seed: int, characters: int) -> str:
    r"""Whole stories, each ended by "\n\n", until there are at least `characters` characters.

    The same for a seed everywhere: only `random.Random(seed).random()` is drawn from, whose numbers Python keeps
    from version to version. A longer text of the same seed begins with the shorter one.

    Raises: ValueError for a negative number.
    """
    if seed < 0 or characters < 0:
        raise ValueError(f"stories.generate: seed {seed} and characters {characters} must not be negative")
    uniform = Random(seed).random
    texts: list[str] = []
    missing = characters
    while missing > 0:
        text, _ = grammar().generate(uniform)
        texts.append(text)
        missing -= len(text)
    return "".join(texts)


def log_probability(text: str) -> float:
    """log p(text) in nats, the true one, for a text of whole stories: minus it is the floor of this very text.

    Raises: ValueError for a text that `generate` cannot write, naming the place.
    """
    return math.fsum(derivation.log_probability for derivation in grammar().parse(text))


@cache
def entropy() -> Entropy:
    """The exact entropy of the stories, by recursion over the grammar: nothing is sampled."""
    nats, characters = grammar().entropy()
    return Entropy(nats, characters, nats / characters)
