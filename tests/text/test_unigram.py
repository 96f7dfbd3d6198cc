import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.data.stories import generate
from tinygrad_llm.random import Generator
from tinygrad_llm.text import UnigramTokenizer
from tinygrad_llm.text import unigram_training as training
from tinygrad_llm.text.pipeline import Pipeline
from tinygrad_llm.text.unigram import BYTE_TOKENS, UNKNOWN_PENALTY
from tinygrad_llm.text.unigram_lattices import Lattices

PASSAGE = generate(seed=1, characters=20_000) + " Straße, naïve café — 中文字, Ελλάδα 😀😀 ## [MASK] don't 1984"
OWN = UnigramTokenizer.train([PASSAGE], 600)

PARTS = ["the", "The", "  ", "\n\n", "<unk>", "<s>", "<0x41>", "Ġ", "▁", "▁▁the", " ▁", "café", "中文", "ﬁ", "\r", "'s"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(PARTS)).map("".join)
# Hugging Face's Unicode tables are older than ours, so where ids must be the same there are no recent characters.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"])) | st.lists(st.sampled_from(PARTS)).map("".join)
WORDS = st.text("abc", min_size=1, max_size=7)
COUNTS = st.dictionaries(WORDS, st.integers(1, 9), min_size=1, max_size=8)
SCORES = st.integers(-20, -1).map(lambda i: i / 2)  # halves, so that sums are exact and ties common


@st.composite
def vocabularies(draw, alphabet="abc"):
    """Pieces with scores, each character of the alphabet among them."""
    pieces = draw(st.sets(st.text(alphabet, min_size=2, max_size=4), max_size=12)) | set(alphabet)
    return {piece: draw(SCORES) for piece in sorted(pieces)}


def plain(scores, **options):
    """A tokenizer with these pieces that takes a text for one word, and has no bytes."""
    return UnigramTokenizer(
        [("<unk>", 0.0), *scores.items()],
        ["<unk>"],
        Pipeline(None, None, {"type": "Fuse"}),
        byte_fallback=False,
        **options,
    )


def spellings(word, scores):
    """All ways to spell a word, each with its score: what the lattice must agree with."""
    if not word:
        return [((), 0.0)]
    return [
        ((word[:end], *rest), scores[word[:end]] + score)
        for end in range(1, len(word) + 1)
        if word[:end] in scores
        for rest, score in spellings(word[end:], scores)
    ]


@given(TEXTS)
def test_decode_inverts_encode(passage):
    ids = OWN.encode(passage, disallowed_special=())
    assert OWN.decode(ids) == passage
    assert not set(ids) & set(OWN.special_tokens.values())


@given(TEXTS.filter(len))
def test_one_trained_on_any_text_keeps_every_other(passage):
    tokenizer = UnigramTokenizer.train([passage], 400)
    for other in (passage, "Zürich, ▁中文 😀\n<0x41>"):
        assert tokenizer.decode(tokenizer.encode(other, disallowed_special=())) == other


@given(TEXTS, st.floats(0, 3), st.integers(0, 2**31))
def test_a_sampled_spelling_decodes_to_the_text(passage, alpha, seed):
    assert OWN.decode(OWN.sample(passage, alpha, Generator().manual_seed(seed))) == passage


@given(vocabularies(), WORDS)
def test_the_best_spelling_is_the_best_of_all(scores, word):
    tokenizer, ways = plain(scores), spellings(word, scores)
    ids = tokenizer.encode(word)
    found = tuple(tokenizer.pieces[i] for i in ids)
    top = max(score for _, score in ways)
    assert tokenizer.log_probability(ids) == top
    ties = [way for way, score in ways if score == top]
    assert found == max(ties, key=lambda way: [len(piece) for piece in way[::-1]])  # longest from the end


@given(vocabularies(), WORDS, st.integers(1, 5))
def test_the_n_best_spellings_are_the_n_best_of_all(scores, word, n):
    tokenizer, ways = plain(scores), dict(spellings(word, scores))
    found = tokenizer.nbest(word, n)
    assert [score for _, score in found] == sorted(ways.values(), reverse=True)[:n]
    named = [tuple(tokenizer.pieces[i] for i in ids) for ids, _ in found]
    assert len(set(named)) == len(named) and [ways[way] for way in named] == [score for _, score in found]


