import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import ExactDuplicates, NearDuplicates, stories
from tinygrad_llm.data.deduplicate import CHUNK, MinHash, band_rows, gram_hashes, normalised

LETTERS = st.text(alphabet="abc dé", max_size=40)


def judged(step, texts):
    """The findings for texts, by index."""
    judge = step.start()
    return {i: found for i, text in enumerate(texts) if (found := judge(i, text)) is not None}


def grams(text, n):
    text = normalised(text)
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} if text else set()


@given(st.lists(LETTERS, max_size=20))
def test_exactly_the_texts_that_were_there_before_are_found(texts):
    found = judged(ExactDuplicates(), texts)
    for i, text in enumerate(texts):
        earlier = [normalised(t) for t in texts[:i]]
        assert (i in found) == (normalised(text) in earlier)
        if i in found:
            assert found[i].reason == f"the text of document {earlier.index(normalised(text))}"


@pytest.mark.parametrize("same", ["A  tale\n", "a\ttale", "A TALE", " a tale"])
def test_case_and_white_space_do_not_count(same):
    assert judged(ExactDuplicates(), ["A tale", same]) and judged(NearDuplicates(), ["A tale", same])


def test_accents_written_in_two_ways_are_the_same():
    assert judged(ExactDuplicates(), ["caf\u00e9", "cafe\u0301"])
    assert not judged(ExactDuplicates(), ["caf\u00e9", "cafe"])


@given(LETTERS, st.integers(1, 9))
def test_there_is_a_hash_for_each_different_gram(text, n):
    assert len(gram_hashes(normalised(text), n)) == len(grams(text, n))


@given(LETTERS, LETTERS, st.integers(1, 5))
def test_two_texts_share_the_hashes_of_the_grams_they_share(a, b, n):
    if min(len(normalised(a)), len(normalised(b))) >= n:
        both = np.intersect1d(gram_hashes(normalised(a), n), gram_hashes(normalised(b), n))
        assert len(both) == len(grams(a, n) & grams(b, n))


def changed(text, words, seed):
    """The text with so many of its words replaced."""
    rng, parts = random.Random(seed), text.split()
    for place in rng.sample(range(len(parts)), words):
        parts[place] = f"word{rng.randrange(10**6)}"
    return " ".join(parts)


@pytest.mark.parametrize("words", [0, 2, 10, 40, 150])
def test_signatures_agree_as_often_as_texts_share_grams(words):
    text = stories.generate(3, 3000)
    other = changed(text, words, 1)
    a, b = grams(text, 8), grams(other, 8)
    jaccard, p = len(a & b) / len(a | b), 4096
    signature = MinHash(8, p)
    estimate = (signature(text) == signature(other)).mean()
    assert abs(estimate - jaccard) <= 5 * (jaccard * (1 - jaccard) / p) ** 0.5


def test_a_signature_does_not_depend_on_how_it_is_computed_in_pieces():
    text = "".join(random.Random(0).choices("abcdefghij", k=2 * CHUNK + 100))
    m = MinHash(8, 4)
    h = gram_hashes(text, 8)
    assert len(h) > CHUNK
    assert (m(text) == (m.a * h + m.b).min(axis=1)).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_nearly_all_pairs_at_the_threshold(threshold):
    r = band_rows(threshold, 128)
    assert 1 - (1 - threshold**r) ** (128 // r) >= 0.99
    if threshold < 1:
        assert 1 - (1 - threshold ** (r + 1)) ** (128 // (r + 1)) < 0.99


def test_near_ones_are_found_among_many_and_others_stay():
    tales = [tale for tale in stories.generate(5, 120_000).split("\n\n") if len(tale) > 250][:150]
    copies = [changed(tale, 1, i) for i, tale in enumerate(tales[:40])]
    found = judged(NearDuplicates(threshold=0.7), [*tales, *copies])
    assert not [i for i in found if i < 150]
    assert len(found) >= 38
    for i, finding in found.items():
        assert finding.reason == f"near document {i - 150}" and finding.measure >= 0.7


def test_an_empty_text_is_near_empty_ones_alone():
    assert list(judged(NearDuplicates(), ["", "abc", " ", "abd"])) == [2]


def test_the_seed_decides():
    a, b = (MinHash(8, 64, seed)("a text of some length") for seed in (0, 1))
    assert (a != b).any() and (a == MinHash(8, 64, 0)("a text of some length")).all()


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 1.5}, {"n": 0}, {"permutations": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must lie in"):
        NearDuplicates(**options)