def test_the_n_best_of_a_text_of_many_words_begin_with_encode():
    found = OWN.nbest("The fox lived in a lighthouse.", 20)
    assert len(found) == 20 and found[0][0] == OWN.encode("The fox lived in a lighthouse.")
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    for ids, p in found:
        assert OWN.decode(ids) == "The fox lived in a lighthouse."
        assert math.isclose(p, OWN.log_probability(ids))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_sampled_frequencies_are_the_posterior(alpha):
    scores = {"a": -1.0, "b": -2.0, "ab": -2.5, "ba": -1.5, "aba": -4.0, "bab": -3.0}
    tokenizer, generator, draws = plain(scores), Generator().manual_seed(1), 4000
    ways = {way: math.exp(alpha * score) for way, score in spellings("ababab", scores)}
    total = sum(ways.values())
    seen = Counter(
        tuple(tokenizer.pieces[i] for i in tokenizer.sample("ababab", alpha, generator)) for _ in range(draws)
    )
    assert seen.keys() <= ways.keys()
    for way, weight in ways.items():
        p = weight / total
        assert abs(seen[way] / draws - p) < 4.5 * math.sqrt(p * (1 - p) / draws)


def test_the_same_generator_draws_the_same_spelling():
    first, second = (OWN.sample(PASSAGE[:200], 0.2, Generator().manual_seed(7)) for _ in range(2))
    assert first == second != OWN.encode(PASSAGE[:200])


def batch(words, scores):
    pieces = sorted(scores)
    lattices = Lattices(list(words), pieces, longest=4)
    return pieces, np.array([scores[p] for p in pieces]), lattices, np.array([*words.values()], float)


@given(vocabularies(), COUNTS)
def test_expected_counts_are_those_over_all_spellings(scores, words):
    pieces, values, lattices, counts = batch(words, scores)
    expected, likelihood = lattices.expected_counts(values, counts)
    wanted, total = Counter(), 0.0
    for word, times in words.items():
        ways = [(way, math.exp(score)) for way, score in spellings(word, scores)]
        z = sum(p for _, p in ways)
        total += times * math.log(z)
        for way, p in ways:
            for piece in way:
                wanted[piece] += times * p / z
    np.testing.assert_allclose(expected, [wanted[p] for p in pieces], rtol=1e-9, atol=1e-12)
    assert math.isclose(likelihood, total, rel_tol=1e-9)


@given(vocabularies(), COUNTS)
def test_the_best_paths_are_those_of_encode(scores, words):
    pieces, values, lattices, _ = batch(words, scores)
    paths = [[] for _ in words]
    for owners, chosen in lattices.best_paths(values):
        for owner, piece in zip(owners.tolist(), chosen.tolist(), strict=True):
            paths[owner].insert(0, pieces[piece])
    tokenizer = plain(scores)
    assert paths == [[tokenizer.pieces[i] for i in tokenizer.encode(word)] for word in words]


@given(vocabularies(), COUNTS, st.data())
def test_dropping_pieces_is_as_if_they_had_never_been(scores, words, data):
    pieces, values, lattices, counts = batch(words, scores)
    kept = np.array([len(p) == 1 or data.draw(st.booleans()) for p in pieces])
    lattices.keep(kept)
    fewer = {p: s for p, s, k in zip(pieces, values.tolist(), kept, strict=True) if k}
    _, others, alike, _ = batch(words, fewer)
    np.testing.assert_allclose(
        lattices.expected_counts(values, counts)[0][kept], alike.expected_counts(others, counts)[0], atol=1e-12
    )


@given(vocabularies(), COUNTS)
def test_em_never_lowers_the_likelihood(scores, words):
    _, values, lattices, counts = batch(words, scores)
    values, before = values - np.logaddexp.reduce(values), -math.inf  # probabilities, which the pieces here are not yet
    for _ in range(6):
        expected, likelihood = lattices.expected_counts(values, counts)
        assert likelihood >= before - 1e-9
        values, before = training.maximise(expected, bayesian=False), likelihood
        assert math.isclose(np.exp(values).sum(), 1.0)


@given(st.floats(1e-3, 1e6))
def test_digamma_obeys_its_recurrence(x):
    assert math.isclose(training.digamma(x + 1), training.digamma(x) + 1 / x, rel_tol=1e-10, abs_tol=1e-10)


def test_digamma_at_one_and_far_out():
    assert math.isclose(training.digamma(1.0), -0.5772156649015329, rel_tol=1e-10)
    assert math.isclose(training.digamma(1e9), math.log(1e9) - 0.5e-9, rel_tol=1e-12)


@given(COUNTS, st.integers(2, 6), st.integers(1, 40))
def test_seeds_are_the_substrings_that_repeat(words, longest, most):
    counts = Counter()
    for word, times in words.items():
        for start, end in itertools.combinations(range(len(word) + 1), 2):
            if 2 <= end - start <= longest:
                counts[word[start:end]] += times
    wanted = {piece: times * len(piece) for piece, times in counts.items() if times >= 2}
    best = sorted(wanted, key=lambda piece: (-wanted[piece], piece))
    found = training.seed_pieces(list(words), np.array([*words.values()], float), longest, most)
    assert found == {piece: wanted[piece] for piece in best[:most]}
    assert best[0] not in training.seed_pieces(list(words), np.ones(len(words)), 6, most, {best[0]}) if best else True


@given(vocabularies(), COUNTS)
def test_the_loss_is_what_the_likelihood_loses(scores, words):
    pieces, values, lattices, counts = batch(words, scores)
    tokenizer = plain(scores)
    seen = Counter()
    for word, times in words.items():
        for i in tokenizer.encode(word):
            seen[tokenizer.pieces[i]] += times
    total = sum(seen.values())
    itself = Lattices(pieces, pieces, 4).without_whole()
    found = training.losses(lattices, itself, values, counts)
    for piece, loss in zip(pieces, found.tolist(), strict=True):
        if len(piece) == 1:
            assert loss == math.inf
            continue
        if not seen[piece]:
            assert loss == 0
            continue
        rest = plain({p: s for p, s in scores.items() if p != piece})
        instead = [rest.pieces[i] for i in rest.encode(piece)]
        after = sum(math.log((seen[p] + seen[piece]) / (total + seen[piece] * (len(instead) - 1))) for p in instead)
        assert math.isclose(loss, seen[piece] * (math.log(seen[piece] / total) - after), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("size", [320, 340, 400, 500])
def test_pruning_reaches_the_size_and_keeps_characters_and_bytes(size):
    tokenizer = UnigramTokenizer.train([PASSAGE], size, coverage=0.99, keep=0.6)
    assert tokenizer.vocab_size == size
    assert set(BYTE_TOKENS) <= set(tokenizer.pieces)
    assert set(training.frequent_characters(Counter(PASSAGE), 0.99)) <= set(tokenizer.pieces)


@given(st.text("abcdé", min_size=1), st.floats(0.1, 1))
def test_characters_cover_the_share_asked_for_and_no_more(passage, coverage):
    kept = training.frequent_characters(Counter(passage), coverage)
    assert sum(kept.values()) >= coverage * len(passage) - 1e-9
    assert sum(kept.values()) - min(kept.values()) < coverage * len(passage)


def test_words_are_cut_at_unknown_characters_and_where_they_are_too_long():
    runs = training.runs_of({"aéb": 2, "b": 1, "a" * 100: 1}, {"a": 1, "b": 1}, 10)
    assert runs == {"a": 2, "b": 3, "a" * 48: 2, "a" * 4: 1}


def test_training_finds_the_words_of_a_text():
    pieces = set(OWN.pieces)
    assert {" the", " and", " lived"} <= pieces
    assert len(OWN.encode(PASSAGE)) < 0.5 * len(PASSAGE)


def test_save_and_load_give_the_same_tokenizer(tmp_path):
    OWN.save(tmp_path / "tokenizer.json")
    loaded = text.load(tmp_path / "tokenizer.json")
    assert isinstance(loaded, UnigramTokenizer)
    assert loaded.to_dict() == OWN.to_dict() and loaded.scores == OWN.scores
    OWN.save_huggingface(tmp_path / "theirs.json")
    fields = json.loads((tmp_path / "theirs.json").read_bytes())
    assert UnigramTokenizer.from_huggingface(fields).to_dict() == OWN.to_dict()


def huggingface(tokenizer):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_huggingface()))
    theirs.encode_special_tokens = True  # special tokens in a text are ordinary text
    return theirs


@given(ASSIGNED)
def test_hugging_face_reads_ours_and_finds_the_same_ids(passage):
    theirs = huggingface(OWN)
    ids = theirs.encode(passage, add_special_tokens=False).ids
    assert ids == OWN.encode(passage, disallowed_special=())
    assert theirs.decode(ids, skip_special_tokens=False) == passage


METASPACE = [
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    for scheme in ("always", "never")
    for split in (True, False)
]
LLAMA = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]
NORMALIZERS = [None, {"type": "NFKC"}, {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}]


@given(
    vocabularies("ab▁é"),
    st.sampled_from(METASPACE),
    st.sampled_from([None, {"type": "Sequence", "decoders": LLAMA}]),
    st.sampled_from(NORMALIZERS),
    st.booleans(),
    st.text("ab ▁éz中 <0x41>A")
    | st.lists(st.sampled_from(["ab", " ", "▁", "<s>", "<unk>", "<0x41>", "zz"])).map("".join),
    st.data(),
)
def test_a_file_from_hugging_face_gives_the_same_ids_and_text(
    scores, words, decoder, normalizer, fallback, passage, data
):
    tokenizers = pytest.importorskip("tokenizers")
    names = ["<unk>", "<s>"]
    bytes_ = [(token, -3.0) for token in BYTE_TOKENS]
    model = {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [*((name, 0.0) for name in names), *bytes_, *scores.items()],
        "byte_fallback": fallback,
    }
    fields = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, name in enumerate(names)],
        "normalizer": normalizer,
        "pre_tokenizer": words,
        "decoder": decoder or {k: v for k, v in words.items() if k != "split"},
        "model": model,
    }  # fmt: skip
    theirs = tokenizers.Tokenizer.from_str(json.dumps(fields))
    ours = UnigramTokenizer.from_huggingface(json.loads(json.dumps(fields)))
    ids = theirs.encode(passage, add_special_tokens=False).ids
    assert ours.encode(passage, allowed_special="all") == ids
    again = json.loads(json.dumps(ours.to_huggingface()))
    assert UnigramTokenizer.from_huggingface(again).encode(passage, allowed_special="all") == ids
    few = [0, 1, 2 + 0x20, 2 + 0x41, 2 + 0xC3, 2 + 0xA9, *range(258, ours.vocab_size)]
    some = data.draw(st.lists(st.sampled_from(few), max_size=12))
    for each in (ids, some):
        assert ours.decode(each) == theirs.decode(each, skip_special_tokens=False)


def test_a_file_that_hugging_faces_library_trained():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.SentencePieceUnigramTokenizer()
    theirs.normalizer = None  # it holds regular expressions, which are refused here
    theirs.train_from_iterator([PASSAGE], 300, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    ours = UnigramTokenizer.from_huggingface(json.loads(theirs.to_str()))
    assert ours.encode(PASSAGE) == theirs.encode(PASSAGE, add_special_tokens=False).ids


def test_no_word_is_spelled_with_a_special_token():
    scores = {"<": -1.0, "s": -1.0, ">": -1.0, "<s>": 0.0}
    tokenizer = UnigramTokenizer([*scores.items()], ["<s>"], Pipeline(), unknown=None)
    assert tokenizer.encode("<s>", disallowed_special=()) == [0, 1, 2]
    assert tokenizer.encode("<s>", allowed_special="all") == [3]


def test_an_unknown_character_costs_more_than_any_piece():
    tokenizer = plain({"a": -1.0, "b": -7.0})
    assert tokenizer.encode("azzzb") == [tokenizer.ids["a"], tokenizer.ids["<unk>"], tokenizer.ids["b"]]
    assert tokenizer._unknown_score == -7.0 - UNKNOWN_PENALTY


def test_without_an_unknown_piece_a_character_that_cannot_be_spelled_is_named():
    tokenizer = UnigramTokenizer([("a", -1.0)], [], Pipeline(), unknown=None)
    with pytest.raises(ValueError, match="no pieces spell 'zz', and there is no unknown piece"):
        tokenizer.encode("azza")


def test_a_very_long_word_is_spelled():
    assert OWN.decode(OWN.encode("a" * 20_000)) == "a" * 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 261}, "there is room for 2 pieces beside special tokens and bytes, and 3 characters"),
        ({"special_tokens": ["<s>"]}, 'special_tokens must have "<unk>"'),
        ({"special_tokens": ["<unk>", "<0x0A>"]}, "'<0x0A>' cannot be a special token"),
        ({"coverage": 0.0}, "coverage 0.0 must be in"),
        ({"keep": 1.0}, "keep 1.0 must be in"),
        ({"rounds": 0}, "rounds 0"),
    ],
)
def test_a_training_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UnigramTokenizer.train(["abc"], **{"vocab_size": 300, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OWN.sample("a", -1.0), "alpha -1.0 must be at least 0"),
        (lambda: OWN.sample("a", math.nan), "alpha nan must be at least 0"),
        (lambda: OWN.nbest("a", 0), "n 0 must be at least 1"),
        (lambda: OWN.encode("a\ud800"), "at position 1 is half of a surrogate pair"),
        (lambda: OWN.log_probability([600]), r"id 600 at position 0 is outside \[0, 600\)"),
    ],
)
def test_arguments_that_are_none_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def changed(**changes):
    """The file of a small tokenizer with other fields; a key "model_x" is a field of its model."""
    fields = plain({"a": -1.0, "b": -2.0}).to_huggingface()
    for key, value in changes.items():
        target = fields["model"] if key.startswith("model_") else fields
        target[key.removeprefix("model_")] = value
    return fields


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": None}, '"version" must be "1.0"'),
        ({"model": None}, '"model" may not be None'),
        ({"model_type": "WordPiece"}, "the model is 'WordPiece', not Unigram"),
        ({"model_vocab": {"a": 1}}, '"vocab" may not be'),
        ({"model_vocab": [["a"]]}, r"a piece and its score, found \['a'\]"),
        ({"model_vocab": [["a", True]]}, r"found \['a', True\]"),
        ({"model_vocab": [["<unk>", 0], ["a", -1], ["a", -2]]}, "'a' stands more than once"),
        ({"model_vocab": [["<unk>", 0], ["a", math.nan]]}, "each score must lie between"),
        ({"model_vocab": [["<unk>", 0], ["a", -math.inf]]}, "each score must lie between"),
        ({"model_vocab": [["<unk>", 0], ["a", 10**400]]}, "each score must lie between"),
        ({"model_unk_id": 3}, '"unk_id" 3 is outside the vocabulary of 3 pieces'),
        ({"model_unk_id": True}, '"unk_id" may not be True'),
        ({"model_byte_fallback": "yes"}, "\"byte_fallback\" may not be 'yes'"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "normalizer 'Precompiled' is not"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}}, "may not be longer"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 101}}, "has 101 steps, more than 100"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "__"}}, '"replacement" must be one character'),
        ({"pre_tokenizer": {**METASPACE[0], "prepend_scheme": "first"}}, "\"prepend_scheme\" 'first' is not supported"),
        ({"decoder": {"type": "Strip", "content": " ", "start": 10**9, "stop": 0}}, "Strip: content ' ', start 1000"),
        ({"decoder": {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": []}]}}, "'Sequence' is not"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path, changes, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"tokenizer": "unigram", "huggingface": changed(**changes)}))
    with pytest.raises(ValueError, match=message):
        text.load(path)


def test_build_makes_the_default_kind():
    assert isinstance(text.build("unigram", PASSAGE), UnigramTokenizer)
